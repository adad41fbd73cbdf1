"""The how-to is true: each block of Python in it is a test file, run here as its reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import tenfold
from tenfold.servers import Postgres

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "database-everyday.md"
FIXTURES = """
import os

import pytest
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture
async def new_engine():
    made = []

    def make():
        made.append(create_async_engine(os.environ["DATABASE"]))
        return made[-1]

    yield make
    for engine in made:
        await engine.dispose()


@pytest.fixture
def engine(new_engine):
    return new_engine()
"""


async def test_every_block_of_the_how_to_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    tests = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
    for number, block in enumerate(blocks):
        (tmp_path / f"test_block_{number}.py").write_text(block, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(FIXTURES, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n",
        encoding="utf-8",
    )
    async with Postgres() as server:
        done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(tenfold.__file__).parents[1]),
                "DATABASE": server.url.replace("://", "+asyncpg://"),
            },
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
