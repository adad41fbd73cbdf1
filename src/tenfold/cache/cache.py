"""The front: one `Cache` a subject, over level 1 in this process and level 2 shared by all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, share
from tenfold.cache.around import Around
from tenfold.cache.bridge import Bridge
from tenfold.cache.counters import CacheStats, Counters
from tenfold.cache.engine import Engine
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.forget import ALL, Forgetting
from tenfold.cache.freshness import Freshness, FreshnessOptions, declared, life_time
from tenfold.cache.function import Decorator, cached
from tenfold.cache.homes import Homes
from tenfold.cache.keys import check_tags
from tenfold.cache.level_two import Getter, Level2
from tenfold.cache.lookup import Wanted
from tenfold.cache.many import CachedMany
from tenfold.cache.memory import Memory
from tenfold.cache.near import Near
from tenfold.cache.shared import Shared
from tenfold.cache.specs import Specs
from tenfold.cache.tags import Barriers
from tenfold.cache.threads import Threads
from tenfold.cache.wire import Wire

R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


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
        terms = declared(Freshness(ttl=life_time(ttl, "ttl"), jitter=share(jitter, "jitter")), "", None, freshness)
        soft = life_time(timeout, "timeout")
        self._shared = shared = Shared(
            memory=Memory(max_items, max_bytes=max_bytes, policy=policy, clock=clock),
            barriers=Barriers(),
            counters=Counters(),
            clock=clock,
            random=random or Random(),
        )
        self._memory = shared.memory
        self._settle_around()
        self._specs = Specs(terms, shared_level=self.shared_level, wire=wire)
        self._homes = Homes(shared, name, redis, credentials=credentials, soft=soft)
        # For the decorators of this package: who answers, who loads, who forgets.
        self.near = Near(shared, self._missed)
        self.threads = Threads(shared, jitter=terms.jitter)
        self.bridge = Bridge(name)
        self.forgetting = Forgetting(name, shared, self._homes, self.threads)

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
            spec = self._specs.of_function(function, name, ttl, memory, freshness)
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
            spec = self._specs.of_function(function, name, ttl, memory, freshness, many=True)
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
        if not memory:
            self._specs.need_level2(key)
        if self.is_disabled():
            return await loader()
        if memory and (value := self.near.look(key)) is not ABSENT:
            return cast("R", value)

        async def load(_: Sequence[Flight]) -> Sequence[Any]:
            return [await loader()]

        wanted = (Wanted(key, check_tags(tuple(tags), key)),)
        spec = self._specs.of(key, ttl, memory, kind, freshness)
        return cast("R", (await self.engine().fetch(spec, wanted, load))[0])

    async def invalidate(self, *keys: str) -> bool:
        """Forget these keys, in all processes. False if level 2 did not confirm it; then it is repeated until
        it does.
        """
        return await self.forgetting.everywhere(list(keys), [])

    async def invalidate_tags(self, *tags: str) -> bool:
        """Forget whatever carries one of these tags. As `invalidate`; the time does not grow with the
        entries.
        """
        return await self.forgetting.everywhere([], list(check_tags(tags, "invalidate_tags")))

    async def clear(self) -> bool:
        """Forget everything under this cache's name, in all processes. As `invalidate`."""
        return await self.forgetting.everywhere([], [ALL])

    # -- life and state

    async def __aenter__(self) -> Cache:
        """Connect. A level 2 that does not answer within a second is used as soon as it does."""
        await self._homes.connect()
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
            if self.bridge.stands:
                await asyncio.to_thread(self.close)  # which waits for another thread
            await self._homes.aclose()

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
        self.bridge.close(self._homes.aclose)

    def stats(self) -> CacheStats:
        """A snapshot of this process's counters."""
        homes = self._homes
        return self._shared.counters.snapshot(self._memory.stats(), pending=homes.pending, l2_up=homes.up)

    def __repr__(self) -> str:
        level2 = "no level 2" if self._url is None else "level 2 " + ("up" if self._homes.up else "not in use")
        return f"Cache({self.name!r}, {self._memory!r}, {level2})"

    # -- for the decorators of this package

    def engine(self) -> Engine:
        """What belongs to the running loop, made at its first use."""
        return self._homes.engine()

    def level2(self) -> Level2:
        """Level 2, as the running loop sees it; for those who know that there is one."""
        level2 = self._homes.engine().level2
        assert level2 is not None
        return level2

    @property
    def getters(self) -> Mapping[asyncio.AbstractEventLoop, Getter]:
        """How to ask level 2, for each loop that has settled."""
        return self._homes.getters

    @property
    def memory(self) -> Memory:
        """Level 1."""
        return self._memory

    @property
    def shared_level(self) -> bool:
        """Whether there is a level 2."""
        return self._url is not None
