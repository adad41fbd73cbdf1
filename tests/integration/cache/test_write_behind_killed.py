"""What a crash costs: a process that writes behind is killed, and exactly what was not stored is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

CHILD = """
import asyncio, sys
from pathlib import Path
from tenfold.cache import Cache

origin = Path(sys.argv[1])

async def main() -> None:
    cache = Cache("t")

    @cache.write_behind(batch=10, delay="1h")
    async def save(batch: dict[int, int]) -> None:
        with origin.open("a") as file:
            for key, value in batch.items():
                file.write(f"{key}={value}\\n")

    loop = asyncio.get_running_loop()
    while command := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if command == "close":
            await cache.aclose()
        elif command == "stats":
            pass
        else:
            await save(int(command), int(command) * 2)
        await asyncio.sleep(0)
        stats = save.stats()
        while stats.pending >= 10:
            await asyncio.sleep(0)
            stats = save.stats()
        print(stats.put, stats.stored, stats.pending, flush=True)

asyncio.run(main())
"""


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, command: object) -> list[int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        answer = await asyncio.wait_for(self.process.stdout.readline(), 20)
        return [int(word) for word in answer.split()]


async def begin(origin: Path) -> Child:
    return Child(
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(origin), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    )


def stored(origin: Path) -> dict[int, int]:
    return {int(key): int(value) for key, _, value in (line.partition("=") for line in origin.read_text().splitlines())}


async def test_killed_it_loses_what_was_not_stored_and_nothing_else(tmp_path: Path) -> None:
    child = await begin(tmp_path / "origin")
    try:
        for number in range(1, 26):
            answer = await child.ask(number)
        assert answer == [25, 20, 5]
        child.process.kill()
        await asyncio.wait_for(child.process.wait(), 20)
    finally:
        if child.process.returncode is None:
            child.process.kill()
            await child.process.wait()
    # 25 were acknowledged; the two full batches are there, and the five that waited are lost.
    assert stored(tmp_path / "origin") == {number: number * 2 for number in range(1, 21)}


async def test_closed_it_loses_nothing(tmp_path: Path) -> None:
    child = await begin(tmp_path / "origin")
    try:
        for number in range(1, 26):
            await child.ask(number)
        assert await child.ask("close") == [25, 25, 0]
    finally:
        child.process.kill()
        await asyncio.wait_for(child.process.wait(), 20)
    assert stored(tmp_path / "origin") == {number: number * 2 for number in range(1, 26)}
