"""A Valkey of each test's own behind a proxy that fails on command, and a client that goes past the proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio

from tenfold.servers import Valkey
from tenfold.testing import FaultProxy


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(valkey.url) as proxy:
        yield proxy


@pytest.fixture
async def direct(valkey: Valkey) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(valkey.url)
    yield client
    await client.aclose()


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server or in the counters
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition, with a deadline."""
    return _until
