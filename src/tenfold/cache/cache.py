"""The front: one `Cache` a subject, over level 1 in this process and level 2 shared by all."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, Unpack, cast

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, share
from tenfold.cache.around import Around
from tenfold.cache.assemble import assemble, check_url
from tenfold.cache.backplane import Backplane
from tenfold.cache.bridge import Bridge
from tenfold.cache.codec import Codec
from tenfold.cache.counters import CacheStats, Counters
from tenfold.cache.engine import Engine
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.freshness import Freshness, FreshnessOptions, Phase, declared, life_time
from tenfold.cache.function import Decorator, cached, name_of, result_type, value_type
from tenfold.cache.hit import HitPath
from tenfold.cache.keys import check_tags
from tenfold.cache.level_two import Level2, Source
from tenfold.cache.lookup import Spec, Wanted
from tenfold.cache.many import CachedMany
from tenfold.cache.memory import Memory
from tenfold.cache.redis import EVERYTHING, MAX_KEYS_A_BATCH
from tenfold.cache.stale import Shared
from tenfold.cache.tags import Barriers
from tenfold.cache.threads import Threads
from tenfold.cache.wire import Wire

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")

_CONNECT_PATIENCE: Final = 1.0
_HARD: Final = 0.5
_BACKOFF: Final = 1.0


class Cache(Around):
    """A cache in two levels: memory in this process, and a Valkey or Redis that all processes share.

    ``name`` separates caches that share a server. ``redis`` is the server's URL; without it there is level 1
    alone. ``max_items`` (100,000) and ``max_bytes`` (none) bound level 1, and ``policy`` says what goes first
    (see `Memory`). ``ttl`` (5 minutes) is the life of entries whose decorator names none; it is shortened at
    random by up to ``jitter`` (0.1), so that what was loaded together does not expire together. ``timeout``
    (50 ms) is what a look-up waits for level 2 before it turns to the loader. ``wire`` says how values are
    compressed and signed in level 2 (see `Wire`), ``credentials`` is a redis-py credentials provider for tokens that
    change. ``stale="1h"`` and the other options of `FreshnessOptions` say what may be served after the TTL; they are
    the defaults of its functions.

    What is promised: one load a process however many ask; after ``await invalidate()`` this process never
    serves what was loaded before, and no value whose load began before an invalidation is kept in either
    level. Other processes drop their level-1 copies when the message reaches them; a function declared with
    ``memory=False`` has no such copies. A failing level 2 is counted and never raises.

    ``async with cache:`` (or ``with cache:``, where there are plain functions alone) connects and closes.

    Raises `MisuseError` for arguments that make no sense. Event loop: any, one after another; one thread at a
    time; plain functions: any thread.
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
        policy: str = "s3fifo",
        timeout: Duration = "50ms",
        wire: Wire | None = None,
        credentials: Any = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
        **freshness: Unpack[FreshnessOptions],
    ) -> None:
        if type(name) is not str or not re.fullmatch(r"[\w.-]+", name):
            raise MisuseError(f'name: expected letters, digits, "_", "." and "-", such as "shop", got {name!r}')
        if redis is not None and not isinstance(redis, str):
            raise MisuseError(f"redis: expected a URL such as redis://127.0.0.1:6379/0 or None, got {redis!r}")
        self.name = name
        self._url = redis
        self._wire = wire
        self._credentials = credentials
        self._fresh = declared(
            Freshness(ttl=life_time(ttl, "ttl"), jitter=share(jitter, "jitter")), "", None, freshness
        )
        self._soft = life_time(timeout, "timeout")
        self._shared = Shared(
            memory=Memory(max_items, max_bytes=max_bytes, policy=policy, clock=clock),
            barriers=Barriers(),
            counters=Counters(),
            clock=clock,
            random=random or Random(),
        )
        self._memory = self._shared.memory
        self.threads = Threads(
            memory=self._memory,
            barriers=self._shared.barriers,
            counters=self._shared.counters,
            clock=clock,
            jitter=self._fresh.jitter,
            random=self._shared.random,
        )
        self.bridge = Bridge(name)
        self._names: set[str] = set()
        self._sender = os.urandom(8)
        self._engines: dict[asyncio.AbstractEventLoop, tuple[Engine, Source | None]] = {}
        self._settle_around()
        _caches.add(self)
        if redis is not None:
            check_url(redis, credentials)  # a URL that cannot be read is refused here and not at the first call

    # -- decorators

    def __call__(
        self,
        ttl: Duration | None = None,
        *,
        tags: Sequence[str] = (),
        memory: bool = True,
        name: str | None = None,
        key: Callable[..., object] | None = None,
        **freshness: Unpack[FreshnessOptions],
    ) -> Decorator:
        """Cache the results of a function for ``ttl`` (default: the cache's own).

        An ``async def`` is loaded by one task of its own however many wait. A plain function is loaded in the
        thread that asks first while other threads wait. With level 2 or one of the `FreshnessOptions` what level 1
        cannot answer is asked for by a thread of the cache's own (`bridge`), and loads in the background, or with
        ``soft`` or ``hard`` time-outs, run in a few worker threads: `close` ends them.

        ``tags`` are texts or templates over the arguments (``"product:{product_id}"``). ``memory=False``
        keeps values in level 2 only: a look-up then costs a round trip, and after an acknowledged
        `invalidate` no process reads the old value. ``name`` (default: module and qualified name) is the
        function's part of the key. ``key`` takes the call's arguments and returns what tells calls apart (an
        id, or a tuple), where the arguments themselves do not: methods, where the key must not hold the instance.
        ``None`` is cached too.

        Raises `MisuseError` for methods without ``key``, generators, ``*args`` and types that level 2 cannot carry; the
        wrapper raises it for arguments that cannot be part of a key.
        """
        if callable(ttl):
            raise MisuseError('cache: write `@cache()` or `@cache("1m")`, with brackets')

        if key is not None and not callable(key):
            raise MisuseError(f"key: expected a function of the same arguments, got {key!r}")

        def decorate(function: Callable[..., Any]) -> Any:
            full = self._register(function, name, memory)
            kind = result_type(function, full, needed=self.shared_level)
            spec = self._spec(full, ttl, memory, kind, freshness)
            wrapper = cached(self, function, spec, tags, key)
            self._declare(wrapper, spec, tags)
            return wrapper

        return cast("Decorator", decorate)

    def many(
        self,
        ttl: Duration | None = None,
        *,
        tags: Sequence[str] = (),
        memory: bool = True,
        name: str | None = None,
        **freshness: Unpack[FreshnessOptions],
    ) -> Callable[[Callable[[list[K]], Awaitable[dict[K, V]]]], CachedMany[K, V]]:
        """Cache an ``async def`` that takes a list of ids and returns a dictionary; it sees only the missing
        ids.

        Templates in ``tags`` know ``{id}``. The rest is as for single results.
        """

        def decorate(function: Callable[[list[K]], Awaitable[dict[K, V]]]) -> CachedMany[K, V]:
            full = self._register(function, name, memory)
            needed = self._url is not None
            kind = value_type(result_type(function, full, needed=needed), full, needed=needed)
            spec = self._spec(full, ttl, memory, kind, freshness)
            wrapper = CachedMany(self, function, spec, tags)
            self._declare(wrapper, spec, tags)
            return wrapper

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
        **freshness: Unpack[FreshnessOptions],
    ) -> R:
        """The value of ``key``, from ``loader()`` if it is cached nowhere.

        ``kind`` is the type that level 2 makes again (default: plain containers, numbers and texts).
        """
        if type(key) is not str or key == "":
            raise MisuseError(f"key: expected a text that is not empty, got {key!r}")
        self._check_memory(key, memory)
        if self.is_disabled():
            return await loader()
        if memory and (value := self.look(key)) is not ABSENT:
            return cast("R", value)

        async def load(_: Sequence[Flight]) -> Sequence[Any]:
            return [await loader()]

        wanted = (Wanted(key, check_tags(tuple(tags), key)),)
        spec = self._spec(key, ttl, memory, kind, freshness)
        return cast("R", (await self.engine().fetch(spec, wanted, load))[0])

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
        """Store what was put behind, wait for loads under way, close the running loop's connections. The cache may
        be used again afterwards.

        Raises `WriteError` for writes that could not be stored.
        """
        try:
            await self._close_writers()
        finally:
            await asyncio.to_thread(self.close)
            await self._close_loop()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of a coroutine of this cache, for threads without an event loop:
        ``cache.run(cache.invalidate_tags("catalog"))``. Raises what it raises.
        """
        return self.bridge.run(work)

    def __enter__(self) -> Cache:
        """As ``async with``, for plain functions."""
        if self.shared_level:
            self.run(self.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """As `aclose`, for what plain functions have used: their loads under way, connections and threads."""
        self.bridge.close(self._close_loop)

    async def _close_loop(self) -> None:
        home = self._engines.pop(asyncio.get_running_loop(), None)
        if home is None:
            return
        engine, link = home
        try:
            await engine.tasks.aclose()
        finally:
            if link is not None:
                self._memory.clear()  # from now on nobody hears what other processes invalidate
                await link.aclose()

    def stats(self) -> CacheStats:
        """A snapshot of this process's counters."""
        counters, memory = self._shared.counters, self._memory.stats()
        plain = {name: getattr(counters, name) for name in Counters.__slots__}
        plain["hits"] += memory.hits  # level 1 counts in its entries
        levels = [engine.level2 for engine, _ in list(self._engines.values()) if engine.level2 is not None]
        return CacheStats(
            **plain,
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

    def level2(self) -> Level2:
        """Level 2, as the running loop sees it; for those who know that there is one."""
        level2 = self.engine().level2
        assert level2 is not None
        return level2

    @property
    def memory(self) -> Memory:
        """Level 1."""
        return self._memory

    @property
    def shared_level(self) -> bool:
        """Whether there is a level 2."""
        return self._url is not None

    def forget_here(self, key: str) -> None:
        """Forget a key of a plain function, which only this process has."""
        self._shared.counters.invalidations += 1
        self._forget([key], [])

    def hit_path(self, namespace: dict[str, Any]) -> HitPath:
        """What a wrapper that is compiled in ``namespace`` needs to answer from level 1."""
        self._shared.barriers.show(namespace)
        return HitPath(self._memory, self._shared.clock.monotonic)

    def look(self, key: str) -> Any:
        """Level 1's answer, counted as a hit, or `ABSENT`."""
        now = self._shared.clock.monotonic()
        try:
            entry = self._memory._index[key]
        except KeyError:
            with self._memory.lock:
                self._missed(key)
            return ABSENT
        # As in `Memory.get`: up to here from the look-up nothing at which threads switch.
        if entry.epoch is self._shared.barriers.epoch and entry.until > now and self._memory.touch is None:
            entry.n += 1.0
            return entry.value
        return self.revalidate(key)

    def revalidate(self, key: str) -> Any:
        """As `look`, for an entry that met an invalidation since it was last seen, or whose time is over."""
        with self._memory.lock:
            entry = self._memory._index.get(key)
            if entry is None:
                self._missed(key)
                return ABSENT
            now = self._shared.clock.monotonic()
            if entry.until <= now:
                self._missed(key)
                if entry.life is None or entry.life.phase(now) is Phase.DEAD:
                    self._memory.expire(entry)
                return ABSENT  # the engine knows what may still be done with it
            epoch = self._shared.barriers.epoch  # before the look at the barriers: see `tags`
            if not self._shared.barriers.good(entry.epoch, entry.tags):
                self._missed(key)
                self._memory.delete(key)
                return ABSENT
            entry.epoch = epoch
            entry.n += 1.0
            if self._memory.touch is not None:
                self._memory.touch(entry)
            return entry.value

    # -- inside

    def _settle(self) -> tuple[Engine, Source | None]:
        engine = Engine(self._shared)
        if self._url is None:
            return engine, None
        level2, source = assemble(
            self._url,
            self.name,
            credentials=self._credentials,
            sender=self._sender,
            counters=self._shared.counters,
            clock=self._shared.clock,
            random=self._shared.random,
            spawn=engine.tasks.spawn,
            soft=self._soft,
            hard=max(_HARD, self._soft),
            backoff=_BACKOFF,
        )
        backplane = Backplane(
            source,
            level2.channel,
            sender=self._sender,
            on_message=self._heard,
            on_gap=self._gap,
            settlements=level2.settlements,
            clock=self._shared.clock,
            backoff=_BACKOFF,
        )
        engine.attach(level2, backplane)
        return engine, source

    async def _invalidate(self, keys: list[str], tags: list[str]) -> bool:
        self._shared.counters.invalidations += 1
        # Shielded: a caller that goes away must not leave half an invalidation behind.
        return await asyncio.shield(self.engine().tasks.spawn_load(self._invalidate_both(keys, tags)))

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
        self._invalidated.note(keys, tags, self._shared.clock.time())
        if "" in tags:
            self._shared.barriers.invalidate_all()
            self._memory.clear()
            return
        for engine, _ in list(self._engines.values()):
            engine.detach(keys)
        # First the loads, then what they may have kept: nothing can come in between.
        self.threads.detach(keys)
        for key in keys:
            self._memory.delete(key)
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

    def _spec(self, name: str, ttl: Duration | None, memory: bool, kind: Any, freshness: FreshnessOptions) -> Spec:
        base = self._fresh
        if not memory:
            for option in ("stale", "eager"):
                if freshness.get(option) is not None:
                    raise MisuseError(f"{name}: {option}= needs level 1; leave it out, or leave out memory=False")
            base = replace(base, stale=0.0, eager=None)
        fresh = declared(base, f"{name}: ", ttl, freshness)
        return Spec(name=name, fresh=fresh, memory=memory, codec=self._codec(kind, name))

    def _codec(self, kind: Any, name: str) -> Codec:
        return Codec(Any if self._url is None else kind, name, self._wire)

    def _after_fork(self) -> None:
        """In the child: it has none of the parent's loops, hears nothing with the parent's connections, and is another
        process to all others.
        """
        self._sender = os.urandom(8)
        _inherited.append(self._engines)
        self._engines = {}
        if self.shared_level:
            self._shared.barriers.invalidate_all()


_caches: Final[weakref.WeakSet[Cache]] = weakref.WeakSet()
_inherited: Final[list[Any]] = []
"""Of the parent. Kept, because what they would do when they are collected they would do to the parent's sockets."""


def _after_fork() -> None:
    for cache in list(_caches):
        cache._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

assert EVERYTHING == "t:"  # the empty tag, which `clear` invalidates
