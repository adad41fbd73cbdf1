"""What stands around a cache: warming it, writing through it, asking it why. The front inherits these, and each
loads its module when it is called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, whole_number
from tenfold.cache.declared import Declared
from tenfold.cache.explain import Explanation, explain
from tenfold.cache.many import CachedMany
from tenfold.cache.popular import Life, Popularity, PopularKey

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache
    from tenfold.cache.shared import Shared
    from tenfold.cache.warm import WarmReport
    from tenfold.cache.write import WriteBehind

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_DISABLED: Final[ContextVar[frozenset[int]]] = ContextVar("tenfold.cache.disabled", default=frozenset())
_KEPT: Final = "tenfold:popular"
_KEEP_FOR: Final = "30d"


class Around:
    """The part of `Cache` that is not on the way of a look-up."""

    name: str
    _shared: Shared

    def _settle_around(self) -> None:
        self._declared: dict[str, Declared] = {}
        self._popularity = Popularity(now=self._shared.clock.monotonic())
        self._kept: Any = None
        self._to_keep = b""
        self._writers: list[WriteBehind[Any, Any]] = []

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """``with cache.disabled():`` calls of cached functions go straight to their loaders, in this context and in the
        tasks that it starts: nothing is looked up, nothing is kept. Other contexts notice nothing, except that their
        hits take a longer way meanwhile. `refresh` and `invalidate` do what they say.
        """
        barriers = self._shared.barriers
        barriers.cover(1)
        token = _DISABLED.set(_DISABLED.get() | {id(self)})
        try:
            yield
        finally:
            _DISABLED.reset(token)
            barriers.cover(-1)

    def is_disabled(self) -> bool:
        """Whether this runs inside of `disabled`."""
        return self._shared.barriers.covered and id(self) in _DISABLED.get()

    # -- warming

    async def warm(
        self,
        function: Callable[..., Any],
        keys: Iterable[Any],
        *,
        rate: str | float | None = None,
        concurrency: int | None = None,
        batch: int = 100,
        max_errors: str | float = 0.1,
        timeout: Duration = "10m",
        on_progress: Callable[[WarmReport], object] | None = None,
    ) -> WarmReport:
        """Call ``function`` for all ``keys``, so that they are cached before somebody asks.

        ``keys`` are single values, tuples of arguments, or what `popular` returns (keys of other functions are
        skipped); they are taken in their order and one by one, so a generator of millions is fine. ``rate`` is
        how many keys start a second (``"200/s"``; default: no limit), ``concurrency`` how many calls run at a time
        (default 8). A function of `many` gets ``batch`` ids at a time (100), and 2 such calls at a time.
        ``on_progress`` is called with a `WarmReport` about twice a second and at the end.

        A loader's error is counted and told, and the others go on. Raises `WarmFailed` when more than the share
        ``max_errors`` failed (10 % of all keys, or of those tried where nobody knows how many there are). After
        ``timeout`` it stops where it is and says so: ``complete`` is False then. Cancelling it ends it at once; loads
        that began end by themselves. Raises `MisuseError` for a function that this cache did not decorate.
        """
        from tenfold.cache.warm import warm

        return await warm(
            cast("Cache", self),
            self._declared_by(function),
            keys,
            starts=rate,
            concurrency=concurrency,
            batch=batch,
            max_errors=max_errors,
            timeout=timeout,
            on_progress=on_progress,
        )

    def popular(self, count: int = 1000) -> list[PopularKey]:
        """The ``count`` keys that were asked for most, lately, in this process; at most 2,000 are known by name.

        Counts include hits and misses of functions that use level 1 and are halved each hour. They are estimates
        for keys that came and went, exact for those that stayed. Looks at all of level 1, so it takes about a
        millisecond for 10,000 entries; nothing of it runs on a hit. What `load_popular` read is in it.
        """
        whole_number(count, "count", least=1)
        with self._shared.memory.lock:
            self._popularity.fold(self._lives(self._level1()), self._shared.clock.monotonic())
            return self._popularity.top(count)

    async def save_popular(self, path: str | Path | None = None) -> None:
        """Keep the popular keys in a file, or without ``path`` in level 2, for the next process.

        What is there is merged in before (the larger count of each key), so processes may save one after another.
        In level 2 it lives for 30 days and until `clear` or a flush of the server; a file outlives both.
        """
        await self.load_popular(path)
        self.popular(1)
        if path is not None:
            await asyncio.to_thread(_replace, Path(path), self._popularity.dump())
            return
        self._to_keep = self._popularity.dump()
        try:
            await self._keeper().refresh()
        finally:
            self._to_keep = b""

    async def load_popular(self, path: str | Path | None = None) -> int:
        """Read what `save_popular` kept and merge it in. The number of keys that it named, 0 if nothing is there.

        Raises `MisuseError` for a file that is something else; in level 2 that counts as undecodable, and as nothing.
        """
        if path is not None:
            dumped = await asyncio.to_thread(_read, Path(path))
            return self._popularity.merge(dumped) if dumped is not None else 0
        dumped = await self._keeper()()
        try:
            return self._popularity.merge(dumped) if dumped else 0
        except MisuseError:
            self._shared.counters.undecodable += 1  # of another version, as any value of level 2 may be
            return 0

    # -- writing

    def write_through(
        self, *functions: Callable[..., Any], tags: Sequence[str] = (), refresh: bool = False
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Decorate an ``async def`` that changes the origin: after it, what became old is invalidated.

        ``functions`` are cached functions of this cache; their arguments are taken from the writer's parameters of
        the same names (for a function of `many`: its list, or ``id``). ``tags`` are templates over the writer's
        parameters. With ``refresh`` the entries are then loaded anew, so the next reader finds them.

        The order is store, invalidate, refresh. When the writer raises or is cancelled its error goes to the
        caller, and the entries are invalidated all the same, because the origin may have changed. A level 2 that
        does not confirm is made up for later (see `invalidate`). A refresh that fails is logged: what was written
        is written. Raises `MisuseError` where the names do not fit.
        """
        from tenfold.cache.write_through import through

        declared = [self._declared_by(one) for one in functions]

        def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            return through(cast("Cache", self), function, declared, tags, refresh=refresh)

        return decorate

    def write_behind(
        self,
        function: Callable[..., Any] | None = None,
        *,
        batch: int = 100,
        delay: Duration = "200ms",
        max_pending: int = 10_000,
        timeout: Duration = "10s",
        retry_for: Duration = "30s",
        patience: Duration = "5s",
        on_error: Callable[[dict[Any, Any], Exception], object] | None = None,
    ) -> Callable[[Callable[[dict[K, V]], Awaitable[object]]], WriteBehind[K, V]]:
        """Decorate an ``async def`` that stores a dictionary; call the result with a key and a value.

        The value is stored later, with others, the newest of each key: when ``batch`` keys wait (100), or the oldest
        has waited for ``delay`` (200 ms). ``function`` is a cached function whose entries of these keys (an argument
        or a tuple of them) are invalidated after each batch. A batch that fails or takes longer than ``timeout``
        (10 s) is tried again with growing pauses for ``retry_for`` (30 s), so a value may be stored twice; then it
        is given up, logged, counted and handed to ``on_error``. At most ``max_pending`` keys are not stored
        (10,000); a further one waits for ``patience`` (5 s) and then raises `WriteError`.

        `aclose` of the cache stores what waits. **When the process is killed, what was not stored yet is lost**:
        use it for what may be lost, such as counts of views, and never for orders.
        """
        from tenfold.cache.write import WriteBehind
        from tenfold.cache.write_buffer import Terms

        terms = Terms.of(batch, delay, max_pending, timeout, retry_for, patience)
        forget = None if function is None else self._declared_by(function).forget

        def decorate(store: Callable[[dict[K, V]], Awaitable[object]]) -> WriteBehind[K, V]:
            shared = self._shared
            made = WriteBehind(store, terms, forget=forget, on_error=on_error, clock=shared.clock, random=shared.random)
            self._writers.append(made)
            return made

        return decorate

    # -- asking why

    async def explain(self, key: str, *, tags: Sequence[str] | None = None) -> Explanation:
        """Where ``key`` is, how old, with which tags, and why it would miss; ``print`` it.

        ``function.key(…)`` makes the key. ``tags`` are needed only for keys of `get_or_load`; for those of functions
        they are worked out. Looking is not counted, changes nothing and never loads. A level 2 that does not answer
        is said to be down.
        """
        return await explain(cast("Cache", self), key, tags)

    # -- for this package

    async def _close_writers(self) -> None:
        """Store what was put behind. All are closed, then the first that failed is raised."""
        failures = [
            one for one in await asyncio.gather(*[w.aclose() for w in self._writers], return_exceptions=True) if one
        ]
        if failures:
            raise failures[0]

    def _declare(self, function: Any, spec: Any, tags: Sequence[str]) -> None:
        self._declared[spec.name] = Declared(function, spec, tuple(tags))

    def _declared_by(self, function: Callable[..., Any]) -> Declared:
        for one in self._declared.values():
            if one.function is function:
                if isinstance(function, CachedMany) or inspect.iscoroutinefunction(function):
                    return one
                raise MisuseError(f"{one.spec.name}: expected an `async def`; a plain function lives in level 1 alone")
        raise MisuseError(
            f"expected a function that this cache ({self.name!r}) decorated, got {function!r}; "
            "give the decorated function itself"
        )

    def _missed(self, key: str) -> None:
        """Level 1 did not have ``key``. Under its lock."""
        popularity = self._popularity
        if popularity.missed(key):
            part = popularity.next_slice(self._level1())
            popularity.fold(self._lives(part), self._shared.clock.monotonic())

    def _level1(self) -> Iterable[Any]:
        return list(self._shared.memory._index.values())

    def _lives(self, entries: Iterable[Any]) -> list[Life]:
        # Those without a hit have nothing to tell.
        return [Life(id(one), one.key, int(one.n)) for one in entries if one.n and type(one.key) is str]

    def _keeper(self) -> Any:
        """The popular keys as a cached value of level 2 alone."""
        cache = cast("Cache", self)
        if not cache.shared_level:
            raise MisuseError("popular keys: this cache has no level 2 to keep them in; give a path")
        if self._kept is None:

            async def kept() -> bytes:
                return self._to_keep

            self._kept = cache(_KEEP_FOR, memory=False, name=_KEPT)(kept)
        return self._kept


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes) -> None:
    """All or nothing: a process that dies meanwhile leaves the old file."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.replace(path)
