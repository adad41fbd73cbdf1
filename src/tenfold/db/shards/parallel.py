"""Several shards at once, and none left running when one fails or the caller is cancelled.

Not `asyncio.TaskGroup`: in Python 3.11 a group whose member fails leaves its parent's ``cancelling()`` count one
too high, after which a deadline around it no longer knows its own cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tenfold._core.tasks import shielded

T = TypeVar("T")


async def together(work: Sequence[Callable[[], Awaitable[T]]], concurrency: int) -> list[T]:
    """The results in order, at most ``concurrency`` at a time. The first failure cancels the others and is raised."""
    if len(work) <= 1:
        return [await call() for call in work]
    gate = asyncio.Semaphore(concurrency)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    tasks = [asyncio.create_task(one(call)) for call in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if not all(task.done() for task in tasks):
            await shielded(_end(tasks))
    failures = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if failures:
        raise failures[0]
    return [task.result() for task in tasks]


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
