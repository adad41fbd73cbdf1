"""Balancing over real servers: what a balanced transport costs, how it copes with a server that is slow, and what it
loses when one is killed or stopped.

The servers are processes of their own, raw HTTP/1.1 on asyncio, so that what is timed here is the client alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.pick.base import Pick
from tenfold.balance.transports import BalancedTransport

_SERVER = """
import asyncio, sys
delay, workers = float(sys.argv[1]), asyncio.Semaphore(int(sys.argv[2]))
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 1024\\r\\n\\r\\n" + b"x" * 1024
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            if delay:
                async with workers:
                    await asyncio.sleep(delay)
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@contextlib.contextmanager
def servers(*delays: float, workers: int = 64) -> Iterator[tuple[list[Endpoint], list[subprocess.Popen[str]]]]:
    """A server for each delay, that works so many seconds on a request, and on ``workers`` of them at a time."""
    children = [
        subprocess.Popen([sys.executable, "-c", _SERVER, str(delay), str(workers)], stdout=subprocess.PIPE, text=True)
        for delay in delays
    ]
    try:
        endpoints = []
        for number, child in enumerate(children):
            assert child.stdout is not None
            endpoints.append(Endpoint(f"s{number}", f"http://127.0.0.1:{int(child.stdout.readline())}"))
        yield endpoints, children
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def named(name: str) -> Pick:
    """A pick by its class name, loaded when it is used."""
    from importlib import import_module

    module = {"P2C": "p2c", "PeakEWMA": "peak_ewma", "RoundRobin": "round_robin"}[name]
    made: Pick = getattr(import_module(f"tenfold.balance.pick.{module}"), name)()
    return made


async def overhead(rounds: int, requests: int) -> dict[str, float]:
    """CPU time of a request through a balanced transport against the library's own, the least of many short turns."""
    with servers(0) as (endpoints, _):
        url = endpoints[0].url
        balancer = Balancer(endpoints, pick=named("P2C"))
        async with (
            httpx2.AsyncClient(base_url=url) as plain,
            httpx2.AsyncClient(base_url=url, transport=BalancedTransport(balancer)) as balanced,
        ):

            async def turn(client: httpx2.AsyncClient) -> float:
                began = time.process_time()
                for _ in range(requests):
                    response = await client.get("/things?page=1")
                    assert response.status_code == 200
                return (time.process_time() - began) / requests * 1e6

            for client in (plain, balanced):
                await turn(client)
            took: dict[str, list[float]] = {"plain": [], "balanced": []}
            for _ in range(rounds):
                took["plain"].append(await turn(plain))
                took["balanced"].append(await turn(balanced))
    least = {name: min(values) for name, values in took.items()}
    return {
        "httpx2_us": least["plain"],
        "transport_us": least["balanced"],
        "transport_overhead_vs_httpx2": least["balanced"] / least["plain"],
    }


class Load:
    """Requests at a fixed rate, whatever becomes of those before (an open loop)."""

    def __init__(self, client: httpx2.AsyncClient, rate: float) -> None:
        self._client = client
        self._rate = rate
        self.took: list[float] = []
        self.failed: list[tuple[float, str]] = []
        """When each failed request had been started, and how it failed."""

    async def _ask(self, due: float) -> None:
        try:
            response = await self._client.get("/things")
            response.raise_for_status()
        except httpx2.HTTPError as error:
            self.failed.append((due, type(error).__name__))
        else:
            # From the moment it was due: a client that is late must not hide it.
            self.took.append(asyncio.get_running_loop().time() - due)

    async def run(self, seconds: float) -> None:
        """Send for ``seconds`` and wait for all answers."""
        loop = asyncio.get_running_loop()
        start, asking = loop.time(), list[asyncio.Task[None]]()
        for number in range(int(seconds * self._rate)):
            due = start + number / self._rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            asking.append(asyncio.create_task(self._ask(due)))
        await asyncio.gather(*asking)

    def p99(self) -> float:
        """Seconds that 99 of 100 took at most."""
        ordered = sorted(self.took)
        return ordered[int(len(ordered) * 0.99)]


async def slow_one(seconds: float, rate: float = 150.0, workers: int = 4) -> dict[str, float]:
    """Four servers, one of them 20 times as slow as the others; p99 of three picks, one after another.

    Each works on four requests at a time, as a server with four workers does: the fast ones could do 400 a second,
    the slow one 20, and a quarter of the load is 38. With room for any number of requests at once nobody would ever
    queue, and the p99 of every pick that gives the slow one more than one request in a hundred would be 200 ms.
    """
    found: dict[str, float] = {}
    fast = 0.01
    with servers(fast, fast, fast, 20 * fast, workers=workers) as (endpoints, _):
        for name in ("RoundRobin", "P2C", "PeakEWMA"):
            balancer = Balancer(endpoints, pick=named(name))
            async with httpx2.AsyncClient(
                base_url="http://shop.example", transport=BalancedTransport(balancer), timeout=60
            ) as client:
                await Load(client, rate).run(seconds / 4)  # to open connections, and to get to know the servers
                load = Load(client, rate)
                await load.run(seconds)
                assert not load.failed
                found[name] = load.p99()
    return {
        "round_robin_p99_ms": found["RoundRobin"] * 1e3,
        "p2c_p99_ms": found["P2C"] * 1e3,
        "peak_ewma_p99_ms": found["PeakEWMA"] * 1e3,
        "p2c_p99_vs_round_robin": found["P2C"] / found["RoundRobin"],
        "peak_ewma_p99_vs_round_robin": found["PeakEWMA"] / found["RoundRobin"],
    }


def guarded(endpoints: list[Endpoint]) -> Balancer:
    """A balancer with all its means against servers that fail."""
    from importlib import import_module

    checks: Any = import_module("tenfold.balance.checks")
    outlier: Any = import_module("tenfold.balance.outlier")
    slow_start: Any = import_module("tenfold.balance.slow_start")
    return Balancer(
        endpoints,
        pick=named("P2C"),
        check=checks.HttpCheck("/health", interval="200ms", timeout="200ms", fall=2),
        eject=outlier.OutlierEjection(consecutive=3, base="2s"),
        slow_start=slow_start.SlowStart("1s"),
    )


async def killed(seconds: float, rate: float = 200.0) -> dict[str, float]:
    """One of four servers gets SIGKILL under load: how many requests fail."""
    with servers(0.005, 0.005, 0.005, 0.005) as (endpoints, children):
        balancer = guarded(endpoints)
        async with (
            balancer,
            httpx2.AsyncClient(base_url="http://shop.example", transport=BalancedTransport(balancer)) as client,
        ):
            load = Load(client, rate)
            running = asyncio.create_task(load.run(seconds))
            await asyncio.sleep(seconds / 3)
            os.kill(children[1].pid, signal.SIGKILL)
            await running
        return {"sigkill_requests": len(load.took), "sigkill_failed": len(load.failed)}


async def stopped(seconds: float, rate: float = 200.0) -> dict[str, float]:
    """One of four servers gets SIGSTOP under load, and later SIGCONT: what fails, how soon it is out, and that it
    comes back.
    """
    with servers(0.005, 0.005, 0.005, 0.005) as (endpoints, children):
        balancer = guarded(endpoints)
        name = endpoints[1].id
        async with (
            balancer,
            httpx2.AsyncClient(
                base_url="http://shop.example", transport=BalancedTransport(balancer), timeout=1.0
            ) as client,
        ):
            load = Load(client, rate)
            running = asyncio.create_task(load.run(seconds))
            loop = asyncio.get_running_loop()
            await asyncio.sleep(seconds / 4)
            os.kill(children[1].pid, signal.SIGSTOP)
            at = loop.time()
            async with asyncio.timeout(10):
                while balancer.state()["endpoints"][name]["ready"]:  # noqa: ASYNC110 - a state with several causes
                    await asyncio.sleep(0.01)
            out = loop.time() - at
            await asyncio.sleep(seconds / 4)
            os.kill(children[1].pid, signal.SIGCONT)
            at = loop.time()
            async with asyncio.timeout(10):
                while not balancer.state()["endpoints"][name]["ready"]:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            back = loop.time() - at
            least = balancer.state()["endpoints"][name]["weight"]
            await running
        return {
            "sigstop_requests": len(load.took),
            "sigstop_failed": len(load.failed),
            "sigstop_out_s": out,
            "sigstop_back_s": back,
            "sigstop_weight_on_return": least,
        }


def measure(quick: bool = False) -> dict[str, float]:
    """All of it: about 15 s, or 50 s."""
    numbers = asyncio.run(overhead(25 if quick else 60, 100))
    numbers |= asyncio.run(slow_one(2.0 if quick else 8.0))
    numbers |= asyncio.run(killed(2.0 if quick else 6.0))
    numbers |= asyncio.run(stopped(4.0 if quick else 8.0))
    return numbers


if __name__ == "__main__":
    for key, value in measure("--quick" in sys.argv).items():
        print(f"{key:32} {value:.3f}")
