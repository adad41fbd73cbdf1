"""`tenfold serve`: goodput by workers, how fast it follows a step, whether it flaps, what a scale-in loses, its cost.

The app waits 50 ms and lets ten requests in at once, so that 200 requests a second are what one worker can do, whatever
the machine. *Efficiency*: a fixed number of workers under a closed loop of two and a half times as many clients as they
have places. *Step*: an open loop of Poisson arrivals goes from 0.6 of one worker's capacity to eight times all of it;
the SLO (p95 of 250 ms and no error, second by second) holds again from the first second on after which it is never
broken. *Noise*: a constant rate; changes of direction are counted. *Scale-in*: the rate falls, and workers leave under
it. *Overhead*: one worker with and without the front, in turns: p50 with one client, processor time for each request
with sixteen.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import uvloop

from bench._serve_app import LIMIT, WAIT
from bench._serve_load import Load

HERE: Final = Path(__file__).parent
CAPACITY: Final = LIMIT / WAIT
SLO_P95: Final = 0.25


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers."""
    return uvloop.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    goodput = {count: await _goodput(count, 3.0 if quick else 10.0) for count in (1, 2, 4, 8)}
    return {
        "goodput": {str(count): round(rate, 1) for count, rate in goodput.items()},
        "scaling_efficiency_8": round(goodput[8] / (8 * goodput[1]), 3),
        **await _step(quick),
        **await _noise(quick),
        **await _overhead(quick),
    }


# -- what runs ---------------------------------------------------------------------------------------------------------


class Run:
    """A process, its lines with the times they came, and its port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int = 0) -> None:
        self.process = process
        self.port = port
        self.lines: list[tuple[float, str]] = []

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append((time.perf_counter(), line.decode().rstrip()))

    async def until(self, pattern: str) -> re.Match[str]:
        until = time.perf_counter() + 60
        while time.perf_counter() < until:
            for _, line in self.lines:
                if found := re.search(pattern, line):
                    return found
            if self.process.returncode is not None:
                break
            await asyncio.sleep(0.02)
        raise RuntimeError("\n".join(line for _, line in self.lines))

    @property
    def changes(self) -> list[tuple[float, int, int]]:
        """When the number of workers was changed, from what, to what."""
        found = [(at, re.search(r"tenfold: (\d+) -> (\d+) workers", line)) for at, line in self.lines]
        return [(at, int(match[1]), int(match[2])) for at, match in found if match]

    def cpu(self) -> float:
        """Seconds of processor time of it and of the processes below it."""
        return sum(_cpu(pid) for pid in _tree(self.process.pid))


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(each.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _cpu(pid: int) -> float:
    """Of all its threads, by the scheduler's own account, which is in nanoseconds where `stat` has hundredths."""
    spent = 0
    for each in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            spent += int(each.read_text().split()[0])
    return spent / 1e9


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[Run]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stderr=asyncio.subprocess.PIPE, cwd=HERE.parent, start_new_session=True
    )
    run = Run(process)
    reading = asyncio.create_task(run.read())
    try:
        yield run
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 40)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        await reading


@asynccontextmanager
async def _serve(app: str, *arguments: str) -> AsyncIterator[Run]:
    async with _process(
        "tenfold",
        "serve",
        f"bench._serve_app:{app}",
        "--app-dir",
        str(HERE.parent),
        "--listen",
        "127.0.0.1:0",
        *arguments,
    ) as run:
        run.port = int((await run.until(r" on http://127\.0\.0\.1:(\d+), "))[1])
        await run.until("metrics on")
        yield run


# -- what is measured --------------------------------------------------------------------------------------------------


async def _goodput(workers: int, seconds: float) -> float:
    async with _serve("waiting", "--workers", str(workers), "--max-inflight", str(LIMIT)) as run:
        load = Load(run.port)
        await load.closed(workers * LIMIT, 1.0)
        rate = await load.closed(round(2.5 * workers * LIMIT), seconds)
        load.close()
        return rate


_SCALED: Final = ("--workers", "1..12", "--target-inflight", "7", "--max-inflight", str(LIMIT))


async def _step(quick: bool) -> dict[str, Any]:
    draw = random.Random(8)
    before, after = (3.0, 12.0) if quick else (10.0, 30.0)
    async with _serve("waiting", *_SCALED) as run:
        load = Load(run.port)
        await load.open_loop(0.5 * CAPACITY, 2.0, draw)
        await load.rest()
        await load.open_loop(CAPACITY * 0.6, before, draw)
        stepped = time.perf_counter()
        await load.open_loop(8 * CAPACITY, after, draw)
        await load.rest()
        found: dict[str, Any] = {
            "step_slo_seconds": _recovered(load, stepped, after),
            "step_failed": load.seen.failed,
            "step_requests": len(load.seen.answers),
            "step_workers": [[round(at - stepped, 1), old, new] for at, old, new in run.changes],
        }
        if not quick:
            found |= await _scale_in(run, load, draw)
        load.close()
    return found


def _recovered(load: Load, stepped: float, seconds: float) -> float | None:
    """Seconds after the step from which on every second met the SLO; None if the last one did not."""
    last = -1
    for second in range(int(seconds)):
        since, until = stepped + second, stepped + second + 1
        broken = any(status != 200 for due, _, status in load.seen.answers if since <= due < until)
        if broken or not load.seen.quantile(0.95, since, until) <= SLO_P95:
            last = second
    return None if last == int(seconds) - 1 else last + 1


async def _scale_in(run: Run, load: Load, draw: random.Random) -> dict[str, Any]:
    """The rate falls to one worker's; workers leave after the 60 s that the policy waits, one every 5 s."""
    mark, changes = len(load.seen.answers), len(run.changes)
    await load.open_loop(CAPACITY, 90.0, draw)
    await load.rest()
    lost = sum(1 for _, _, status in load.seen.answers[mark:] if status != 200)
    left = sum(old - new for _, old, new in run.changes[changes:] if new < old)
    return {"scale_in_lost": lost, "scale_in_requests": len(load.seen.answers) - mark, "scale_in_workers": left}


async def _noise(quick: bool) -> dict[str, Any]:
    """Constant load of three workers' worth, Poisson, after it has found its number."""
    draw, seconds = random.Random(9), 20.0 if quick else 120.0
    async with _serve("waiting", *_SCALED) as run:
        load = Load(run.port)
        await load.open_loop(3 * CAPACITY, 8.0, draw)
        settled = time.perf_counter()
        await load.open_loop(3 * CAPACITY, seconds, draw)
        await load.rest()
        directions = [new > old for at, old, new in run.changes if at >= settled]
        turns = sum(a != b for a, b in pairwise(directions))
        load.close()
    return {
        "noise_changes": len(directions),
        "noise_turns_per_minute": round(turns / seconds * 60, 2),
        "noise_seconds": seconds,
    }


async def _overhead(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for app, server in (("plain", "uvicorn"), ("fastapi", "uvicorn"), ("fastapi", "granian"), ("plain", "granian")):
        numbers = await _beside(app, server, 4 if quick else 7, 1.0 if quick else 2.0)
        found |= {f"overhead_{app}_{server}_{name}": value for name, value in numbers.items()}
    return found


async def _beside(app: str, server: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Bare and served in turns; the best of each."""
    factory = ["--factory"] if app == "fastapi" else []
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/bare.sock"
        async with (
            _serve(app, "--workers", "1", "--server", server, *factory) as front,
            _process(*_bare(app, server, socket)) as bare,
        ):
            await Load(socket).reachable()
            p50: dict[str, list[float]] = {"bare": [], "front": []}
            cpu: dict[str, list[float]] = {"bare": [], "front": []}
            for _ in range(rounds):
                for name, run, where in (("bare", bare, socket), ("front", front, front.port)):
                    load = Load(where)
                    await load.closed(1, seconds / 2)
                    p50[name].append(load.seen.quantile(0.5))
                    load.close()
                    load = Load(where)
                    used = run.cpu()
                    await load.closed(16, seconds)
                    cpu[name].append((run.cpu() - used) / len(load.seen.answers))
                    load.close()
    least = {name: min(several) for name, several in cpu.items()}
    return {
        "p50_ms": round(1000 * (min(p50["front"]) - min(p50["bare"])), 3),
        "cpu_ratio": round(least["front"] / least["bare"], 2),
        "cpu_us": [round(1e6 * least["bare"], 1), round(1e6 * least["front"], 1)],
    }


def _bare(app: str, server: str, socket: str) -> list[str]:
    name = f"bench._serve_app:{app}"
    factory = ["--factory"] if app == "fastapi" else []
    if server == "uvicorn":
        return ["uvicorn", name, "--uds", socket, "--no-access-log", "--log-level", "warning", *factory]
    return ["granian", name, "--interface", "asgi", "--uds", socket, "--no-log", *factory]
