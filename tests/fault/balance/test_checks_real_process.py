"""A server process that is stopped, goes on, and is killed, as its checks see it."""

import asyncio
import signal
import sys

from tenfold.balance.checker import Checker
from tenfold.balance.checks import HttpCheck, TcpCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.health import Health
from tenfold.balance.slow_start import SlowStart
from tenfold.testing import free_port


async def test_stopped_continued_killed(tmp_path):
    port = free_port()
    here = Endpoint("a", f"http://127.0.0.1:{port}")
    check = HttpCheck("/", interval="40ms", timeout="300ms", rise=2, fall=2, backoff="80ms", initial="down")
    health = Health(check.rise, check.fall, check.initial)
    start = SlowStart("30s")
    changes = asyncio.Queue()

    def seen(id, verdict, now):
        if health.observe(verdict.ok, now):
            changes.put_nowait((health.up, verdict.why, start.factor(health.since, now)))

    checker = Checker(check, seen)
    command = ("-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port))
    server = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            checker.watch(here)  # before it listens: refused, and taken for down anyway
            up, why, factor = await changes.get()
            assert (up, factor) == (True, 0.1)
            assert why.startswith("HTTP 200")

            server.send_signal(signal.SIGSTOP)
            assert (await changes.get())[:2] == (False, "no answer within 300 ms")
            assert (await TcpCheck().probe(here)).ok  # the kernel still accepts for it: why a TCP check is not enough

            server.send_signal(signal.SIGCONT)
            up, why, factor = await changes.get()
            assert (up, factor) == (True, 0.1)  # slow start begins anew at every recovery

            server.kill()
            up, why, _ = await changes.get()
            assert not up
            # The last probe before may have been cut in the middle; the one that decided came to a closed port.
            assert "ConnectionRefusedError" in why
    finally:
        await checker.aclose()
        if server.returncode is None:
            server.kill()
        await server.wait()
