"""What a policy is at one moment: its live parts and its numbers, and all that happens when a call does not succeed.

A plan never changes (but for ``quickest``); reloading makes a new one, of the same live parts where they fit. A call
holds the plan it started with to its end, so that whatever it took from a part goes back to that very part.

Theory. Every call settles exactly once what it holds: the place, the count of the adaptive limit, the ticket of the
breaker. What a failure says about the *peer* is decided here, in one place:

==================================================  =========  ==================
how the try ended                                   breaker    adaptive limit
==================================================  =========  ==================
a layer of ours did not let it through              neutral    ignored
the caller was cancelled                            neutral    ignored
our time-out, our own deadline                      failure    loss
an inherited deadline, after ``slow_call`` or more  failure    loss
an inherited deadline, sooner                       neutral    ignored
an answer, by ``answers`` or by its HTTP status     success    success
turned away by a policy below; a programming error  neutral    ignored
any other exception                                 failure    loss if overload
==================================================  =========  ==================
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tenfold._core.clock import Clock
from tenfold._core.events import Hub
from tenfold._core.units import format_duration
from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    DeadlineTooShort,
    Overloaded,
    RateLimited,
    Rejected,
    ResilienceError,
)
from tenfold.resilience.fallback import PROGRAMMING_ERRORS
from tenfold.resilience.happenings import AttemptTimedOut, Counters, DeadlinePassed
from tenfold.resilience.retry import overloaded, status
from tenfold.resilience.scope import Scope
from tenfold.resilience.wheel import Lines, disarm

if TYPE_CHECKING:
    from tenfold.resilience.adaptive import AdaptivePlaces
    from tenfold.resilience.bulkhead import Places
    from tenfold.resilience.chaos import Injector
    from tenfold.resilience.fallback import Stopgap
    from tenfold.resilience.hedge import Hedger
    from tenfold.resilience.retry import Retrier

_LAYER_OF: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (BreakerOpen, "breaker"),
    (BulkheadFull, "bulkhead"),
    (RateLimited, "rate limit"),
    (Overloaded, "adaptive limit"),
    (DeadlineTooShort, "deadline"),
)


class LateResult(Exception):
    """The call went on although it was cancelled at its time-out. Its result is discarded; this stands for it."""


class Unwanted(Exception):
    """A result that asked for another try. Never leaves the package."""

    def __init__(self, result: Any) -> None:
        super().__init__("the result asked for another try")
        self.result = result


class Plan:
    """The live parts of a policy and its numbers. A part that it does not have is None, and no code asks for it."""

    __slots__ = (
        "__weakref__",
        "answers",
        "attempt_async",
        "attempt_sync",
        "breaker_key",
        "call_async",
        "call_sync",
        "circuit",
        "circuits",
        "clock",
        "counters",
        "deadline",
        "hedger",
        "hub",
        "idempotent",
        "injector",
        "limiter",
        "line_of",
        "lines",
        "meter",
        "meter_key",
        "monotonic",
        "name",
        "places",
        "purse",
        "quickest",
        "retrier",
        "sleep_sync",
        "slow_call",
        "stopgap",
        "timeout",
    )

    def __init__(self, name: str, clock: Clock, hub: Hub, counters: Counters, lines: Lines) -> None:
        self.name: Final = name
        self.clock: Final = clock
        self.hub: Final = hub
        self.counters: Final = counters
        self.lines: Final = lines
        self.line_of: Final = lines.get
        self.monotonic: Final = clock.monotonic
        self.sleep_sync: Callable[[float], object] = _cannot_sleep
        self.deadline = math.inf
        self.timeout = math.inf
        self.quickest = math.inf
        self.slow_call = math.inf
        self.answers: tuple[type[Exception], ...] = ()
        self.idempotent = False
        self.retrier: Retrier | None = None
        self.purse: Any = None
        self.circuit: Any = None
        self.circuits: Any = None
        self.breaker_key: Callable[..., Any] | None = None
        self.meter: Any = None
        self.meter_key: Callable[..., Any] | None = None
        self.limiter: AdaptivePlaces | None = None
        self.places: Places | None = None
        self.hedger: Hedger | None = None
        self.stopgap: Stopgap | None = None
        self.injector: Injector | None = None
        self.attempt_sync: Any = None
        self.attempt_async: Any = None
        self.call_sync: Any = None
        self.call_async: Any = None

    # How a call may begin

    def too_late(self) -> DeadlineTooShort:
        """The refusal of a try whose deadline has passed."""
        self.counters.rejected["deadline"] += 1
        return DeadlineTooShort(
            f"policy {self.name!r}: the deadline passed before the call was started", policy=self.name
        )

    def resume(self, until: float) -> float:
        """The time after a wait for a place. Raises `DeadlineTooShort` if none is left."""
        now = self.monotonic()
        if until <= now:
            raise DeadlineTooShort(f"policy {self.name!r}: the deadline passed in the queue", policy=self.name)
        return now

    async def hedged(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], outer: Scope, until: float
    ) -> Any:
        """One try with its hedges."""
        assert self.hedger is not None
        return await self.hedger.run(partial(self.attempt_async, self, fn, args, kwargs, outer, until))

    # How it may end

    def failed(
        self,
        error: BaseException,
        idempotent: bool,
        outer: Scope,
        held: tuple[Any, ...] | None,
    ) -> list[BaseException] | None:
        """The first try failed. A list with the error: try again. None: it is to be raised as it is. Otherwise raises
        what stands for it.

        A list, because the frame that called must not keep the error: its traceback refers to that frame.
        """
        final = error if held is None else self.settle(error, outer, *held)
        if not outer[1] and self.wants(final, idempotent):
            if final is not error:
                final.__cause__ = error
            return [final]
        self.count(final)
        try:
            if final is error:
                return None
            raise final from error
        finally:
            del final, error, held  # their tracebacks refer to this frame, and so does the task by its exception

    def lost(self, error: BaseException, outer: Scope, held: tuple[Any, ...]) -> None:
        """A further try failed. Raises what stands for the error; if nothing does, it is to be raised as it is."""
        final = self.settle(error, outer, *held)
        try:
            if final is not error:
                raise final from error
        finally:
            del final, error, held

    def wants(self, error: BaseException, idempotent: bool) -> bool:
        """Whether the failure is worth another try."""
        retrier = self.retrier
        if retrier is None or isinstance(error, self.answers):
            return False
        return retrier.wants(error, idempotent or self.idempotent)

    def unwanted(self, result: Any, idempotent: bool) -> bool:
        """Whether the result asks for another try."""
        return self.retrier is not None and self.retrier.unwanted(result, idempotent or self.idempotent)

    def substitutes(self, error: BaseException) -> bool:
        """Whether the fallback answers for the failure."""
        stopgap = self.stopgap
        return stopgap is not None and not isinstance(error, self.answers) and stopgap.handles(error)

    def count(self, error: BaseException) -> None:
        """Count how a call ended that raises."""
        if isinstance(error, Exception):
            self.counters.failures += 1
        else:
            self.counters.cancelled += 1

    def settle(
        self,
        error: BaseException,
        outer: Scope,
        started: bool,
        now: float,
        until: float,
        circuit: Any = None,
        ticket: Any = None,
        entry: Any = None,
        permit: int | None = None,
        timer: tuple[Any, ...] | None = None,
    ) -> BaseException:
        """Give back what a try holds and pass judgement; what is to be raised."""
        end = self.monotonic()
        fired = None if timer is None else disarm(*timer)
        if permit is not None and self.places is not None:
            self.places.release(permit)
        bad: bool | None = None
        loss: bool | None = None
        if fired is not None and isinstance(error, Exception | asyncio.CancelledError):
            # It did take too long, even where somebody else (mostly the owner of an inherited deadline) cancelled it in
            # the same turn and has the last word about how it ends.
            inherited = until == outer[0]
            stopped = self._stopped(timer, until, end - now, inherited)
            impatient = inherited and isinstance(stopped, DeadlineExceeded) and end - now < self.slow_call
            bad, loss = (None, None) if impatient else (True, False)
            if fired:
                error = stopped
            elif not isinstance(error, asyncio.CancelledError):
                error = asyncio.CancelledError()
        elif not started:
            self._refused(error)
        else:
            bad, loss = self._blame(error)
        if entry is not None and self.limiter is not None:
            self.limiter.leave(entry, end, loss)
        if ticket is not None:
            if bad is None:
                circuit.neutral(ticket, end)
            elif bad:
                circuit.failure(ticket, end, end - now)
            else:
                circuit.success(ticket, end, end - now)
        return error

    def _stopped(
        self, timer: tuple[Any, ...] | None, until: float, elapsed: float, inherited: bool
    ) -> AttemptTimeout | DeadlineExceeded:
        limit = until if timer is None else timer[1]
        took = format_duration(elapsed)
        if limit < until:
            self.counters.timeouts += 1
            if self.hub.wants(AttemptTimedOut):
                self.hub.emit(AttemptTimedOut(self.name, elapsed))
            limit = format_duration(self.timeout)
            return AttemptTimeout(
                f"policy {self.name!r}: a try was stopped after {took} (timeout {limit})", policy=self.name
            )
        self.counters.deadlines += 1
        if self.hub.wants(DeadlinePassed):
            self.hub.emit(DeadlinePassed(self.name, elapsed, inherited))
        whose = "inherited deadline" if inherited else f"deadline of {format_duration(self.deadline)}"
        return DeadlineExceeded(
            f"policy {self.name!r}: the call was stopped after {took} at its {whose}", policy=self.name
        )

    def _refused(self, error: BaseException) -> None:
        """A layer of ours raised, before the function was called."""
        if not isinstance(error, Exception):
            return
        if isinstance(error, ResilienceError) and not error.policy:
            error.policy = self.name
        layer = next((layer for kind, layer in _LAYER_OF if isinstance(error, kind)), "other")
        self.counters.rejected[layer] += 1

    def _blame(self, error: BaseException) -> tuple[bool | None, bool | None]:
        """Whether the function's exception is a failure of the peer, and whether it is a loss by overload."""
        if isinstance(error, self.answers):
            return False, True
        if not isinstance(error, Exception) or isinstance(error, (Rejected, *PROGRAMMING_ERRORS)):
            return None, None
        code = status(error)
        if code is not None and 400 <= code < 500 and code not in (408, 429):
            return False, True
        return True, False if overloaded(error) else None


def _cannot_sleep(seconds: float) -> NoReturn:
    raise NotImplementedError
