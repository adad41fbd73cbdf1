"""The numbers of the pages about balancing in `docs/concepts/`: `make bench NAME=balance_pages`.

All but ``picks`` and ``drain`` come from fixed seeds and are the same on every machine. `draw.py` beside the pictures
makes the table of `choosing-a-policy.md`, and a test compares it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2

from bench import _balance_picks
from tenfold.balance import (
    BalancedTransport,
    Balancer,
    Endpoint,
    Maglev,
    Member,
    Pick,
    Rendezvous,
    Request,
    RingHash,
)
from tenfold.resilience import Budget
from tenfold.simulate import Scenario, from_dict, load, simulate
from tenfold.simulate.scenario import changed
from tenfold.testing import FakeClock

Table = dict[str, Any]
ZONES = "docs/how-to/scenarios/zone-loss.toml"


def measure(quick: bool) -> Table:
    """All of them; ``quick`` shortens what runs live."""
    return {
        "slow_server": slow_server(),
        "disruption": disruption(),
        "maglev_tables": maglev_tables(),
        "detection": detection(),
        "panic": panic(),
        "zone_loss": zone_loss(),
        "budget": budget(),
        "drain": asyncio.run(drain(4.0 if quick else 6.0)),
        "picks": _balance_picks.measure(quick=True),
    }


# -- choosing a policy -------------------------------------------------------------------------------------------------


def slow_server() -> Table:
    """p99 in ms with nine servers and one 20 × slower, by what a server is: four workers and a queue, or mere delay."""
    found = {}
    for label, workers, arrivals in (
        ("4 workers, 1400/s", 4, "1400/s"),
        ("4 workers, 600/s", 4, "600/s"),
        ("mere delay, 1400/s", 10_000, "1400/s"),
        ("mere delay, 200/s", 10_000, "200/s"),
        ("mere delay, 50/s", 10_000, "50/s"),
    ):
        servers = [
            {"id": "s", "count": 9, "workers": workers},
            {"id": "slow", "workers": workers, "factor": 20},
        ]
        scenario = _scenario(
            duration="30s",
            warmup="2s",
            policies=["round_robin", "least_request", "p2c", "peak_ewma"],
            arrivals={"kind": "poisson", "rate": arrivals},
            servers=servers,
            clients={"timeout": "10s", "attempts": 1},
        )
        found[label] = {result.policy: _ms(result.latency.p99) for result in simulate(scenario).policies}
    return found


def disruption() -> Table:
    """Per cent of 20,000 keys that move when one of n leaves, and that were not its own; the busiest one's load."""
    keys = [Request(key=f"key-{number}") for number in range(20_000)]
    draw, found = random.Random(1).random, {}
    for count in (10, 100, 1000):
        members = [Member(Endpoint(f"s{number:04}", "http://h:1")) for number in range(count)]
        gone = members[count // 3]
        makers: tuple[type[Pick], ...] = (RingHash, Maglev, Rendezvous)
        for make in makers:
            pick = make()
            pick.rebuild(members)
            before = [next(pick.order(0.0, draw, key)).id for key in keys]
            pick.rebuild([member for member in members if member is not gone])
            after = [next(pick.order(0.0, draw, key)).id for key in keys]
            moved = sum(a != b for a, b in zip(before, after, strict=True))
            own = before.count(gone.id)
            found[f"{pick.name} {count}"] = {
                "moved": round(moved / len(keys) * 100, 2),
                "of others": round((moved - own) / len(keys) * 100, 2),
                "busiest of the mean": round(max(Counter(before).values()) * count / len(keys), 2),
            }
    return found


def maglev_tables() -> Table:
    """What a larger table buys at a thousand endpoints: per cent of keys moved by one that leaves, ms to build it."""
    keys = [Request(key=f"key-{number}") for number in range(20_000)]
    members = [Member(Endpoint(f"s{number:04}", "http://h:1")) for number in range(1000)]
    draw, found = random.Random(1).random, {}
    for table in (5003, 65_537, 655_373):
        pick = Maglev(table=table)
        began = time.perf_counter()
        pick.rebuild(members)
        took = time.perf_counter() - began
        before = [next(pick.order(0.0, draw, key)).id for key in keys]
        pick.rebuild([member for member in members if member is not members[333]])
        moved = sum(next(pick.order(0.0, draw, key)).id != had for key, had in zip(keys, before, strict=True))
        found[str(table)] = {"moved": round(moved / len(keys) * 100, 2), "build_ms": round(took * 1e3, 1)}
    return found


# -- health and panic --------------------------------------------------------------------------------------------------


def detection() -> Table:
    """Seconds from a fault until a client leaves the server out: mean and most over the clients; 2000 requests/s."""
    found = {}
    for how in ("crash", "freeze"):
        fault = [{"kind": how, "at": "5s", "servers": ["s-3"]}]
        for label, clients, extra in (
            ("checks every 2 s", 100, {"check": {"interval": "2s", "timeout": "1s"}}),
            ("ejection, 4 clients", 4, {"eject": {"consecutive": 5}}),
            ("ejection, 100 clients", 100, {"eject": {"consecutive": 5}}),
        ):
            scenario = _scenario(
                duration="20s",
                arrivals={"kind": "poisson", "rate": "2000/s"},
                servers=[{"id": "s", "count": 10, "workers": 8}],
                clients={"count": clients, "timeout": "1s", "attempts": 3, "budget": "100%"},
                fault=fault,
                **extra,
            )
            (result,) = simulate(scenario).policies
            seen = [change.at - 5 for change in result.changes if change.what.startswith(("down", "ejected"))]
            found[f"{how}, {label}"] = {
                "clients": len(seen),
                "mean": round(statistics.mean(seen), 2),
                "most": round(max(seen), 2),
            }
    return found


def panic() -> Table:
    """Six of ten servers crash: answers a second and per cent of errors once checks have seen it."""
    found = {}
    for arrivals in (400, 1000, 1400):
        for share in (0, 0.5):
            scenario = _scenario(
                duration="30s",
                arrivals={"kind": "poisson", "rate": arrivals},
                servers=[{"id": "s", "count": 10, "workers": 4, "queue": 100}],
                clients={"count": 4, "timeout": "500ms", "attempts": 3, "budget": "100%", "panic": share},
                check={"interval": "1s", "timeout": "500ms"},
                fault=[{"kind": "crash", "at": "5s", "lasts": "20s", "servers": [f"s-{n}" for n in range(6)]}],
            )
            (result,) = simulate(scenario).policies
            then = [moment for moment in result.series if 10 < moment.at <= 25]
            answered, errors = (statistics.mean(getattr(one, name) for one in then) for name in ("answered", "errors"))
            found[f"{arrivals}/s, panic {share:g}"] = {
                "answered": round(answered),
                "errors": round(errors / (answered + errors) * 100, 1),
            }
    return found


def zone_loss() -> Table:
    """Requests that came to nothing in the scenario of the how-to, by policy, attempts and retry budget."""
    scenario, found = load(ZONES), {}
    for share in ("20%", "100%"):
        for attempts in (1, 2, 3, 5):
            clients = {
                "count": 6, "zones": ["eu-1", "eu-2", "eu-3"], "timeout": "500ms",
                "attempts": attempts, "budget": share,
            }  # fmt: skip
            for result in simulate(changed(scenario, clients=clients, policies=["p2c", "zone_aware"])).policies:
                found[f"{result.policy}, {attempts} attempts, budget {share}"] = sum(result.errors.values())
    return found


# -- retries -----------------------------------------------------------------------------------------------------------


def budget() -> Table:
    """Tries for each of 6000 calls, 100 a second, while every endpoint fails after something was sent."""
    found = {}
    for label, one in (("default", Budget()), ("none", Budget(share="100%", burst=1000, floor=1000))):
        with FakeClock() as clock:
            endpoints = [Endpoint(name, f"http://{name}:80") for name in "abcde"]
            balancer, tries = Balancer(endpoints, budget=one, clock=clock, random=random.Random(1)), 0

            async def work(endpoint: Endpoint) -> None:
                nonlocal tries
                tries += 1
                raise ConnectionResetError(f"{endpoint.id} broke off")

            async def calls(balancer: Balancer = balancer) -> None:
                for _ in range(6000):
                    with contextlib.suppress(ConnectionResetError):
                        await balancer.run(work, idempotent=True)
                    await asyncio.sleep(0.01)

            clock.run(calls())
        found[label] = {"tries a call": round(tries / 6000, 3), "refused": balancer.counters.retries_refused}
    return found


# -- draining ----------------------------------------------------------------------------------------------------------

_SERVER = """
import asyncio, sys
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok"
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = [line[15:] for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            await asyncio.sleep(0.1)
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class _Child:
    """A server of 100 ms, which always has the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def _children(count: int) -> Iterator[list[_Child]]:
    children = [_Child() for _ in range(count)]
    try:
        yield children
    finally:
        for child in children:
            child.stop()


async def drain(seconds: float) -> Table:
    """Three real servers are restarted one after another under 100 POSTs a second: what failed, drained or not."""
    found = {}
    for drained in (True, False):
        with _children(3) as children:
            balancer = Balancer([Endpoint(f"s{n}", f"http://127.0.0.1:{c.port}") for n, c in enumerate(children)])
            async with balancer, httpx2.AsyncClient(transport=BalancedTransport(balancer)) as client:
                sending = asyncio.create_task(_posts(client, seconds))
                for number, child in enumerate(children):
                    await asyncio.sleep(seconds / 4)
                    if drained:
                        assert await balancer.drain(f"s{number}", "5s")
                    await asyncio.to_thread(child.stop)
                    await asyncio.to_thread(child.start)
                    balancer.resume(f"s{number}")
                answered, errors = await sending
        label = "drained" if drained else "stopped at once"
        found[label] = {"answered": answered, "failed": sum(errors.values()), "errors": dict(errors)}
    return found


async def _posts(client: httpx2.AsyncClient, seconds: float) -> tuple[int, Counter[str]]:
    answered, errors = 0, Counter[str]()

    async def post() -> None:
        nonlocal answered
        try:
            (await client.post("http://shop/orders", content=b"one")).raise_for_status()
            answered += 1
        except httpx2.HTTPError as error:
            errors[type(error).__name__] += 1

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * 100)):
            await asyncio.sleep(max(0.0, began + number / 100 - loop.time()))
            group.create_task(post())
    return answered, errors


def _scenario(**fields: Any) -> Scenario:
    return from_dict({"policies": ["p2c"], "service": {"kind": "lognormal", "mean": "20ms", "cv": 1.0}, **fields})


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3)
