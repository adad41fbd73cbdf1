"""The how-to is true: each block of Python in it is a test file, run here as its reader would run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_every_block_of_the_how_to_passes(
    passes: Callable[[str], int], tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("\n```python\n") == 7
    (tmp_path / "conftest.py").write_text(FIXTURES, encoding="utf-8")
    monkeypatch.setenv("DATABASE", server.url.replace("://", "+asyncpg://"))
    assert passes(page) == 7
