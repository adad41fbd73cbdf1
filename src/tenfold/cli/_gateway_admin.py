"""``tenfold gateway status``, ``endpoint``, ``purge``, ``explain``, ``drain``: talk to a gateway that runs."""

from __future__ import annotations

import json as to_json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from cyclopts import Parameter

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration
from tenfold.cli._gateway_client import AdminClient, client_of

File = Annotated[Path | None, Parameter(name="--config", env_var="TENFOLD_GATEWAY_CONFIG")]
Url = Annotated[str | None, Parameter(name="--url", env_var="TENFOLD_GATEWAY_URL")]
Token = Annotated[str | None, Parameter(name="--token", env_var="TENFOLD_GATEWAY_TOKEN")]
Json = Annotated[bool, Parameter(name="--json", negative="")]
_HEADS: Final = ("pool", "endpoint", "state", "ready", "weight", "in flight", "requests", "failures", "url", "")


def status(*, config: File = None, url: Url = None, token: Token = None, json: Json = False) -> int:
    """Show a running gateway: its pools and endpoints, and what it has counted.

    Exit code 0: every pool has an endpoint that may be given work; 1: one has none.

    Parameters
    ----------
    config
        The gateway's TOML file, for the address and the token of its [admin]; default: gateway.toml here.
    url
        The address of the admin API, such as http://127.0.0.1:8081 or unix:/run/admin.sock.
    token
        Its token; better in the environment than on the command line, where other users see it.
    json
        Print one JSON object.
    """
    told = client_of(config, url, token).ask("GET", "/v1/state")
    pools = told["pools"]
    if json:
        print(to_json.dumps(told, indent=2))
    else:
        counters = told["counters"]
        draining = ", draining" if told["draining"] else ""
        print(f"workers {told['workers']}{draining}; clients {told['clients']}")
        names = ("requests", "in_flight", "retries", "own_answers", "late", "cut")
        print(", ".join(f"{name} {counters[name]:,}" for name in names if name in counters))
        rows: list[tuple[str, ...]] = [_HEADS]
        rows += [_row(name, each) for name, pool in pools.items() for each in pool["endpoints"]]
        print("\n".join(["", *_table(rows)]))
    return 0 if all(any(each["ready"] for each in pool["endpoints"]) for pool in pools.values()) else 1


def _row(pool: str, endpoint: dict[str, Any]) -> tuple[str, ...]:
    why = endpoint["why"] + (" (workers differ)" if "workers" in endpoint else "")
    numbers = (f"{endpoint['in_flight']:,}", f"{endpoint['requests']:,}", f"{endpoint['failures']:,}")
    ready = "yes" if endpoint["ready"] else "no"
    return pool, endpoint["id"], endpoint["state"], ready, f"{endpoint['weight']:g}", *numbers, endpoint["url"], why


def endpoint(
    pool: str,
    id: str,
    *,
    weight: str | None = None,
    state: Literal["ready", "drain", "maint"] | None = None,
    wait: str | None = None,
    config: File = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> int:
    """Show an endpoint, give it another weight, drain it, or take it back. It lasts until it is changed again.

    Exit code 1: with --wait, requests were still under way at the end.

    Parameters
    ----------
    pool
        The name of its pool.
    id
        Its id, as `status` shows it.
    weight
        Its weight from now on; "declared" for the one of the file.
    state
        ready, drain (no new requests) or maint (and its idle connections are closed).
    wait
        Wait until nothing is under way there, for so long at most, such as "30s".
    config
        The gateway's TOML file; default: gateway.toml here.
    url
        The address of the admin API.
    token
        Its token.
    json
        Print one JSON object.
    """
    client = client_of(config, url, token)
    path = f"/v1/pools/{quote(pool, safe='')}/endpoints/{quote(id, safe='')}"
    change: dict[str, Any] = {}
    if weight is not None:
        change["weight"] = None if weight == "declared" else _number(weight)
    if state is not None:
        change["state"] = state
    told = client.ask("PATCH", path, change) if change else client.ask("GET", path)
    idle = True
    if wait is not None:
        told, idle = _waited(client, path, duration(wait, "wait"))
    if json:
        print(to_json.dumps(told, indent=2))
    else:
        print("\n".join(_table([_HEADS, _row(pool, told)])))
    return 0 if idle else 1


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MisuseError(f'weight: expected a number such as 2 or "declared", got {text!r}') from None


def _waited(client: AdminClient, path: str, seconds: float) -> tuple[dict[str, Any], bool]:
    until = time.monotonic() + seconds
    while (told := client.ask("GET", path))["in_flight"] and time.monotonic() < until:
        time.sleep(0.2)
    return told, not told["in_flight"]


def purge(
    *address: str,
    tag: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    all: Annotated[bool, Parameter(name="--all", negative="")] = False,
    config: File = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Forget cached responses: those of addresses, those with a tag, or all.

    Parameters
    ----------
    address
        The addresses of responses, as clients ask for them: http://shop.example/products/7.
    tag
        A tag (Surrogate-Key); may be given several times.
    all
        Everything.
    config
        The gateway's TOML file; default: gateway.toml here.
    url
        The address of the admin API.
    token
        Its token.
    json
        Print one JSON object.
    """
    if all and (address or tag):
        raise MisuseError("purge: expected --all or addresses and tags, got both; --all has them all")
    asked: list[dict[str, Any]] = [{"url": each} for each in address]
    asked += [{"tags": list(tag)}] if tag else []
    asked += [{"all": True}] if all else []
    if not asked:
        raise MisuseError("purge: expected addresses, --tag or --all, got nothing")
    client = client_of(config, url, token)
    purged = sum(client.ask("POST", "/v1/purge", each)["purged"] for each in asked)
    print(to_json.dumps({"purged": purged}) if json else f"purged {purged:,} responses")


def explain(
    address: str,
    *,
    method: str = "GET",
    header: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    config: File = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Say what would become of a request: its route, its pool, and its endpoints in the order of preference.

    Parameters
    ----------
    address
        What is asked for: http://shop.example/products/7.
    method
        How.
    header
        A header such as "X-User: 7"; may be given several times.
    config
        The gateway's TOML file; default: gateway.toml here.
    url
        The address of the admin API.
    token
        Its token.
    json
        Print one JSON object.
    """
    headers = {}
    for each in header:
        name, colon, value = each.partition(":")
        if not colon:
            raise MisuseError(f'header: expected a name, a colon and a value such as "X-User: 7", got {each!r}')
        headers[name.strip()] = value.strip()
    asked = {"method": method, "url": address, "headers": headers}
    told = client_of(config, url, token).ask("POST", "/v1/explain", asked)
    if json:
        print(to_json.dumps(told, indent=2))
        return
    print(f"{told['method']} {told['host']}{told['target']}")
    print(f"  route {told['route'] or 'none'}")
    if "answer" in told:
        print(f"  answered {told['answer']}: {told['because']}")
        return
    print(f"  pool {told['pool']}: {told['because']}; pick {told['pick']}; edge {'yes' if told['edge'] else 'no'}")
    rows = [("  endpoint", "score", "because")]
    for each in told["endpoints"]:
        score = "-" if each["score"] is None else f"{each['score']:.4g}"
        rows.append((f"  {each['endpoint']}", score, each["because"]))
    print("\n".join(_table(rows)))


def drain(*, config: File = None, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Tell the gateway to take no more connections, to end the requests under way, and to stop.

    Parameters
    ----------
    config
        The gateway's TOML file; default: gateway.toml here.
    url
        The address of the admin API.
    token
        Its token.
    json
        Print one JSON object.
    """
    told = client_of(config, url, token).ask("POST", "/v1/drain")
    print(to_json.dumps(told) if json else "the gateway drains")


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
