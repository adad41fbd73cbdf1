"""Invalidation in this process: by barrier, in constant time, however many entries carry a tag.

One counter, the *epoch*, goes up with each invalidation. An entry remembers the epoch at which the load of
its value *began*; ``barrier[tag]`` is the epoch of the tag's last invalidation. An entry is good while no barrier of
its tags lies above its own epoch. Because the epoch is taken before the load, a value whose load began before
an invalidation is refused at its first look-up, whenever it arrived. A look-up compares one integer; only
after some invalidation does each entry pay for one look at its tags, after which it takes over the present
epoch.

The compiled wrappers compare by identity, with a global of their own namespace, which is the fastest comparison
there is. So an epoch is handed on as the object it is, never computed a second time, and each invalidation puts the
new one into every namespace. It does so last: whoever still sees the old epoch looks before the invalidation has
been acknowledged, and whoever sees the new one finds the barriers in place.

Barriers are bounded: past ``limit`` tags the *floor* rises to the present epoch, which invalidates every
older entry.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final

EPOCH: Final = "_tf_epoch"
_COVER: Final = object()  # the epoch of no entry


class Barriers:
    """The epoch of this process and the barriers of its tags."""

    __slots__ = ("__weakref__", "_barrier", "_covers", "_floor", "_limit", "_lock", "_namespaces", "covered", "epoch")

    def __init__(self, limit: int = 100_000) -> None:
        self.epoch = 1
        self._floor = 0
        self._limit = limit
        self._barrier: dict[str, int] = {}
        self._namespaces: list[dict[str, Any]] = []
        self._covers = 0
        self.covered = False
        """Whether no wrapper may answer by itself."""
        self._lock = threading.Lock()
        _barriers.add(self)

    def show(self, namespace: dict[str, Any]) -> None:
        """Keep the present epoch in ``namespace`` from now on."""
        with self._lock:
            self._namespaces.append(namespace)
            self._show(namespace)

    def cover(self, by: int) -> None:
        """Let every wrapper take its slow path, which asks whether it may answer (``by`` 1), or no longer (-1)."""
        with self._lock:
            self._covers += by
            self.covered = self._covers > 0
            for namespace in self._namespaces:
                self._show(namespace)

    def _show(self, namespace: dict[str, Any]) -> None:
        namespace[EPOCH] = _COVER if self._covers else self.epoch

    def invalidate(self, tags: Iterable[str]) -> None:
        """Whatever carries one of these tags and began before now is no longer good."""
        with self._lock:
            epoch = self.epoch + 1
            for tag in tags:
                self._barrier[tag] = epoch
            if len(self._barrier) > self._limit:
                self._floor = epoch
                self._barrier.clear()
            self._publish(epoch)

    def invalidate_all(self) -> None:
        """Whatever began before now is no longer good."""
        with self._lock:
            epoch = self.epoch + 1
            self._floor = epoch
            self._barrier.clear()
            self._publish(epoch)

    def _publish(self, epoch: int) -> None:
        self.epoch = epoch
        for namespace in self._namespaces:
            self._show(namespace)

    def good(self, epoch: int, tags: tuple[str, ...]) -> bool:
        """Whether a load that began at ``epoch`` with these tags has met no invalidation since."""
        if epoch < self._floor:
            return False
        return all(self._barrier.get(tag, 0) <= epoch for tag in tags)

    def _after_fork(self) -> None:
        """In the child, where a thread that held the lock is not: no half-done invalidation may be lost."""
        self._lock = threading.Lock()
        self.invalidate_all()


_barriers: weakref.WeakSet[Barriers] = weakref.WeakSet()


def _after_fork() -> None:
    for barriers in list(_barriers):
        if barriers._lock.locked():
            barriers._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
