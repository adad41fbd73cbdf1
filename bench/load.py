"""What the load client costs against Locust and wrk, and whether it tells the truth about a frozen server.

Cost: requests a CPU second, all clients saturated on one core, the server on the other, 1 KiB bodies. tenfold
and Locust run journeys of 4 steps, status and length checked in each; wrk runs plain requests and checks
nothing. Rounds are interleaved and medians taken.

Truth: a server of known service time (one queue, utilisation ρ) is frozen by SIGSTOP for S seconds in a run
of D. A request that is due t seconds into the freeze is answered S − t·(1−ρ) later: its wait for the thaw,
plus the work that queued up before it. So the share of requests above x is (S − x) / ((1−ρ)·D), and p_q = S −
(1−q)·D·(1−ρ).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import _targets
from tenfold.load import Constant, Progress, RunOptions, load_scenario, run

JOURNEYS = """
from tenfold.load import check, journey, step, target
target({url!r})
@journey
async def four(user):
    for name in ("/a", "/b", "/c", "/d"):
        with step(name):
            answer = await user.get(name)
            check(answer.status == 200, "status 200")
            check(len(answer.body) == 1024, "1 KiB")
"""
ONE = """
from tenfold.load import journey, step, target
target({url!r})
@journey
async def one(user):
    with step("one"):
        await user.get("/")
"""
CONNECTIONS = 50
FLOOD = 100_000.0
"""Requests a second: more than a core can send."""
BEHIND = 0.02
"""Seconds by which the median journey of a saturated client is late, at least."""


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers; a peer that is not installed gives null and a note."""
    cost = _cost(rounds=3 if quick else 5, seconds=3.0 if quick else 5.0)
    truth = asyncio.run(_truth(rounds=1 if quick else 3))
    return cost | truth


def _cost(rounds: int, seconds: float) -> dict[str, Any]:
    allowed = sorted(os.sched_getaffinity(0))
    client, server = allowed[0], allowed[-1]
    found: dict[str, list[float]] = {"tenfold": [], "locust": [], "wrk": []}
    notes = []
    if len(allowed) < 2:
        notes.append("one core only: client and server share it")
    if shutil.which("wrk") is None:
        notes.append("wrk is not installed: requests_per_cpu_vs_wrk is null")
    if importlib.util.find_spec("locust") is None:
        notes.append("locust is not installed: requests_per_cpu_vs_locust is null")
    with _targets.fast(server) as (name, url):
        os.sched_setaffinity(0, {client})
        try:
            capacity = asyncio.run(_tenfold(url, 1.0, FLOOD))
            for _ in range(rounds):
                capacity = _saturated(url, seconds, capacity)
                found["tenfold"].append(capacity)
                if importlib.util.find_spec("locust") is not None:
                    found["locust"].append(_locust(url, seconds))
                if shutil.which("wrk") is not None:
                    found["wrk"].append(_wrk(url, seconds))
        finally:
            os.sched_setaffinity(0, set(allowed))
    median = {peer: statistics.median(values) if values else None for peer, values in found.items()}
    return {
        "requests_per_cpu_vs_locust": _ratio(median["tenfold"], median["locust"]),
        "requests_per_cpu_vs_wrk": _ratio(median["tenfold"], median["wrk"]),
        "cpu_us_per_request": {peer: 1e6 / value if value else None for peer, value in median.items()},
        "requests_per_cpu_second": found,
        "server": name,
        "rounds": rounds,
        "notes": notes,
    }


def _saturated(url: str, seconds: float, capacity: float) -> float:
    """`_tenfold` at a little more than a core can send, as the peers are: neither idle nor buried in a backlog."""
    for excess in (1.1, 1.3, 1.6):
        try:
            return asyncio.run(_tenfold(url, seconds, capacity * excess))
        except _NotSaturatedError as problem:
            kept_up = problem
    raise kept_up


class _NotSaturatedError(RuntimeError):
    pass


async def _tenfold(url: str, seconds: float, rate: float) -> float:
    """Requests a CPU second of the load process and its parent, from the start of the schedule to the last
    answer, offered ``rate`` requests a second.
    """
    marks: list[float] = []

    def mark(_: Progress) -> None:
        marks.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "four.py"
        path.write_text(JOURNEYS.format(url=url))
        result = await run(
            load_scenario(path),
            Constant(rate / 4, seconds * 0.5),
            seed=1,
            on_progress=mark,
            options=RunOptions(
                max_connections=CONNECTIONS, connections=CONNECTIONS, timeout=60, drain=60, lift_ceilings=True
            ),
        )
    if result.totals.failures or not result.complete:
        raise RuntimeError(f"the run against {url} had errors: {result.totals.errors} {result.stopped_because}")
    health = result.clients[0]
    if result.named("/a").corrected.quantile(0.5) < BEHIND * 1e6:
        raise _NotSaturatedError(f"the client kept up with its schedule, so it was not saturated: {result.totals}")
    return health.requests / (health.cpu_seconds + marks[-1] - marks[0])


def _locust(url: str, seconds: float) -> float:
    script = Path(__file__).with_name("_locust.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), url, str(seconds)],
        capture_output=True, text=True, timeout=60 + seconds, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["failures"] or not found["requests"]:
        raise RuntimeError(f"locust against {url}: {found}")
    return float(found["requests"] / found["cpu"])


def _wrk(url: str, seconds: float) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", f"{url}/a"],
        capture_output=True, text=True, timeout=60 + seconds, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r"(\d+) requests in", done.stdout)
    if match is None:
        raise RuntimeError(f"wrk said: {done.stdout}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(match[1]) / spent


async def _truth(rounds: int) -> dict[str, Any]:
    service, utilisation, length, freeze, q = 0.002, 0.5, 8.0, 1.0, 0.99
    raw = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, _targets.paced(service) as (server, url):
            path = Path(folder) / "one.py"
            path.write_text(ONE.format(url=url))
            frozen: list[float] = []

            async def freeze_once(pid: int = server.pid, frozen: list[float] = frozen) -> None:
                began = time.monotonic()
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(freeze)
                finally:
                    os.kill(pid, signal.SIGCONT)
                frozen.append(time.monotonic() - began)

            tasks: list[asyncio.Task[None]] = []

            def at_two(progress: Progress, tasks: list[asyncio.Task[None]] = tasks, go: Any = freeze_once) -> None:
                if progress.elapsed >= 2.0 and not tasks:
                    tasks.append(asyncio.ensure_future(go()))

            # Few connections, as a closed-loop tool would have: while the server is frozen the rest waits
            # unsent,
            # which is exactly what an uncorrected histogram never sees.
            result = await run(
                load_scenario(path),
                Constant(utilisation / service, length),
                seed=1,
                on_progress=at_two,
                options=RunOptions(max_connections=4, connections=4),
            )
            await asyncio.gather(*tasks)
            totals = result.totals
            expected = frozen[0] - (1 - q) * length * (1 - utilisation)
            corrected, uncorrected = totals.corrected.quantile(q) / 1e6, totals.uncorrected.quantile(q) / 1e6
            raw.append(
                {
                    "expected_p99": expected,
                    "corrected_p99": corrected,
                    "uncorrected_p99": uncorrected,
                    "frozen": frozen[0],
                    "samples": totals.attempts,
                    "errors": totals.errors,
                }
            )
    return {
        "co_error": max(abs(one["corrected_p99"] - one["expected_p99"]) / one["expected_p99"] for one in raw),
        "co_uncorrected_ratio": min(one["corrected_p99"] / one["uncorrected_p99"] for one in raw),
        "co_raw": raw,
    }


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine and theirs else None
