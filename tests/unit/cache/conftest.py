"""A clock that stands still until it is moved."""

from __future__ import annotations

import asyncio

import pytest


class StillClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()
