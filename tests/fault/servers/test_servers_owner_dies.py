"""However the owner ends, its servers and files are gone: signals, SIGKILL, exceptions, cancellation."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tenfold.servers import Topology, Valkey
from tenfold.servers.process import ProcessId, alive, identify, send, table

OWNER = """
import asyncio, json
from tenfold.servers import Topology
async def main():
    async with Topology(shards=1, valkey=True) as t:
        print(json.dumps({"folder": str(t.run.folder), "pids": [s.pid for s in t.servers]}), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


class Owner:
    """A process that has started servers and waits."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        self.child = child
        self.folder = Path(told["folder"])
        servers = [identify(pid) for pid in told["pids"]]
        self.servers = [server for server in servers if server is not None]
        assert len(self.servers) == 3

    def keeper(self) -> ProcessId:
        keepers = [i.id for i in table().values() if "-S" in i.argv and str(self.folder) in i.argv]
        assert len(keepers) == 1
        return keepers[0]

    def gone(self) -> bool:
        return not self.folder.exists() and not any(map(alive, self.servers))


@contextmanager
def owner() -> Iterator[Owner]:
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield Owner(child)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def until(condition: Callable[[], bool], within: float = 15.0) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_owner_leaves_nothing(number: signal.Signals) -> None:
    with owner() as it:
        keeper = it.keeper()
        it.child.send_signal(number)
        it.child.wait(15)
        assert until(it.gone)
        assert until(lambda: not alive(keeper))


async def test_when_owner_and_keeper_are_killed_the_next_start_sweeps() -> None:
    with owner() as it:
        assert send(it.keeper(), signal.SIGKILL)
        it.child.kill()
        await asyncio.to_thread(it.child.wait)
        assert all(map(alive, it.servers))  # orphans, nobody left who knows of them
        async with Valkey():
            assert it.gone()


async def test_the_sweep_leaves_the_runs_of_the_living_alone() -> None:
    with owner() as it:
        async with Valkey():
            assert it.folder.exists()
            assert all(map(alive, it.servers))


async def test_an_exception_in_the_body_leaves_nothing() -> None:
    seen: list[tuple[Path, list[int]]] = []

    async def work() -> None:
        async with Topology(valkey=True) as t:
            seen.append((t.run.folder, [server.pid for server in t.servers]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    folder, pids = seen[0]
    assert not folder.exists()
    assert [identify(pid) for pid in pids] == [None, None]


@pytest.mark.parametrize("after", [0.0, 0.02, 0.2, 0.6])
async def test_cancellation_at_any_moment_of_the_start_leaves_nothing(state: Path, after: float) -> None:
    async def work() -> None:
        async with Topology(replicas=1, valkey=True):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.wait([task], timeout=after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    runs = state / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []
    assert [info.argv for info in table().values() if any(str(runs) in word for word in info.argv)] == []


async def test_cancelling_twice_does_not_break_off_the_clean_up() -> None:
    started = asyncio.Event()
    seen: list[Path] = []

    async def work() -> None:
        async with Topology() as t:
            seen.append(t.run.folder)
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not seen[0].exists()


def test_sigint_while_up_starts_leaves_nothing(state: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tenfold", "up"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    runs = state / "runs"
    try:
        assert until(lambda: runs.exists() and any(runs.glob("*/valkey.log")))
        os.kill(child.pid, signal.SIGINT)
        child.wait(20)
    finally:
        child.kill()
        child.wait()
    assert child.returncode != 0
    assert until(lambda: list(runs.iterdir()) == [])
    assert [info.argv for info in table().values() if any(str(runs) in word for word in info.argv)] == []


def test_two_makers_of_the_first_template_do_not_harm_each_other() -> None:
    """Two processes on an empty state folder at once; what a third has left half made is removed."""
    folder = Path(tempfile.mkdtemp(prefix="tenfold-race-"))
    folder.chmod(0o755)
    leftover = folder / "tmp" / "999999999-1-abc"  # a pid beyond the kernel's highest
    leftover.mkdir(parents=True)
    code = "import asyncio\nfrom tenfold.servers import Postgres\n"
    code += "async def main():\n    async with Postgres(): pass\nasyncio.run(main())"
    environment = {**os.environ, "TENFOLD_STATE": str(folder)}
    try:
        makers = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
        assert [maker.wait(60) for maker in makers] == [0, 0]
        assert len([place for place in (folder / "templates").iterdir() if place.is_dir()]) == 1
        assert list((folder / "tmp").iterdir()) == []
        assert list((folder / "runs").iterdir()) == []
    finally:
        shutil.rmtree(folder)
