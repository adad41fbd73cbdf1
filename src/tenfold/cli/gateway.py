"""``tenfold gateway``: run a gateway, judge its configuration, or talk to one that runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from tenfold.gateway.config import Config, Pool, Route

app = App(name="gateway", help="A reverse proxy with an HTTP cache, configured by a TOML file.")

# Those that talk to a gateway that runs; import strings, so that `check` does not load them.
app.command("tenfold.cli._gateway_admin:status", name="status", help="Show a running gateway.")
app.command("tenfold.cli._gateway_admin:endpoint", name="endpoint", help="Show, weigh, drain or resume an endpoint.")
app.command("tenfold.cli._gateway_admin:purge", name="purge", help="Forget cached responses: by URL, by tag, all.")
app.command("tenfold.cli._gateway_admin:explain", name="explain", help="Say what would become of a request.")
app.command("tenfold.cli._gateway_admin:drain", name="drain", help="Drain a running gateway and end it.")


@app.default
@app.command
def run(file: Path, *, engine: Literal["embedded", "haproxy"] | None = None) -> int:
    """Run a gateway until it gets SIGTERM or SIGINT, which drain it.

    The file is read again when it changes, and at SIGHUP; one that is wrong is told and changes nothing. SIGUSR1 begins
    the access log's file anew, for logrotate. SIGUSR2 starts another gateway by the same command, for new code or
    settings that need a restart: it gets the sockets, and once it serves this one drains; if it does not, this one goes
    on. Sockets that systemd listens on are taken over in the same way.

    Exit code 0: all requests were answered; 1: some were cut at the end of the drain, or it could not start; 2: the
    configuration cannot be run.

    Parameters
    ----------
    file
        The TOML file.
    engine
        Run it on this engine, whatever the file says.
    """
    for early in ("SIGHUP", "SIGUSR1", "SIGUSR2"):  # there is nothing to reload yet, and it is no reason to die
        if hasattr(signal, early):
            signal.signal(getattr(signal, early), signal.SIG_IGN)
    from tenfold.cli._gateway_run import run as serve
    from tenfold.gateway.config import GatewayConfigError

    try:
        return serve(file, engine)
    except GatewayConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2


@app.command
def check(
    file: Path,
    *,
    engine: Literal["embedded", "haproxy"] | None = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Judge a configuration without running it.

    Exit code 0: it can be run; a summary says what it is. 2: it cannot, and every problem is told with its line.

    Parameters
    ----------
    file
        The TOML file.
    engine
        Judge it for this engine, whatever the file says.
    strict
        Take warnings for problems.
    json
        Print one JSON object: problems, warnings and the configuration without its secrets.
    """
    import msgspec

    from tenfold.gateway.config import GatewayConfigError, Problem, load_config

    try:
        config = load_config(file, engine=engine)
        if config.engine.name == "haproxy":
            from tenfold.gateway.haproxy.judge import judge

            refused = judge(config)
            if refused:
                raise GatewayConfigError([Problem(str(file), 1, "", refused)])
    except GatewayConfigError as error:
        if json:
            print(msgspec.json.encode({"ok": False, "problems": error.found, "warnings": []}).decode())
        else:
            print("\n".join(error.problems), file=sys.stderr)
            count = len(error.problems)
            print(f"tenfold: {count} problem{'s' if count > 1 else ''}; nothing was run", file=sys.stderr)
        return 2
    bad = strict and bool(config.warnings)
    if json:
        told = {"ok": not bad, "problems": [], "warnings": config.warnings, "config": config.document()}
        print(msgspec.json.encode(told).decode())
    else:
        for warning in config.warnings:
            print(f"{warning} (warning)", file=sys.stderr)
        print(_summary(config))
    return 2 if bad else 0


def _summary(config: Config) -> str:
    gateway = config.gateway
    scheme = "https" if gateway.tls else "http"
    head = [
        f"engine   {config.engine.name}, processes: {gateway.processes}",
        f"listen   {', '.join(map(str, gateway.listen))} ({scheme})",
        f"admin    {config.admin.listen if config.admin else 'none'}",
    ]
    pools = [("pool", "pick", "endpoints", "check")] + [_pool(each) for each in config.pools]
    routes = [("route", "for", "to", "with")] + [_route(each) for each in config.routes]
    return "\n".join([*head, "", *_table(routes), *(["", *_table(pools)] if config.pools else [])])


def _pool(pool: Pool) -> tuple[str, ...]:
    where = str(pool.discovery) if pool.discovery else ", ".join(each.url for each in pool.endpoints)
    kind = type(pool.check).__name__.removesuffix("Check").lower() if pool.check else "none"
    return pool.name, str(pool.pick), f"{len(pool.endpoints)}: {where}" if pool.endpoints else where, kind


def _route(route: Route) -> tuple[str, ...]:
    path = route.path if route.exact else f"{route.path.rstrip('/')}/…"
    asked = " ".join(
        [*route.methods, ",".join(route.host) + path, *(f"{name}={v}" for name, v in route.headers.items())]
    )
    if route.pool is not None:
        to = f"pool {route.pool}" + (f", canary {route.canary.pool} {route.canary.weight:.3g}" if route.canary else "")
    elif route.redirect is not None:
        to = f"redirect {route.redirect.status} {route.redirect.to}"
    else:
        to = f"answer {route.respond.status if route.respond else ''}"
    parts = ("edge", "retries", "deadline", "rate_limit", "adaptive")
    return route.name, asked, to, ", ".join(each for each in parts if getattr(route, each) is not None)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
