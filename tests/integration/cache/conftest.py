"""A Valkey of each test's own; several `Cache` objects on it stand for processes, each with a level 1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tenfold.servers import Valkey


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


@pytest.fixture
def valkey_sync() -> Iterator[str]:
    """The URL of one, for tests that run event loops of their own."""
    with asyncio.Runner() as runner:
        server = Valkey()
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.close())


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server or in the counters
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition, with a deadline."""
    return _until
