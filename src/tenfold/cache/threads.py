"""One load a key however many threads ask: how plain functions are served, from level 1 alone.

The first thread that misses loads, in its own frame; the others wait for it, at most `PATIENCE` seconds. Then they
load for themselves, which also resolves two loads that wait for each other. The rules of invalidation are those
of `engine`: the epoch is taken before the load; a load is joined only while nothing of its tags was invalidated
since; its value is kept only if, in one step under the memory's lock, it is still the load of its key and its
tags are good.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from tenfold.cache.errors import LoadCancelled
from tenfold.cache.lookup import Spec
from tenfold.cache.shared import Shared

PATIENCE: Final = 30.0
"""Seconds after which a thread loads for itself; two loads that wait for each other end so."""


class _Load:
    """A load under way in one thread."""

    __slots__ = ("done", "epoch", "error", "owner", "tags", "value")

    def __init__(self, tags: tuple[str, ...], epoch: int) -> None:
        self.tags = tags
        self.epoch = epoch
        self.owner = (os.getpid(), threading.get_ident())
        self.done = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None


class Threads:
    """The loads under way of the plain functions of one cache."""

    __slots__ = ("_barriers", "_clock", "_counters", "_jitter", "_loads", "_memory", "_patience", "_random")

    def __init__(self, shared: Shared, *, jitter: float, patience: float = PATIENCE) -> None:
        self._memory = shared.memory
        self._barriers = shared.barriers
        self._counters = shared.counters
        self._clock = shared.clock
        self._jitter = jitter
        self._random = shared.random
        self._patience = patience
        self._loads: dict[str, _Load] = {}

    def fetch(self, spec: Spec, key: str, tags: tuple[str, ...], load: Callable[[], Any]) -> Any:
        """The value, loaded here or by another thread that already does. Raises what the loader raises."""
        with self._memory.lock:
            other = self._loads.get(key)
            if other is not None and self._may_join(other):
                self._counters.coalesced += 1
            else:
                other, mine = None, self._take_off(key, tags)
        if other is None:
            return self._run(spec, key, mine, load)
        if not other.done.wait(self._patience):
            with self._memory.lock:
                mine = self._take_off(key, tags)
            return self._run(spec, key, mine, load)
        if other.error is not None:
            raise other.error
        return other.value

    def refresh(self, spec: Spec, key: str, tags: tuple[str, ...], load: Callable[[], Any]) -> Any:
        """Load anew and replace. A load already under way will not be kept."""
        with self._memory.lock:
            mine = self._take_off(key, tags)
        return self._run(spec, key, mine, load)

    def detach(self, keys: Sequence[str]) -> None:
        """Nobody joins the loads of these keys any more, and their values are not kept."""
        with self._memory.lock:
            for key in keys:
                self._loads.pop(key, None)

    def _may_join(self, load: _Load) -> bool:
        pid, thread = load.owner
        # Not our own, which would wait for ever, nor one that began before a fork and has no thread here.
        mine = thread == threading.get_ident() or pid != os.getpid()
        return not mine and self._barriers.good(load.epoch, load.tags)

    def _take_off(self, key: str, tags: tuple[str, ...]) -> _Load:
        load = self._loads[key] = _Load(tags, self._barriers.epoch)
        return load

    def _run(self, spec: Spec, key: str, mine: _Load, load: Callable[[], Any]) -> Any:
        with self._memory.lock:
            self._counters.misses += 1
            self._counters.loads += 1
        began = self._clock.monotonic()
        try:
            mine.value = load()
        except BaseException as error:
            mine.error = error if isinstance(error, Exception) else LoadCancelled(f"{key}: the load was broken off")
            with self._memory.lock:
                self._counters.load_errors += 1
            raise
        else:
            self._keep(spec, key, mine)
        finally:
            now = self._clock.monotonic()
            with self._memory.lock:
                self._counters.load_seconds += now - began
                if self._loads.get(key) is mine:
                    del self._loads[key]
            mine.done.set()
        return mine.value

    def _keep(self, spec: Spec, key: str, mine: _Load) -> None:
        life = spec.ttl * (1 - self._jitter * self._random.random())
        until = self._clock.monotonic() + life
        with self._memory.lock:
            if self._loads.get(key) is mine and self._barriers.good(mine.epoch, mine.tags):
                self._memory.put(key, mine.value, until, mine.tags, mine.epoch)
            else:
                self._counters.refused += 1
