"""Fill a cache before the callers come: gradually, in a given order, and without falling on the origin.

A cold process is slow for its first visitors and loads everything at once. Warming calls the cached function
itself, so what is cached already costs a look-up and no load, two processes that warm the same keys share their
loads, and an invalidation in between is honoured as always.

*Pace.* The keys start at an even rate, by a schedule of start times. After a pause the schedule begins anew: what
was missed is not made up for by a burst, which is just what the origin is to be spared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.clock import Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, rate, share, whole_number
from tenfold.cache.declared import Declared, Unreadable
from tenfold.cache.errors import CacheError
from tenfold.cache.popular import PopularKey

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

TELL_EVERY: Final = 0.5
EXAMPLES: Final = 5
_ENOUGH: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """How far a warming is, or how it ended.

    ``warmed`` keys are cached now, ``errors`` could not be loaded, ``skipped`` were no keys of the function or
    could not be turned back into arguments. ``total`` is None where the keys came from an iterator. ``seconds``
    is the time it took. ``complete`` says that all keys were tried. ``examples`` has the first errors, each with
    its arguments.
    """

    warmed: int
    errors: int
    skipped: int
    total: int | None
    seconds: float
    complete: bool = False
    examples: tuple[tuple[Any, Exception], ...] = field(default=(), compare=False)

    @property
    def tried(self) -> int:
        """Keys that were called for, with or without success."""
        return self.warmed + self.errors


class WarmFailed(CacheError):
    """More keys than allowed could not be loaded; the rest was not tried. ``report`` says how far it came."""

    def __init__(self, message: str, report: WarmReport) -> None:
        super().__init__(message)
        self.report: Final = report


class Pace:
    """Start times at an even rate (starts a second, or None: at once)."""

    __slots__ = ("_gap", "_next")

    def __init__(self, starts: float | None, now: float) -> None:
        self._gap = 0.0 if starts is None else 1 / starts
        self._next = now

    def wait(self, now: float, count: int = 1) -> float:
        """How many seconds to wait before ``count`` more may start."""
        start = max(self._next, now)
        self._next = start + count * self._gap
        return start - now


class _Warming:
    """The state of one call of `warm`."""

    def __init__(self, declared: Declared, keys: Iterable[Any], clock: Clock, allowed: float) -> None:
        self._declared, self._clock, self._allowed = declared, clock, allowed
        self._keys: Iterator[Any] = iter(keys)
        self._total = len(keys) if isinstance(keys, Sized) else None
        self._began = clock.monotonic()
        self._told = self._began
        self._examples: list[tuple[Any, Exception]] = []
        self.warmed = self.errors = self.skipped = 0
        self.failed = False

    def report(self, *, complete: bool = False) -> WarmReport:
        return WarmReport(
            warmed=self.warmed,
            errors=self.errors,
            skipped=self.skipped,
            total=self._total,
            seconds=self._clock.monotonic() - self._began,
            complete=complete,
            examples=tuple(self._examples),
        )

    async def work(self, pace: Pace, batch: int, tell: Callable[[WarmReport], object] | None) -> None:
        """Take keys until there are none left. Several of these share the iterator and the pace."""
        while not self.failed and (taken := list(islice(self._keys, batch))):
            asked = [values for one in taken if (values := self._arguments(one)) is not None]
            if asked:
                delay = pace.wait(self._clock.monotonic(), len(asked))
                if delay > 0:
                    await self._clock.sleep(delay)
                await self._call(asked)
            now = self._clock.monotonic()
            if tell is not None and now - self._told >= TELL_EVERY:
                self._told = now
                tell(self.report())

    async def _call(self, asked: list[tuple[Any, ...]]) -> None:
        try:
            if self._declared.many:
                await self._declared.function([values[0] for values in asked])
            else:
                await self._declared.call(asked[0])
        except MisuseError:
            raise  # the keys or the function are wrong, and so would all others be
        except Exception as error:  # noqa: BLE001 - whatever a loader raises is counted, told and bounded
            self.errors += len(asked)
            if len(self._examples) < EXAMPLES:
                self._examples.append((asked[0] if len(asked) == 1 else asked, error))
            self.failed = self.errors > self._allowed * self._all()
        else:
            self.warmed += len(asked)

    def _arguments(self, one: Any) -> tuple[Any, ...] | None:
        if isinstance(one, PopularKey):
            try:
                return self._declared.arguments(one.key)
            except Unreadable:
                self.skipped += 1
                return None
        return one if isinstance(one, tuple) and not self._declared.many else (one,)

    def _all(self) -> int:
        """What the share of errors is of: all keys, or where nobody knows how many there are, those tried so far."""
        # A share means nothing after three keys.
        return max(_ENOUGH, self.warmed + self.errors) if self._total is None else self._total

    def too_many(self) -> bool:
        return self.failed or self.errors > self._allowed * (self.warmed + self.errors)


async def warm(
    cache: Cache,
    declared: Declared,
    keys: Iterable[Any],
    *,
    starts: str | float | None,
    concurrency: int | None,
    batch: int,
    max_errors: str | float,
    timeout: Duration,
    on_progress: Callable[[WarmReport], object] | None,
) -> WarmReport:
    """See `Cache.warm`."""
    together = whole_number((2 if declared.many else 8) if concurrency is None else concurrency, "concurrency", least=1)
    size = whole_number(batch, "batch", least=1) if declared.many else 1
    a_second = None if starts is None else rate(starts, "rate")
    if a_second == 0:
        raise MisuseError('rate: expected more than 0 keys a second such as "200/s", got 0; leave it out for no limit')
    if isinstance(keys, str | bytes):
        raise MisuseError(f"keys: expected an iterable of arguments such as [1, 2], got the text {keys!r}")
    allowed, limit = share(max_errors, "max_errors"), duration(timeout, "timeout")
    clock = cache._shared.clock
    warming = _Warming(declared, keys, clock, allowed)
    pace = Pace(a_second, clock.monotonic())
    workers = [asyncio.ensure_future(warming.work(pace, size, on_progress)) for _ in range(together)]
    try:
        done, late = await asyncio.wait(workers, timeout=limit, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            worker.result()
    finally:
        # The loads themselves belong to the cache and go on; only the waiting for them ends here.
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    report = warming.report(complete=not late and not warming.failed)
    if on_progress is not None:
        on_progress(report)
    if warming.too_many():
        first = f"; the first: {report.examples[0][1]!r}" if report.examples else ""
        raise WarmFailed(
            f"warm {declared.spec.name}: {report.errors} of {report.tried} keys could not be loaded, "
            f"more than max_errors={allowed:.0%} allows{first}",
            report,
        )
    return report
