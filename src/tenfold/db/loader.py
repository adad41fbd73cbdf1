"""Loads by key, gathered: what the code of one request asks for in one turn of the loop becomes one query.

The pattern is Facebook's DataLoader (Schrock and Byron, 2015). A key that is asked for is put down and the batch
begins in the *next* turn of the event loop, so that everything which becomes ready in this one (a hundred tasks of one
`asyncio.gather`, say) is in it. Each key has one future for the life of the scope; who asks again gets the same one.

Waiters wait behind a shield: the future belongs to the loader and not to the first one who asked, so cancelling one
waiter takes only that one away. Batches run one after another by default, because a SQLAlchemy session is not to be
used by two tasks at once.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.tasks import Tasks
from tenfold._core.units import whole_number

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_BATCH: Final = 1000
MAX_KEYS: Final = 100_000
_NONE: Final[Any] = object()
_LOADING: Final[contextvars.ContextVar[tuple[object, ...]]] = contextvars.ContextVar("tenfold_loading", default=())
"""The batches in whose loads this code runs."""


class KeyNotFound(TenfoldError, LookupError):
    """The load answered and did not have this key. ``key`` is it."""

    def __init__(self, key: object) -> None:
        super().__init__(f"no row for {key!r}")
        self.key: Final = key


class Loader(Generic[K, V]):
    """Loads by key for one request (one scope, one event loop)::

        async with Loader(load_customers) as customers:
            names = await asyncio.gather(*[name_of(order, customers) for order in orders])   # one query

    ``load`` gets a list of distinct keys and returns a mapping. An exception as a *value* fails that key alone, one
    that it raises fails the keys of its batch, and a key that it leaves out is ``default``, or `KeyNotFound` without
    one. Failed keys are forgotten, so that the next who asks tries again; all others are kept until the block ends. A
    batch has ``max_batch`` (1000) keys at most; ``concurrency`` (1) of them run at a time. Beyond ``max_keys``
    (100,000) known keys the oldest loaded ones are forgotten.

    Loads run in the context in which the block was entered: its deadline is theirs, not that of whoever asked first.
    Leaving the block cancels loads that still run; their waiters are cancelled.
    """

    __slots__ = (
        "_batch",
        "_concurrency",
        "_context",
        "_default",
        "_futures",
        "_load",
        "_loop",
        "_max_batch",
        "_max_keys",
        "_pending",
        "_running",
        "_scheduled",
        "_tasks",
        "batches",
        "hits",
        "loads",
    )

    def __init__(
        self,
        load: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        *,
        default: V | Any = _NONE,
        max_batch: int = MAX_BATCH,
        concurrency: int = 1,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._load = load
        self._default = default
        self._max_batch = whole_number(max_batch, "max_batch", least=1)
        self._concurrency = whole_number(concurrency, "concurrency", least=1)
        self._max_keys = whole_number(max_keys, "max_keys", least=1)
        self._futures: dict[K, asyncio.Future[V]] = {}
        self._pending: dict[K, asyncio.Future[V]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._scheduled = False
        self._running = 0
        self._batch: object = None  # the last that was begun
        # Twice as many: one that has just ended still counts when its successor begins.
        self._tasks = Tasks("dataloader", limit=2 * self._concurrency)
        self.batches = 0
        """Calls of ``load`` so far."""
        self.loads = 0
        """Keys that were handed to it."""
        self.hits = 0
        """Times a key was asked for that was known or under way."""

    async def __aenter__(self) -> Loader[K, V]:
        await self._tasks.__aenter__()
        self._loop, self._context = asyncio.get_running_loop(), contextvars.copy_context()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
        await self._tasks.__aexit__(kind, error, trace)

    async def __call__(self, key: K) -> V:
        """The value of ``key``. Raises what its load raised, or `KeyNotFound`."""
        return await asyncio.shield(self._future(key))

    async def many(self, keys: Iterable[K]) -> list[V]:
        """The values in the order of ``keys``; the first error of any of them is raised."""
        futures = [self._future(key) for key in keys]
        return [await asyncio.shield(future) for future in futures]

    def prime(self, key: K, value: V) -> None:
        """Put in a value that is known already, for example from a list query. A load under way is not replaced."""
        if key not in self._futures:
            self._keep(key).set_result(value)

    def forget(self, key: K) -> None:
        """Ask the database again for ``key`` next time, for example after writing it."""
        self._futures.pop(key, None)
        pending = self._pending.get(key)
        if pending is not None:
            self._futures[key] = pending  # not begun yet, so it will see the write

    def _future(self, key: K) -> asyncio.Future[V]:
        found = self._futures.get(key)
        if found is not None:
            self.hits += 1
            if not found.done():
                self._refuse_itself(key)
            return found
        self._refuse_itself(key)
        future = self._pending[key] = self._keep(key)
        if not self._scheduled:
            self._schedule()
        return future

    def _refuse_itself(self, key: K) -> None:
        if self._concurrency == 1 and any(batch is self._batch for batch in _LOADING.get()):
            raise MisuseError(
                f"Loader: its own load asked it for {key!r} and would wait for itself; load what a load needs "
                "by another loader, or in the same query"
            )

    def _keep(self, key: K) -> asyncio.Future[V]:
        loop = self._loop
        if loop is None:
            raise MisuseError("Loader: not open; use it inside of its `async with` block")
        if len(self._futures) >= self._max_keys:
            for old in [one for one in islice(self._futures, 1000) if self._futures[one].done()]:
                del self._futures[old]
        future: asyncio.Future[V] = loop.create_future()
        self._futures[key] = future
        return future

    def _schedule(self) -> None:
        if self._loop is not None and self._pending and self._running < self._concurrency:
            self._scheduled = True
            self._loop.call_soon(self._begin, context=self._context)

    def _begin(self) -> None:
        self._scheduled = False
        if self._loop is None:
            return
        while self._pending and self._running < self._concurrency:
            keys = list(islice(self._pending, self._max_batch))
            batch = {key: self._pending.pop(key) for key in keys}
            self._running += 1
            self.batches += 1
            self.loads += len(batch)
            self._tasks.spawn(self._run(batch)).add_done_callback(partial(self._ended, batch))

    async def _run(self, batch: dict[K, asyncio.Future[V]]) -> None:
        self._batch = batch
        _LOADING.set((*_LOADING.get(), batch))  # in this task's own context
        try:
            found = await self._load(list(batch))
            for key, future in batch.items():
                value = found.get(key, self._default)
                if value is _NONE:
                    self._fail(key, future, KeyNotFound(key))
                elif isinstance(value, BaseException):
                    self._fail(key, future, value)
                elif not future.done():
                    future.set_result(value)
        except Exception as error:  # noqa: BLE001 - it is passed on to whoever asked
            for key, future in batch.items():
                self._fail(key, future, error)

    def _ended(self, batch: dict[K, asyncio.Future[V]], task: asyncio.Task[None]) -> None:
        """Whether it was run or not: a task that is cancelled before its first step does nothing at all."""
        for key, future in batch.items():
            if not future.done():  # cancelled from outside
                future.cancel()
                self._drop(key, future)
        if self._batch is batch:
            self._batch = None  # what its load has begun and goes on may ask again
        self._running -= 1
        if not self._scheduled:
            self._schedule()

    def _fail(self, key: K, future: asyncio.Future[V], error: BaseException) -> None:
        self._drop(key, future)
        if not future.done():
            future.set_exception(error)
            future.exception()  # whoever waits gets it; that nobody waits any more is no news

    def _drop(self, key: K, future: asyncio.Future[V]) -> None:
        if self._futures.get(key) is future:
            del self._futures[key]

    def __repr__(self) -> str:
        state = "open" if self._loop is not None else "closed"
        return f"<Loader {state} batches={self.batches} loads={self.loads} hits={self.hits}>"
