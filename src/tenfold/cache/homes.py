"""One cache in several event loops: what belongs to a loop is made at its first use there, and ends with it.

A *home* is an engine and, with level 2, the source of its connections. Those of loops that are closed (each
``asyncio.run`` leaves one) are let go when the next is made.

After a fork the child has none of the parent's loops and hears nothing with the parent's connections, so it begins
anew, and what level 1 holds no longer counts where other processes may invalidate it. The parent's homes are kept:
what they would do when they are collected they would do to the parent's sockets.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from tenfold.cache.assemble import assemble, check_url
from tenfold.cache.backplane import Backplane
from tenfold.cache.engine import Engine
from tenfold.cache.level_two import Getter, Level2, Source
from tenfold.cache.route import CONNECT_PATIENCE
from tenfold.cache.shared import Shared

_HARD: Final = 0.5
_BACKOFF: Final = 1.0


class Homes:
    """The engines of the cache ``name`` by event loop, with level 2 at ``url`` or without. ``soft`` is what a look-up
    waits for it, in seconds. Raises `MisuseError` for a URL that cannot be read.
    """

    def __init__(self, shared: Shared, name: str, url: str | None, *, credentials: Any, soft: float) -> None:
        if url is not None:
            check_url(url, credentials)  # refused here and not at the first call
        self._shared = shared
        self._name = name
        self._url = url
        self._credentials = credentials
        self._soft = soft
        self._sender = os.urandom(8)
        self._engines: dict[asyncio.AbstractEventLoop, tuple[Engine, Source | None]] = {}
        self.getters: dict[asyncio.AbstractEventLoop, Getter] = {}
        """How to ask level 2, by loop, as far as they have settled."""
        self._on_message: Callable[[list[str]], None]
        self._on_gap: Callable[[], None]
        _all.add(self)

    def listen(self, on_message: Callable[[list[str]], None], on_gap: Callable[[], None]) -> None:
        """What is done with the names that another process invalidates, and when some may have been missed. To be said
        before the first engine is made.
        """
        self._on_message, self._on_gap = on_message, on_gap

    def engine(self) -> Engine:
        """What belongs to the running loop, made at its first use."""
        loop = asyncio.get_running_loop()
        home = self._engines.get(loop)
        if home is None:
            for old in [one for one in self._engines if one.is_closed()]:
                self._leave(old)
            home = self._engines[loop] = self._settle()
            if home[0].level2 is not None:
                self.getters[loop] = home[0].level2.get
        return home[0]

    @property
    def pending(self) -> int:
        """Invalidations that wait for level 2 to come back."""
        return sum(level.pending for level in self._levels())

    @property
    def up(self) -> bool:
        """Whether level 2 is in use, by all loops that have one."""
        levels = self._levels()
        return bool(levels) and not any(level.down for level in levels)

    async def connect(self) -> None:
        """Settle in the running loop. A level 2 that does not answer within a second is used as soon as it does."""
        engine = self.engine()
        backplane = engine.backplane
        if backplane is not None and engine.level2 is not None:
            await engine.level2.connect()
            try:
                await asyncio.wait_for(backplane.connected.wait(), CONNECT_PATIENCE)
            except TimeoutError:
                self._shared.counters.l2_failures += 1

    async def aclose(self) -> None:
        """Wait for the loads of the running loop, and close its connections."""
        home = self._leave(asyncio.get_running_loop())
        if home is None:
            return
        engine, source = home
        try:
            await engine.tasks.aclose()
        finally:
            if source is not None:
                self._shared.memory.clear()  # from now on nobody hears what other processes invalidate
                await source.aclose()

    def detach(self, keys: Sequence[str]) -> None:
        """Nobody joins the loads of these keys any more, in no loop, and their values are not kept in level 1."""
        for engine, _ in list(self._engines.values()):
            engine.detach(keys)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> tuple[Engine, Source | None] | None:
        self.getters.pop(loop, None)
        return self._engines.pop(loop, None)

    def _levels(self) -> list[Level2]:
        return [engine.level2 for engine, _ in list(self._engines.values()) if engine.level2 is not None]

    def _settle(self) -> tuple[Engine, Source | None]:
        shared = self._shared
        engine = Engine(shared)
        if self._url is None:
            return engine, None
        level2, source = assemble(
            self._url,
            self._name,
            credentials=self._credentials,
            sender=self._sender,
            counters=shared.counters,
            clock=shared.clock,
            random=shared.random,
            spawn=engine.tasks.spawn,
            soft=self._soft,
            hard=max(_HARD, self._soft),
            backoff=_BACKOFF,
        )
        backplane = Backplane(
            source,
            level2.channel,
            sender=self._sender,
            on_message=self._on_message,
            on_gap=self._on_gap,
            settlements=level2.settlements,
            clock=shared.clock,
            backoff=_BACKOFF,
        )
        engine.attach(level2, backplane)
        return engine, source

    def _after_fork(self) -> None:
        self._sender = os.urandom(8)  # another process to all others
        _inherited.append(self._engines)
        self._engines = {}
        self.getters.clear()
        if self._url is not None:
            self._shared.barriers.invalidate_all()


_all: Final[weakref.WeakSet[Homes]] = weakref.WeakSet()
_inherited: Final[list[Any]] = []


def _after_fork() -> None:
    for homes in list(_all):
        homes._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
