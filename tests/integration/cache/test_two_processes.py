"""The promises between processes, with a process: a child reads what its parent changes and invalidates."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from tenfold.cache import Cache

CHILD = """
import asyncio, sys
from pathlib import Path
from tenfold.cache import Cache

origin = Path(sys.argv[2])

async def main() -> None:
    async with Cache("shop", redis=sys.argv[1], timeout="2s") as cache:
        @cache("1m", name="shared", memory=False)
        async def shared() -> str:
            return origin.read_text()

        @cache("1m", name="copied", tags=["origin"])
        async def copied() -> str:
            return origin.read_text()

        loop = asyncio.get_running_loop()
        while command := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if command == "heard":
                before = cache.stats().remote_invalidations
                print("listening", flush=True)
                async with asyncio.timeout(10):
                    while cache.stats().remote_invalidations == before:
                        await asyncio.sleep(0.001)
                print("yes", flush=True)
            else:
                print(await {"shared": shared, "copied": copied}[command](), cache.stats().loads, flush=True)

asyncio.run(main())
"""


async def test_a_child_reads_what_its_parent_wrote(valkey: Any, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_text("one")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, valkey.url, str(origin), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    answers = child.stdout

    async def ask(command: str) -> str:
        assert child.stdin is not None
        child.stdin.write(f"{command}\n".encode())
        return (await asyncio.wait_for(answers.readline(), 20)).decode().strip()

    try:
        async with Cache("shop", redis=valkey.url, timeout="2s") as cache:

            @cache("1m", name="shared", memory=False)
            async def shared() -> str:
                return origin.read_text()

            @cache("1m", name="copied", tags=["origin"])
            async def copied() -> str:
                return origin.read_text()

            assert await shared() == await copied() == "one"
            assert await ask("shared") == await ask("copied") == "one 0"  # both from level 2
            for turn in range(1, 30):
                origin.write_text(f"turn{turn}")
                assert await shared.invalidate()
                assert (await ask("shared")).split()[0] == f"turn{turn}"  # at once, no message awaited
                assert await shared() == f"turn{turn}"
            assert (await ask("copied")).split()[0] == "one"  # nobody has invalidated this one
            assert await ask("heard") == "listening"
            assert await cache.invalidate_tags("origin")
            assert (await asyncio.wait_for(answers.readline(), 20)).strip() == b"yes"
            assert (await ask("copied")).split()[0] == "turn29"
        child.stdin.close()
        assert await asyncio.wait_for(child.wait(), 20) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
