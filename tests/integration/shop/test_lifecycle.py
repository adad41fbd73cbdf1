"""A shop is there when its block begins and gone when it ends, whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from blackfriday.processes import NotReady, answers, free_port, import_path

pytestmark = pytest.mark.asyncio(loop_scope="session")


def group(leader: int) -> list[int]:
    """The living processes of a process group (zombies, which nobody has reaped yet, are not living)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(name))
    return found


async def gone(leader: int) -> bool:
    async with asyncio.timeout(10):
        while group(leader):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    return True


pytestmark = [pytestmark, pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")]


async def test_nothing_is_left_after_the_block(world: Any) -> None:
    async with world.shop(variant="tuned", rung="shapes", workers=2) as shop:
        leader, port = shop.pid, shop.port
        assert len(group(leader)) >= 3
        assert (await shop.stats())["workers"] == 2
        assert "tuned at shapes, 2 workers" in repr(shop)
    assert await gone(leader)
    assert not await answers(port)


async def test_nothing_is_left_after_an_exception_or_a_cancellation(world: Any) -> None:
    leaders: list[int] = []
    opened = asyncio.Event()

    async def hold() -> None:
        async with world.shop(variant="tuned", rung="shapes") as shop:
            leaders.append(shop.pid)
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    async with asyncio.timeout(40):
        await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(leaders[0])


async def test_a_start_that_is_cancelled_leaves_nothing(world: Any) -> None:
    shop = world.shop(variant="tuned", rung="shapes")
    task = asyncio.create_task(shop.__aenter__())
    async with asyncio.timeout(40):
        while shop._child is None or shop._child._process is None:  # noqa: ASYNC110 - until it is being started
            await asyncio.sleep(0.001)
    leader = shop._child.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(leader)


async def test_workers_die_even_when_their_parent_was_killed(world: Any) -> None:
    async with world.shop(variant="tuned", rung="shapes", workers=2) as shop:
        leader = shop.pid
        os.kill(leader, signal.SIGKILL)
    assert await gone(leader)


async def test_a_server_that_cannot_start_says_why(world: Any) -> None:
    nobody = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with pytest.raises(NotReady, match=r"the tuned shop (ended while starting|did not answer)"):
        async with world.shop(variant="tuned", rung="shapes", database=nobody, within=15):
            pass


async def test_options_out_of_range_are_refused(world: Any) -> None:
    with pytest.raises(ValueError, match="workers must be from 1 to 64, got 0"):
        world.shop(workers=0)
    with pytest.raises(ValueError, match="warm must be from 0"):
        world.shop(warm=-1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_a_killed_owner_takes_the_shop_along(world: Any, tmp_path: Path) -> None:
    code = (
        "import asyncio; from blackfriday import Shop\n"
        "async def main():\n"
        f"    async with Shop(variant='tuned', rung='shapes', database={world.database!r}) as shop:\n"
        "        print(shop.pid, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    # The folder of its counters is left behind, which is all that a killed owner leaves.
    environment = {**os.environ, **import_path(), "TMPDIR": str(tmp_path)}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        async with asyncio.timeout(40):
            leader = int(await owner.stdout.readline())
        assert len(group(leader)) >= 2
    finally:
        owner.kill()
        await owner.wait()
    assert await gone(leader)
