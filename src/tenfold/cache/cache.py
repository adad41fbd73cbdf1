"""The front: one `Cache` a subject, over level 1 in this process and level 2 shared by all."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, share
from tenfold.cache.backplane import Backplane
from tenfold.cache.codec import Codec
from tenfold.cache.counters import CacheStats, Counters
from tenfold.cache.engine import Engine, Shared
from tenfold.cache.flight import Flight
from tenfold.cache.function import Cached, CachedMany, cached, name_of, result_type, value_type
from tenfold.cache.keys import check_tags
from tenfold.cache.link import Link
from tenfold.cache.lookup import Spec, Wanted
from tenfold.cache.memory import Entry, Memory
from tenfold.cache.redis import EVERYTHING, MAX_KEYS_A_BATCH, Level2
from tenfold.cache.tags import Barriers
from tenfold.cache.wire import Wire

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")

_CONNECT_PATIENCE: Final = 1.0
_HARD: Final = 0.5
_BACKOFF: Final = 1.0


class Cache:
    """A cache in two levels: memory in this process, and a Valkey or Redis that all processes share.

    ``name`` separates caches that share a server. ``redis`` is the server's URL; without it there is level 1
    alone. ``max_items`` (100,000) and ``max_bytes`` (none) bound level 1. ``ttl`` (5 minutes) is the life of
    entries whose decorator names none; it is shortened at random by up to ``jitter`` (0.1), so that what was
    loaded together does not expire together. ``timeout`` (50 ms) is what a look-up waits for level 2 before
    it turns to the loader. ``wire`` says how values are compressed and signed in level 2 (see `Wire`),
    ``credentials`` is a redis-py credentials provider for tokens that change.

    What is promised: one load a process however many ask; after ``await invalidate()`` this process never
    serves what was loaded before, and no value whose load began before an invalidation is kept in either
    level. Other processes drop their level-1 copies when the message reaches them; a function declared with
    ``memory=False`` has no such copies. A failing level 2 is counted and never raises.

    Raises `MisuseError` for arguments that make no sense. Event loop: any, one after another; one thread at a
    time.
    """

    def __init__(
        self,
        name: str,
        *,
        redis: str | None = None,
        max_items: int = 100_000,
        max_bytes: Size | None = None,
        ttl: Duration = "5m",
        jitter: float = 0.1,
        timeout: Duration = "50ms",
        stale: None = None,
        wire: Wire | None = None,
        credentials: Any = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
    ) -> None:
        if type(name) is not str or not re.fullmatch(r"[\w.-]+", name):
            raise MisuseError(f'name: expected letters, digits, "_", "." and "-", such as "shop", got {name!r}')
        if stale is not None:
            raise MisuseError(f"stale: serving stale values is not built yet; leave the argument out (got {stale!r})")
        if redis is not None and not isinstance(redis, str):
            raise MisuseError(f"redis: expected a URL such as redis://127.0.0.1:6379/0 or None, got {redis!r}")
        self.name = name
        self._url = redis
        self._wire = wire
        self._credentials = credentials
        self._ttl = _ttl(ttl, "ttl")
        self._soft = _ttl(timeout, "timeout")
        self._shared = Shared(
            memory=Memory(max_items, max_bytes=max_bytes, clock=clock),
            barriers=Barriers(),
            counters=Counters(),
            clock=clock,
            jitter=share(jitter, "jitter"),
            random=random or Random(),
        )
        self._memory = self._shared.memory
        self._names: set[str] = set()
        self._sender = os.urandom(8)
        self._engines: dict[asyncio.AbstractEventLoop, tuple[Engine, Link | None]] = {}
        if redis is not None:
            Link(redis, credentials=credentials)  # a URL that cannot be read is refused here and not at the first call

    # -- decorators

    def __call__(
        self,
        ttl: Duration | None = None,
        *,
        tags: Sequence[str] = (),
        memory: bool = True,
        name: str | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Cache the results of an ``async def`` for ``ttl`` (default: the cache's own).

        ``tags`` are texts or templates over the arguments (``"product:{product_id}"``). ``memory=False``
        keeps values in level 2 only: a look-up then costs a round trip, and after an acknowledged
        `invalidate` no process reads the old value. ``name`` (default: module and qualified name) is the
        function's part of the key. ``None`` is cached too.

        Raises `MisuseError` for methods, plain functions, ``*args``, and types that level 2 cannot carry; the
        wrapper raises it for arguments that cannot be part of a key.
        """
        if callable(ttl):
            raise MisuseError('cache: write `@cache()` or `@cache("1m")`, with brackets')

        def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
            full = self._register(function, name, memory)
            kind = result_type(function, full, needed=self._url is not None)
            return cached(self, function, self._spec(full, ttl, memory, kind), tags)

        return decorate

    def many(
        self,
        ttl: Duration | None = None,
        *,
        tags: Sequence[str] = (),
        memory: bool = True,
        name: str | None = None,
    ) -> Callable[[Callable[[list[K]], Awaitable[dict[K, V]]]], CachedMany[K, V]]:
        """Cache an ``async def`` that takes a list of ids and returns a dictionary; it sees only the missing
        ids.

        Templates in ``tags`` know ``{id}``. The rest is as for single results.
        """

        def decorate(function: Callable[[list[K]], Awaitable[dict[K, V]]]) -> CachedMany[K, V]:
            full = self._register(function, name, memory)
            needed = self._url is not None
            kind = value_type(result_type(function, full, needed=needed), full, needed=needed)
            return CachedMany(self, function, self._spec(full, ttl, memory, kind), tags)

        return decorate

    # -- by key

    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], Awaitable[R]],
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        memory: bool = True,
        kind: Any = Any,
    ) -> R:
        """The value of ``key``, from ``loader()`` if it is cached nowhere.

        ``kind`` is the type that level 2 makes again (default: plain containers, numbers and texts).
        """
        if type(key) is not str or key == "":
            raise MisuseError(f"key: expected a text that is not empty, got {key!r}")
        self._check_memory(key, memory)
        if memory and (entry := self.look(key)) is not None:
            return cast("R", entry.value)

        async def load(_: Sequence[Flight]) -> Sequence[Any]:
            return [await loader()]

        wanted = (Wanted(key, check_tags(tuple(tags), key)),)
        return cast("R", (await self.engine().fetch(self._spec(key, ttl, memory, kind), wanted, load))[0])

    async def invalidate(self, *keys: str) -> bool:
        """Forget these keys, in all processes. False if level 2 did not confirm it; then it is repeated until
        it does.
        """
        return await self._invalidate(list(keys), [])

    async def invalidate_tags(self, *tags: str) -> bool:
        """Forget whatever carries one of these tags. As `invalidate`; the time does not grow with the
        entries.
        """
        return await self._invalidate([], list(check_tags(tags, "invalidate_tags")))

    async def clear(self) -> bool:
        """Forget everything under this cache's name, in all processes. As `invalidate`."""
        return await self._invalidate([], [""])

    # -- life and state

    async def __aenter__(self) -> Cache:
        """Connect. A level 2 that does not answer within a second is used as soon as it does."""
        engine = self.engine()
        backplane = engine.backplane
        if backplane is not None and engine.level2 is not None:
            await engine.level2.connect()
            try:
                await asyncio.wait_for(backplane.connected.wait(), _CONNECT_PATIENCE)
            except TimeoutError:
                self._shared.counters.l2_failures += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for loads under way, close the running loop's connections. The cache may be used again
        afterwards.
        """
        home = self._engines.pop(asyncio.get_running_loop(), None)
        if home is None:
            return
        engine, link = home
        try:
            await engine.aclose()
        finally:
            if link is not None:
                self._memory.clear()  # from now on nobody hears what other processes invalidate
                await link.aclose()

    def stats(self) -> CacheStats:
        """A snapshot of this process's counters."""
        counters, memory = self._shared.counters, self._memory.stats()
        levels = [engine.level2 for engine, _ in self._engines.values() if engine.level2 is not None]
        return CacheStats(
            **{name: getattr(counters, name) for name in Counters.__slots__},
            pending_invalidations=sum(level.pending for level in levels),
            l2_up=bool(levels) and not any(level.down for level in levels),
            entries=memory.entries,
            bytes=memory.bytes,
            evictions=memory.evictions,
            expirations=memory.expirations,
        )

    def __repr__(self) -> str:
        level2 = "no level 2" if self._url is None else "level 2 " + ("up" if self.stats().l2_up else "not in use")
        return f"Cache({self.name!r}, {self._memory!r}, {level2})"

    # -- for the decorators of this package

    def engine(self) -> Engine:
        """What belongs to the running loop, made at its first use."""
        loop = asyncio.get_running_loop()
        home = self._engines.get(loop)
        if home is None:
            for old in [one for one in self._engines if one.is_closed()]:
                del self._engines[old]
            home = self._engines[loop] = self._settle()
        return home[0]

    def hit_path(self) -> dict[str, Any]:
        """What a compiled wrapper needs to answer from level 1."""
        return {
            "_tf_index": self._memory._index,
            "_tf_barriers": self._shared.barriers,
            "_tf_counters": self._shared.counters,
            "_tf_now": self._shared.clock.monotonic,
        }

    def look(self, key: str) -> Entry | None:
        """Level 1's answer, counted as a hit."""
        entry = self._memory._index.get(key)
        if entry is None or entry.epoch != self._shared.barriers.epoch or entry.until <= self._shared.clock.monotonic():
            return self.revalidate(key)
        if entry.n < 3:
            entry.n += 1
        self._shared.counters.hits += 1
        return entry

    def revalidate(self, key: str) -> Entry | None:
        """As `look`, for an entry that met an invalidation since it was last seen, or whose time is over."""
        entry = self._memory._index.get(key)
        if entry is None:
            return None
        if entry.until <= self._shared.clock.monotonic():
            self._memory._expire(entry)
            return None
        if not self._shared.barriers.good(entry.epoch, entry.tags):
            self._memory.delete(key)
            return None
        entry.epoch = self._shared.barriers.epoch
        if entry.n < 3:
            entry.n += 1
        self._shared.counters.hits += 1
        return entry

    # -- inside

    def _settle(self) -> tuple[Engine, Link | None]:
        engine = Engine(self._shared)
        if self._url is None:
            return engine, None
        link = Link(self._url, credentials=self._credentials)
        engine.level2 = Level2(
            link,
            self.name,
            sender=self._sender,
            counters=self._shared.counters,
            clock=self._shared.clock,
            spawn=engine.spawn,
            soft=self._soft,
            hard=max(_HARD, self._soft),
            backoff=_BACKOFF,
        )
        engine.backplane = Backplane(
            link,
            engine.level2.channel,
            sender=self._sender,
            on_message=self._heard,
            on_gap=self._gap,
            settlements=engine.level2.settlements,
            clock=self._shared.clock,
            backoff=_BACKOFF,
        )
        engine.spawn(engine.backplane.run())
        return engine, link

    async def _invalidate(self, keys: list[str], tags: list[str]) -> bool:
        self._shared.counters.invalidations += 1
        # Shielded: a caller that goes away must not leave half an invalidation behind.
        return await asyncio.shield(self.engine().spawn_load(self._invalidate_both(keys, tags)))

    async def _invalidate_both(self, keys: list[str], tags: list[str]) -> bool:
        self._forget(keys, tags)
        level2 = self.engine().level2
        if level2 is None:
            return True
        names = [f"e:{key}" for key in keys] + [f"t:{tag}" for tag in tags]
        confirmed = True
        for start in range(0, len(names), MAX_KEYS_A_BATCH):
            confirmed &= await level2.invalidate(names[start : start + MAX_KEYS_A_BATCH])
        # Again: a look-up between the first time and level 2's answer may have fetched the old value from
        # there.
        self._forget(keys, tags)
        return confirmed

    def _forget(self, keys: list[str], tags: list[str]) -> None:
        """Level 1 and the loads under way."""
        if "" in tags:
            self._shared.barriers.invalidate_all()
            self._memory.clear()
            return
        for key in keys:
            self._memory.delete(key)
        for engine, _ in self._engines.values():
            engine.detach(keys)
        if tags:
            self._shared.barriers.invalidate(tags)

    def _heard(self, names: list[str]) -> None:
        self._shared.counters.remote_invalidations += 1
        tags = [name[2:] for name in names if name.startswith("t:")]
        self._forget([name[2:] for name in names if name.startswith("e:")], tags)

    def _gap(self) -> None:
        self._shared.counters.backplane_gaps += 1
        self._forget([], [""])

    def _register(self, function: Callable[..., Any], name: str | None, memory: bool) -> str:
        full = name_of(function, name)
        if full in self._names:
            raise MisuseError(f"{full}: another function of this cache has this name; give one of them `name=`")
        self._check_memory(full, memory)
        self._names.add(full)
        return full

    def _check_memory(self, where: str, memory: bool) -> None:
        if not memory and self._url is None:
            raise MisuseError(f"{where}: memory=False needs level 2; give the cache a `redis=` URL")

    def _spec(self, name: str, ttl: Duration | None, memory: bool, kind: Any) -> Spec:
        life = self._ttl if ttl is None else _ttl(ttl, f"{name}: ttl")
        return Spec(name=name, ttl=life, memory=memory, codec=self._codec(kind, name))

    def _codec(self, kind: Any, name: str) -> Codec:
        return Codec(Any if self._url is None else kind, name, self._wire)


def _ttl(value: Duration, name: str) -> float:
    seconds = duration(value, name)
    if seconds < 0.001:
        raise MisuseError(f"{name}: expected at least 1 ms, got {value!r}")
    return seconds


assert EVERYTHING == "t:"  # the empty tag, which `clear` invalidates
