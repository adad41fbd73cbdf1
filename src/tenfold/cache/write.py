"""Writing behind: later, together, and the last value of each key.

For values of which only the last counts and a few may be lost: counters of views, positions, last seen.
A write is put into a bounded buffer, the newest value of a key replaces the one that waits, and what is there goes
out in batches, when there are ``batch`` keys or when the oldest has waited for ``delay``. One batch is under way at
a time, so a key's values are stored in their order. A batch that fails is tried again with growing pauses (full
jitter) for ``retry_for``: *at least once*, so ``store`` must bear to see a value twice. Meanwhile the buffer fills,
and when it is full the writers wait: the origin sets the pace.

*What is lost.* When the process is killed, whatever was put and not yet stored: at most ``max_pending`` keys, none
older than ``delay`` plus the time that the batches before it took. `aclose` (which `Cache.aclose` calls) stores
everything first.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Generic, TypeVar

from tenfold._core.clock import Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.cache.errors import CacheError
from tenfold.cache.write_buffer import Buffer, Terms

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log: Final = logging.getLogger("tenfold.cache")
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class WriteError(CacheError):
    """A write that was put behind was not taken (the buffer stayed full, or is closing), or not stored in the end.

    ``writes`` has the keys and values.
    """

    def __init__(self, message: str, writes: Mapping[Any, Any]) -> None:
        super().__init__(message)
        self.writes: Final = dict(writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteStats:
    """What a `WriteBehind` did so far.

    ``pending`` keys wait or are being stored. ``put`` counts the writes taken, ``coalesced`` those replaced by a newer
    one before they were stored, ``stored`` the keys stored in ``batches`` calls. ``retries`` are further tries.
    ``lost`` keys were given up and told to ``on_error``. ``refused`` writes found the buffer full for too long.
    """

    pending: int
    put: int
    coalesced: int
    stored: int
    batches: int
    retries: int
    lost: int
    refused: int


class WriteBehind(Generic[K, V]):
    """Writes that are stored later, together, the last value of each key: what `Cache.write_behind` makes.

    Belongs to one event loop at a time.
    """

    def __init__(
        self,
        store: Callable[[dict[K, V]], Awaitable[object]],
        terms: Terms,
        *,
        forget: Callable[[Sequence[K]], Awaitable[object]] | None = None,
        on_error: Callable[[dict[K, V], Exception], object] | None = None,
        clock: Clock,
        random: Random,
    ) -> None:
        if not inspect.iscoroutinefunction(store):
            raise MisuseError(f"write_behind: expected a function declared with `async def`, got {store!r}")
        self._store, self._terms, self._forget, self._on_error = store, terms, forget, on_error
        self._clock, self._random = clock, random
        self._buffer: Buffer[K, V] = Buffer(terms.batch, terms.delay, terms.max_pending)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._writers: deque[asyncio.Future[None]] = deque()
        self._hurry = 0
        self._closing = False
        self._put = self._stored = self._batches = self._retries = self._lost = self._refused = 0
        functools.update_wrapper(self, store, updated=())

    async def __call__(self, key: K, value: V) -> None:
        """Take a write; it is stored within about ``delay``. Waits while the buffer is full.

        Raises `WriteError` when it is still full after ``patience``, or while it is being closed.
        """
        if self._closing:
            raise WriteError(f"{self!r} is closing and takes no more writes", {key: value})
        if not self._buffer.put(key, value, self._clock.monotonic()):
            await self._wait_for_room(key, value)
        self._put += 1
        self._ensure_running()

    def pending(self, key: K, default: Any = None) -> Any:
        """The newest value of ``key`` that is not stored yet: what a reader who must see its own write asks first."""
        return self._buffer.get(key, default)

    async def flush(self, within: Duration = "30s") -> bool:
        """Store what waits now, without further delay. Whether all was stored or given up ``within`` that time."""
        await self._drain(duration(within, "within"))
        return not len(self._buffer)

    async def aclose(self, within: Duration = "30s") -> None:
        """Take no more writes and store those that wait.

        What is not stored after ``within`` is handed to ``on_error``, and `WriteError` raised. May be used again
        afterwards.
        """
        limit = duration(within, "within")
        self._closing = True
        try:
            await self._drain(limit)
            await self._stop()
            lost = self._buffer.drain()
            if lost:
                error = WriteError(f"{self!r}: closed with {len(lost)} keys that could not be stored in time", lost)
                self._give_up(lost, error)
                raise error
        finally:
            self._closing = False

    def stats(self) -> WriteStats:
        """A snapshot of the counters."""
        return WriteStats(
            pending=len(self._buffer),
            put=self._put,
            coalesced=self._buffer.coalesced,
            stored=self._stored,
            batches=self._batches,
            retries=self._retries,
            lost=self._lost,
            refused=self._refused,
        )

    async def __aenter__(self) -> WriteBehind[K, V]:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            await self.aclose()
        except WriteError as lost:
            if error is None:
                raise
            _log.error("%s", lost)

    def __repr__(self) -> str:
        name = getattr(self._store, "__qualname__", "?")
        return f"WriteBehind({name}, {len(self._buffer)}/{self._terms.max_pending} pending, {self._lost} lost)"

    # -- inside

    async def _wait_for_room(self, key: K, value: V) -> None:
        """In the order of arrival. A slot that is given to a writer who has gone is given to the next."""
        self._ensure_running()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._terms.patience):
                while not self._buffer.put(key, value, self._clock.monotonic()):
                    turn = loop.create_future()
                    self._writers.append(turn)
                    try:
                        await turn
                    except BaseException:
                        if turn.done() and not turn.cancelled():
                            self._call_writers(1)
                        raise
        except TimeoutError:
            self._refused += 1
            raise WriteError(
                f"{self!r} was full for {self._terms.patience:g} s; slow down, or give it more max_pending",
                {key: value},
            ) from None

    def _call_writers(self, count: int) -> None:
        while self._writers and count > 0:
            turn = self._writers.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    def _ensure_running(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tenfold.cache/{self!r}")
        elif self._buffer.due(self._clock.monotonic()) == 0:
            self._wake.set()
        return self._task

    async def _drain(self, limit: float) -> None:
        if not len(self._buffer):
            return
        self._hurry += 1
        self._wake.set()
        try:
            await asyncio.wait([self._ensure_running()], timeout=limit)
        finally:
            self._hurry -= 1

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        """Ends when nothing waits; the next write starts it anew."""
        try:
            while (wait := self._buffer.due(self._clock.monotonic())) is not None:
                if wait > 0 and not self._hurry:
                    self._wake.clear()
                    await self._nap(wait)
                    continue
                await self._bring(self._buffer.take())
        finally:
            self._buffer.give_back(self._clock.monotonic())  # nothing, unless it is cancelled

    async def _nap(self, seconds: float) -> None:
        """Sleep, or until somebody is in a hurry."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _bring(self, batch: dict[K, V]) -> None:
        began, attempt = self._clock.monotonic(), 0
        touched = list(batch)
        while batch:
            attempt += 1
            try:
                async with asyncio.timeout(self._terms.timeout):
                    await self._store(dict(batch))
            except Exception as error:  # noqa: BLE001 - whatever the origin raises is tried again and then told
                pause = self._pause(attempt)
                if self._clock.monotonic() + pause - began >= self._terms.retry_for:
                    self._give_up(dict(batch), error)
                    break
                self._retries += 1
                await self._clock.sleep(pause)
                self._buffer.drop_superseded()
            else:
                self._stored += len(batch)
                self._batches += 1
                break
        self._buffer.done()
        self._call_writers(len(touched))
        if self._forget is not None:
            # After a failure as well: what it left behind is unknown.
            try:
                await self._forget(touched)
            except Exception:  # noqa: BLE001 - a task of nobody's: the log is where it can be told
                _log.exception("%r: stored, and the cached values could not be invalidated", self)

    def _pause(self, attempt: int) -> float:
        from tenfold.resilience.backoff import pause  # here, or `import tenfold.cache` would load all policies

        return pause("full", attempt, 0.0, _FIRST_PAUSE, _LONGEST_PAUSE, self._random)

    def _give_up(self, batch: dict[K, V], error: Exception) -> None:
        self._lost += len(batch)
        _log.error("%r: gave up %d keys: %r", self, len(batch), error)
        if self._on_error is not None:
            try:
                self._on_error(batch, error)
            except Exception:  # noqa: BLE001 - the callback's own fault must not stop the other writes
                _log.exception("%r: on_error failed", self)
