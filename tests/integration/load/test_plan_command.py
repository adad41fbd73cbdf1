"""``tenfold plan`` on results that were measured against a real server whose workers take one request at a time."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tenfold.cli.plan import plan
from tenfold.load import Constant, Objective, SearchOptions, find_breakpoint, load_scenario, run
from tenfold.load.slo import Verdict, verdict

HOLD = 0.02
SLO = "p95<400ms"
OBJECTIVES = [Objective(p95="400ms")]
ONE = """
    @journey
    async def one(user):
        with step("one"):
            await user.get("/")
"""


@pytest.fixture
def planned(capsys: Any) -> Any:
    """``planned(rate, files, …)``: exit code, output and errors of the command."""

    def run_it(rate: str, *files: str, **options: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            plan(rate=rate, results=files, **options)
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run_it


@pytest.fixture
def app(serve: Any, scenario_file: Any) -> Any:
    """``await app(4)``: a scenario against a server with so many workers, each of which does 50 a second."""

    async def start(workers: int) -> Any:
        free = asyncio.Semaphore(workers)

        async def handle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            async with free:
                await asyncio.sleep(HOLD)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            return True

        return load_scenario(scenario_file((await serve(handle)).url, ONE))

    return start


async def measured(scenario: Any, rate: int, path: Path) -> Path:
    """A run of one second at ``rate``; again while it is invalid, as a busy machine makes it."""
    for _ in range(6):
        result = await run(scenario, Constant(rate, 1.0), seed=1, objectives=OBJECTIVES)
        if verdict(result) is not Verdict.INVALID:
            break
    result.save(path)
    return path


async def test_runs_that_held_and_missed_become_a_plan_or_a_sentence(app: Any, planned: Any, tmp_path: Path) -> None:
    one = await app(1)
    held, four = await asyncio.gather(
        measured(one, 20, tmp_path / "20.json"), measured(await app(4), 60, tmp_path / "60.json")
    )
    missed = await measured(one, 120, tmp_path / "120.json")
    files = (f"1={held}", f"1={missed}", f"4={four}")

    code, text, err = planned("40/s", *files, slo=SLO, json=True)
    assert (code, err) == (0, "")
    told = json.loads(text)
    assert [(one["workers"], one["rate"], one["at_least"]) for one in told["measured"]] == [
        (1, 20, False),
        (4, 60, True),
    ]
    assert (told["plan"]["workers"], told["plan"]["capacity"]) == (4, 60)
    # A request holds a worker for 20 ms at least, so by Little's law 0.02 × 40 are under way or more.
    assert told["plan"]["in_flight"] >= 40 * HOLD * 0.99
    assert told["notes"] == ["4 workers never missed the SLO, so they may do more than 60/s."]

    code, text, err = planned("40/s", *files, database_time="4ms")
    assert (code, err) == (0, "")
    assert "at least 60/s" in text
    assert re.search(r"database connections\s+8\b", text)
    assert re.search(r"database replicas\s+not known: measure it and give --replica-rate", text)
    assert "- A request holds a database connection for 4.00 ms, at that rate too." in text

    code, text, err = planned("400/s", *files, slo=SLO)
    assert code == 2
    assert err.startswith("tenfold: plan: 571/s is beyond what was measured")
    assert "; measure the breakpoint at three different numbers of workers" in err


@pytest.mark.slow
async def test_a_breakpoint_says_how_many_were_under_way(app: Any, planned: Any, tmp_path: Path) -> None:
    options = SearchOptions(start=20, precision=0.5, samples=60, min_seconds=1.5, max_probes=4)
    found = await find_breakpoint(await app(1), objectives=OBJECTIVES, search=options)
    path = tmp_path / "one.json"
    path.write_bytes(msgspec.json.encode(found))
    code, text, err = planned("10/s", f"1={path}", slo=SLO, json=True)
    assert code == 0, err
    told = json.loads(text)
    assert told["plan"]["workers"] == 1
    assert 20 <= told["measured"][0]["rate"] <= 60, "a worker does 50 a second"
    assert told["measured"][0]["response_time"] >= HOLD * 0.9
