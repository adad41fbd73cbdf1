"""What level 2 costs on a real Valkey: gets against redis-py, a stampede over four processes, a freeze.

`gets`: values of 100 bytes. The peer is ``redis.asyncio.Redis`` as its documentation uses it (a client with its own
pool); ours is a decorated function with ``memory=False``, hence the whole way: key, batch, lease check, decoding.
Concurrent: 64 tasks, a key each, time a key. Sequential: one after another. Both take turns, round after round, and
minima count. Client and server share one core, so that what is timed is work and nothing else. The same on two cores
stands beside it (``…_two_cores``): there most of a round trip is waking a core that has gone to sleep, and who is done
sooner sleeps sooner. `round_trip` is that of a bare socket, which takes as long as redis-py's whole get.
The same on uvloop's loop is beside it as well (``…_uvloop``). ``bare_concurrent_get_us`` is what `Bare` takes, which
answers 64 tasks by one ``MGET`` and is no cache; so ``l2_concurrent_ceiling`` is as far as any client can get ahead of
redis-py in this test.

`stampede`: four processes of 50 tasks each ask for one cold key at an appointed moment; its loader takes 50 ms and
counts itself in Valkey. `frozen`: 50 calls on cached keys and 50 on cold ones while Valkey is stopped.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
import uvloop

from tenfold.cache import Cache
from tenfold.servers import Valkey

TASKS = 64
IN_TURN = 12
VALUE = bytes(range(100))
LOADER = 0.05
PROCESSES = 4

_CHILD = """
import asyncio, json, sys, time
import redis.asyncio
from tenfold.cache import Cache

async def main():
    url, loader, tasks = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    client = redis.asyncio.Redis.from_url(url)
    await client.ping()
    async with Cache("stampede", redis=url, timeout="2s") as cache:
        @cache("1m", name="f")
        async def f(a: int) -> int:
            await client.incr("loads")
            await asyncio.sleep(loader)
            return a
        await f(-1)
        print("ready", flush=True)
        for line in iter(lambda: sys.stdin.readline().strip(), ""):
            key, at = line.split()
            await asyncio.sleep(float(at) - time.time())
            began = time.perf_counter()
            found = await asyncio.gather(*[f(int(key)) for _ in range(tasks)])
            assert found == [int(key)] * tasks
            print(json.dumps(time.perf_counter() - began), flush=True)
    await client.aclose()

asyncio.run(main())
"""


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers of level 2."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    found: dict[str, Any]
    async with Valkey() as server:
        rounds = 60 if quick else 400
        with placed(server.pid, together=True):
            found = await gets(server.url, rounds=rounds)
            there = await asyncio.to_thread(_gets_on_uvloop, server.url, server.pid, rounds)
        with placed(server.pid, together=False):
            apart = await gets(server.url, rounds=rounds)
            raw = round_trip(server.url)
        found |= {f"{name}_two_cores": number for name, number in apart.items()}
        found |= {f"{name}_uvloop": number for name, number in there.items()}
        found |= raw
        found |= await stampede(server.url, rounds=2 if quick else 7)
        found |= await frozen(server)
    return found


@contextmanager
def placed(pid: int, *, together: bool) -> Iterator[None]:
    """This process on the first core that it may use, and the server there too, or on the last."""
    mine, its = os.sched_getaffinity(0), os.sched_getaffinity(pid)
    os.sched_setaffinity(0, {min(mine)})
    os.sched_setaffinity(pid, {min(mine) if together else max(mine)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
        os.sched_setaffinity(pid, its)


class Bare(asyncio.Protocol):
    """The least that can answer many gets at once: a future each, one ``MGET``, hiredis. No cache: no key to make, no
    tags, leases, time-outs or statistics, and nothing to decode.
    """

    def __init__(self) -> None:
        import hiredis

        self._loop = asyncio.get_running_loop()
        self._reader, self._pack = hiredis.Reader(), hiredis.pack_command
        self._waiting: list[asyncio.Future[Any]] = []
        self._keys: list[str] = []
        self._sent: list[list[asyncio.Future[Any]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    async def get(self, key: str) -> Any:
        future = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(future)
        self._keys.append(key)
        return await future

    def _flush(self) -> None:
        self._sent.append(self._waiting)
        data = self._pack(("MGET", *self._keys))
        self._waiting, self._keys = [], []
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            for future, value in zip(self._sent.pop(0), answer, strict=True):
                future.set_result(value)


def round_trip(url: str) -> dict[str, dict[str, float]]:
    """A bare socket's median round trip (µs), by how long (µs) it stays awake after it has asked."""
    parts = urlsplit(url)
    spent: dict[int, list[float]] = {awake: [] for awake in (0, 10, 20, 30)}
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(5):
            for awake, times in spent.items():
                for _ in range(200):
                    began = time.perf_counter()
                    connection.sendall(b"PING\r\n")
                    while time.perf_counter() - began < awake * 1e-6:
                        pass
                    assert connection.recv(64) == b"+PONG\r\n"
                    times.append(time.perf_counter() - began)
    return {"raw_round_trip_us": {str(awake): statistics.median(times) * 1e6 for awake, times in spent.items()}}


def _gets_on_uvloop(url: str, pid: int, rounds: int) -> dict[str, float]:
    with placed(pid, together=True):  # a thread has a place of its own
        return uvloop.run(gets(url, rounds=rounds))


async def gets(url: str, *, rounds: int) -> dict[str, float]:
    """``l2_concurrent_gets_vs_redis_py`` (times faster) and ``l2_sequential_get_vs_redis_py`` (ratio of times)."""
    client = redis.asyncio.Redis.from_url(url)
    keys = [f"plain:{number}" for number in range(TASKS)]
    for key in keys:
        await client.set(key, VALUE)
    parts = urlsplit(url)
    _, bare = await asyncio.get_running_loop().create_connection(Bare, parts.hostname, parts.port)
    async with Cache("gets", redis=url, timeout="2s") as cache:

        @cache("1h", memory=False, name="value")
        async def value(number: int) -> bytes:
            return VALUE

        async def verify() -> None:
            assert await asyncio.gather(*[value(number) for number in range(TASKS)]) == [VALUE] * TASKS
            assert await asyncio.gather(*[client.get(key) for key in keys]) == [VALUE] * TASKS
            assert await asyncio.gather(*[bare.get(key) for key in keys]) == [VALUE] * TASKS

        await verify()
        loads = cache.stats().loads

        async def together(get: Callable[[Any], Awaitable[Any]], names: list[Any]) -> None:
            await asyncio.gather(*[get(name) for name in names])

        async def in_turn(get: Callable[[Any], Awaitable[Any]], names: list[Any]) -> None:
            for name in names:
                await get(name)

        async def warm(get: Callable[[Any], Awaitable[Any]], names: list[Any]) -> None:
            # Who has just done something else pays for it: caches, and where the kernel put the server.
            for name in names[:4]:
                await get(name)

        numbers: list[Any] = list(range(TASKS))
        best = dict.fromkeys(
            (f"{whose} {how}" for whose in ("theirs", "ours", "bare") for how in ("together", "in turn")), float("inf")
        )
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                for how, run in (("together", together), ("in turn", in_turn)):
                    for whose, get, names in (
                        ("theirs", client.get, keys),
                        ("ours", value, numbers),
                        ("bare", bare.get, keys),
                    ):
                        await warm(get, names)
                        few = names if run is together else names[:IN_TURN]
                        began = time.perf_counter()
                        await run(get, few)
                        spent = (time.perf_counter() - began) / len(few) * 1e6
                        best[f"{whose} {how}"] = min(best[f"{whose} {how}"], spent)
        finally:
            gc.enable()
        await verify()
        assert cache.stats().loads == loads, "a get was answered by the loader"
    bare.transport.close()
    await client.aclose()
    return {
        "l2_concurrent_gets_vs_redis_py": best["theirs together"] / best["ours together"],
        "l2_sequential_get_vs_redis_py": best["ours in turn"] / best["theirs in turn"],
        "l2_concurrent_ceiling": best["theirs together"] / best["bare together"],
        "bare_concurrent_get_us": best["bare together"],
        "l2_concurrent_get_us": best["ours together"],
        "l2_sequential_get_us": best["ours in turn"],
        "redis_py_concurrent_get_us": best["theirs together"],
        "redis_py_sequential_get_us": best["theirs in turn"],
    }


async def stampede(url: str, *, rounds: int) -> dict[str, float]:
    """``stampede_loads_4_processes`` (the worst round) and ``stampede_wall_vs_loader`` (the slowest, best round)."""
    client = redis.asyncio.Redis.from_url(url)
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _CHILD,
            url,
            str(LOADER),
            "50",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]

    async def hear(child: asyncio.subprocess.Process) -> bytes:
        assert child.stdout is not None
        return await asyncio.wait_for(child.stdout.readline(), 30)

    loads, walls = [], []
    try:
        assert {await hear(child) for child in children} == {b"ready\n"}
        for number in range(rounds):
            await client.set("loads", 0)
            appointed = time.time() + 0.2
            for child in children:
                assert child.stdin is not None
                child.stdin.write(f"{number} {appointed}\n".encode())
            walls.append(max([json.loads(await hear(child)) for child in children]))
            loads.append(int(await client.get("loads")))
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            await asyncio.wait_for(child.wait(), 30)
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
        await client.aclose()
    return {"stampede_loads_4_processes": max(loads), "stampede_wall_vs_loader": min(walls) / LOADER}


async def frozen(server: Valkey) -> dict[str, float]:
    """``frozen_redis_added_ms``: what 100 calls take in all while Valkey is stopped; their loaders take no time."""
    async with Cache("frozen", redis=server.url) as cache:

        @cache("1h", memory=True, name="f")
        async def f(a: int) -> int:
            return a

        for a in range(50):
            await f(a)
        await server.pause()
        try:
            began = time.perf_counter()
            for a in [*range(50), *range(1000, 1050)]:
                assert await f(a) == a
            spent = time.perf_counter() - began
        finally:
            await server.resume()
    return {"frozen_redis_added_ms": spent * 1000}


if __name__ == "__main__":
    for name, number in measure(quick="--quick" in sys.argv).items():
        print(f"{name}: {number}")
