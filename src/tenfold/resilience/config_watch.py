"""When a file has changed, when the change is complete, and what there is to tell of it.

A change is recognised by what the file holds, read whole at each look: a file of a few kilobytes costs
microseconds, and modification times miss a second edit within a clock tick, a swapped symbolic link (Kubernetes
mounts its ConfigMaps so) and a file moved into place with its old time stamp. A file caught while it is being
written looks different a moment later, so it only counts once it has looked the same twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from tenfold._core.clock import Clock
from tenfold._core.events import Event
from tenfold._core.tasks import shielded

_SETTLE: Final = 0.1
"""Seconds between the two looks."""
_LOOKS: Final = 20
"""How often a file that goes on changing is looked at before the interval starts anew."""


@dataclass(frozen=True, slots=True)
class ConfigReloaded(Event):
    """A file was read anew and is in force. ``changes`` are lines such as ``payments.timeout: '1s' -> '2s'``."""

    path: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigRejected(Event):
    """A file was read anew, was wrong, and changed nothing. ``problems`` has a sentence for each thing wrong."""

    path: str
    problems: tuple[str, ...]


async def watch(
    look: Callable[[], str],
    seen: Callable[[], str],
    take: Callable[[], Coroutine[Any, Any, None]],
    interval: float,
    clock: Clock,
) -> None:
    """Every ``interval`` seconds compare ``look()`` (a digest, read in a thread) with ``seen()``, for ever.

    When the file has come to rest with another digest, ``take()`` it: to its end, also when the watch ends meanwhile.
    """
    while True:
        await clock.sleep(interval)
        digest = await asyncio.to_thread(look)
        for _ in range(_LOOKS):
            if digest == seen():
                break
            await clock.sleep(min(interval, _SETTLE))
            before, digest = digest, await asyncio.to_thread(look)
            if digest == before:
                await shielded(take())
                break
