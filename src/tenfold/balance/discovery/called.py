"""A set that a function of yours finds."""

from __future__ import annotations

import asyncio
import inspect
import random as _random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, format_duration
from tenfold.balance.discovery.base import LookFailed, Polled, as_set, positive
from tenfold.balance.endpoint import Endpoint

Found = Iterable[Endpoint]


class FromCallable(Polled):
    """What ``fn()`` returns, an iterable of `Endpoint`, asked every ``every`` (10 s) with ``timeout`` (10 s) for it.

    ``fn`` is an ``async def``, or a plain function, which runs in a thread (one that never returns keeps its thread).
    Whatever it raises, and what it returns that makes no sense, changes nothing and is told by `DiscoveryFailed`; an
    empty set is its word and is taken.

    Raises `MisuseError` for what cannot be called.
    """

    def __init__(
        self,
        fn: Callable[[], Found | Awaitable[Found]],
        *,
        every: Duration = 10.0,
        timeout: Duration = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
        events: Hub = EVENTS,
    ) -> None:
        if not callable(fn):
            raise MisuseError(f"callable: expected a function that returns endpoints, got {fn!r}")
        super().__init__(f"callable {getattr(fn, '__qualname__', fn)}", clock=clock, random=random, events=events)
        self._fn: Final = fn
        self._async: Final = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004 - an object whose __call__ is `async def` will do
        )
        self._every = positive(every, "callable every")
        self._timeout = positive(timeout, "callable timeout")

    async def _look(self) -> tuple[Sequence[Endpoint] | None, float]:
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                return as_set(await self._call(), self.name), self._every
        except TimeoutError as error:
            if deadline.expired():
                raise LookFailed(f"no answer within {format_duration(self._timeout)}") from None
            raise LookFailed(_words(error)) from error
        except Exception as error:  # a foreign function may raise anything
            raise LookFailed(_words(error)) from error

    async def _call(self) -> Found:
        fn: Any = self._fn
        found: Any = await fn() if self._async else await asyncio.to_thread(fn)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise MisuseError(f"expected endpoints, got {found!r}")
        return found


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
