"""Whether the source of an app has changed: sizes and times of modification, looked at twice a second.

Theory. Editors write a file in several steps, and a checkout writes many; so a change counts when two looks in a row
see the same. Polling needs no library and works on every file system, network and container mounts included; a tree of
a thousand modules costs a few milliseconds a look.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

Snapshot = dict[str, tuple[int, int]]
"""Time of modification (ns) and size of each file."""
_EVERY: Final = 0.5
_NOT: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


def look(directory: str | Path) -> Snapshot:
    """The ``*.py`` files below ``directory``, without hidden directories, virtual environments and what is
    installed in them.
    """
    found: Snapshot = {}
    for where, folders, files in os.walk(directory):
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".")
            and each not in _NOT
            and not os.path.exists(os.path.join(where, each, "pyvenv.cfg"))
        ]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(where, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue  # it has just been renamed; the next look sees where to
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """The files that came, went or are others, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def named(files: Sequence[str], directory: str | Path) -> tuple[str, ...]:
    """The files as seen from ``directory``."""
    return tuple(os.path.relpath(each, directory) for each in files)


async def changes(directory: str | Path, *, every: float = _EVERY) -> AsyncIterator[list[str]]:
    """The files that have changed, each time that some have and the tree has come to rest."""
    settled = last = await asyncio.to_thread(look, directory)
    while True:
        await asyncio.sleep(every)
        now = await asyncio.to_thread(look, directory)
        if now == last and now != settled:
            found, settled = changed(settled, now), now
            yield found
        last = now
