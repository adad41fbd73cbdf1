"""Every backend replaced, one after the other, and five reloads beside that, under load: how many requests fail.

A new backend starts, the configuration that names it in the place of an old one is put into force, and the old one is
stopped, without being asked whether it is busy. In between come reloads that change settings. wrk counts what is no 2xx
and what breaks off. Once on each engine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from contextlib import ExitStack
from typing import Any, Final

import uvloop

from bench._gateway_cost import CONNECTIONS
from bench._gateway_peers import Bench, backend, binary
from bench._targets import free_port
from tenfold.gateway import Gateway, read_config
from tenfold.gateway.haproxy import HAProxyGateway

BACKENDS: Final = 4
RELOADS: Final = 5
_CONFIG: Final = """
[gateway]
listen = "127.0.0.1:{port}"
{engine}
[[pool]]
name = "app"
first_byte_timeout = "{timeout}s"
endpoints = [{endpoints}]
[[route]]
pool = "app"
retries = 3
"""


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """Failed requests, and out of how many."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {bench.core})
    try:
        seconds = 6 if quick else 15
        found = uvloop.run(_roll(bench, seconds, Gateway, ""))
        if binary("haproxy") is None:
            return found | {"haproxy_engine_failed_during_replacement_and_reloads": None}
        driven = asyncio.run(_roll(bench, seconds, HAProxyGateway, '[engine]\nname = "haproxy"'))
        return found | {f"haproxy_engine_{name}": value for name, value in driven.items()}
    finally:
        os.sched_setaffinity(0, allowed)


async def _roll(
    bench: Bench, seconds: float, kind: type[Gateway] | type[HAProxyGateway], engine: str
) -> dict[str, Any]:
    port = free_port()
    running: dict[int, ExitStack] = {}
    processes: dict[int, subprocess.Popen[bytes]] = {}
    timeout = 30

    def start() -> int:
        new = free_port()
        own = running[new] = ExitStack()
        processes[new] = own.enter_context(backend(bench.root / f"rolling{new}", new, bench.load_core))
        return new

    def well(*ports: int) -> None:
        """A backend that went by itself is no fault of the gateway's, and makes the numbers worthless."""
        for each in ports:
            if (code := processes[each].poll()) is not None:
                log = (bench.root / f"rolling{each}" / "error.log").read_text(errors="replace")
                raise RuntimeError(f"a backend ended by itself with {code}: {log[-2000:]}")

    def config() -> Any:
        endpoints = ", ".join(f'"http://127.0.0.1:{each}"' for each in sorted(running))
        return read_config(_CONFIG.format(port=port, endpoints=endpoints, timeout=timeout, engine=engine))

    pause = seconds / (BACKENDS + RELOADS + 2)
    try:
        for _ in range(BACKENDS):
            await asyncio.to_thread(start)
        old = list(running)
        async with kind(config()) as gateway:
            wrk = await asyncio.create_subprocess_exec(
                "taskset", "-c", str(bench.load_core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds * 6:g}s",
                f"http://127.0.0.1:{port}/", stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            done = asyncio.ensure_future(wrk.communicate())
            for turn in range(max(BACKENDS, RELOADS)):
                await asyncio.sleep(pause)
                if turn < RELOADS:
                    timeout += 1
                    await gateway.reload(config())
                    await asyncio.sleep(pause)
                if turn < BACKENDS:
                    await asyncio.to_thread(start)
                    well(*running)
                    leaving = running.pop(old[turn])
                    await gateway.reload(config())
                    await asyncio.to_thread(leaving.close)
            await asyncio.sleep(pause)
            if done.done():
                raise RuntimeError("the load ended before the last change")
            wrk.send_signal(signal.SIGINT)  # upon which it says what it has seen
            out = (await asyncio.wait_for(done, 30))[0].decode()
            counters = gateway.state()["counters"]
        well(*running)
    finally:
        for each in running.values():
            each.close()
    total = re.search(r"(\d+) requests in", out)
    if total is None:
        raise RuntimeError(f"wrk said: {out}")
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", out)))
    failed += sum(int(n) for line in re.findall(r"Socket errors: (.*)", out) for n in re.findall(r"\d+", line))
    kept = ("reloads", "retries", "fresh", "failovers", "own_answers", "cut", "reused", "connects")
    return {
        "failed_during_replacement_and_reloads": failed,
        "rolling_requests": int(total[1]),
        "rolling_counters": {name: counters[name] for name in kept if name in counters},
    }
