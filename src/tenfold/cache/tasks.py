"""The tasks of one engine, each with an owner: loads are waited for at the end, everything else is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]

CLOSE_PATIENCE: Final = 5.0


class Tasks:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._loads: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that `aclose` cancels."""
        return self._start(work, self._background)

    def spawn_load(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that `aclose` waits for."""
        return self._start(work, self._loads)

    def _start(self, work: Coroutine[Any, Any, Any], owner: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        owner.add(task)
        task.add_done_callback(owner.discard)
        return task

    async def aclose(self) -> None:
        """Wait for the loads under way (5 s at most, then cancel them) and end everything else."""
        if self._loads:
            await asyncio.wait(self._loads, timeout=CLOSE_PATIENCE)
        if late := list(self._loads):
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=CLOSE_PATIENCE)
        others = list(self._background)
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_PATIENCE)
