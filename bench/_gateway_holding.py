"""What many clients that ask for little cost the gateway: connections that are idle, and heads that drip in.

Memory: 10,000 connections, each of which has had an answer and now waits; resident memory before and after. They come
from several addresses of 127/8, as one has fewer ports than that to spare.

Slow heads: 1,000 clients send a byte of a head each second. The 99th percentile of other clients is compared with what
it is while the same thousand drip at nginx instead, so that what they take of the load's core is in both.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench._gateway_cost import Load
from bench._gateway_peers import Bench, Proxy

IDLE: Final = 10_000
DRIPPING: Final = 1_000
_ADDRESSES: Final = 8
_OTHERS: Final = 16
_GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

_DRIPS = """
import asyncio, itertools, sys
HEAD = b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nX-Slow: " + b"a" * 100000
async def drip(number):
    await asyncio.sleep(number / 1000)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
            for at in itertools.count():
                writer.write(HEAD[at : at + 1])
                await asyncio.sleep(1)
                if reader.at_eof():
                    break
            writer.close()
        except OSError:
            await asyncio.sleep(0.1)
async def main():
    await asyncio.gather(*(drip(number) for number in range(int(sys.argv[2]))))
asyncio.run(main())
"""


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """Megabytes for 10,000 idle connections, and what 1,000 slow heads do to the others."""
    return _idle(bench, 2_000 if quick else IDLE) | _slow(bench, 1 if quick else 5, 2 if quick else 3)


def _idle(bench: Bench, count: int) -> dict[str, Any]:
    gateway = bench.ours("idle")
    if gateway is None:
        return {"idle_10000_mb": None}
    with ExitStack() as stack:
        warm = stack.enter_context(_client(gateway.port, 0))
        _ask(warm)
        before = _resident(gateway)
        clients = [stack.enter_context(_client(gateway.port, number)) for number in range(count)]
        for client in clients:
            _ask(client)
        after = _resident(gateway)
        for client in (clients[0], clients[-1]):
            _ask(client)  # they are open at both ends
    found = {"idle_connections": count, "idle_growth_mb": round(after - before, 1), "idle_rss_mb": round(after, 1)}
    return found | {"idle_10000_mb": round(after, 1) if count == IDLE else None}


@contextmanager
def _client(port: int, number: int) -> Iterator[socket.socket]:
    source = (f"127.0.0.{2 + number % _ADDRESSES}", 0)
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=source) as made:
        yield made


def _ask(client: socket.socket) -> None:
    client.sendall(_GET)
    answer = b""
    while not answer.endswith(b"x" * 1024):
        part = client.recv(4096)
        if not part or (answer and not answer.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"an idle client expected 200 and 1 KiB, got {answer[:200]!r}")
        answer += part


def _resident(gateway: Proxy) -> float:
    lines = [line for pid in gateway.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def _slow(bench: Bench, rounds: int, seconds: float) -> dict[str, Any]:
    gateway = bench.ours("slow")
    if gateway is None:
        return {"slow_header_p99_ratio": None}
    load = Load(bench, "/")
    elsewhere = bench.nginx_backend()
    p99: dict[str, list[float]] = {"at nginx": [], "at us": []}
    for _ in range(rounds):
        for where, port in (("at nginx", elsewhere), ("at us", gateway.port)):
            with _dripping(port, bench.load_core):
                p99[where].append(load.run(gateway.port, seconds, _OTHERS)[2])
    ratio = statistics.median(p99["at us"]) / statistics.median(p99["at nginx"])
    return {"slow_header_p99_ratio": round(ratio, 3), "slow_header_p99_ms": p99}


@contextmanager
def _dripping(port: int, core: int) -> Iterator[None]:
    command = ["taskset", "-c", str(core), sys.executable, "-c", _DRIPS, str(port), str(DRIPPING)]
    process = subprocess.Popen(command)
    try:
        time.sleep(2)  # they come within a second
        if process.poll() is not None:
            raise RuntimeError("the slow clients left")
        yield
    finally:
        process.terminate()
        process.wait(10)
