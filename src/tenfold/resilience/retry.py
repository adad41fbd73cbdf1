"""Which failures are worth another try, and what a `Retry` decides about one. Pure: it is told, it never waits.

Theory. A try that failed may all the same have had its effect: the answer was lost, not the order. So without the
word of the one who knows (``idempotent=True``) only failures that *certainly* left no trace are tried again: our own
refusals, and connections that never came about (`never_sent`). With it, whatever may pass by itself is. Programming
errors never are. A peer that says when to come back (``Retry-After``) is believed, and a little scatter is added, so
that those it sent away do not return as the crowd they were.

A try that cannot end within the deadline is not begun: the pause and the quickest success seen so far must fit.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number
from tenfold.resilience import backoff
from tenfold.resilience.backoff import Jitter
from tenfold.resilience.budget import Budget, Purse, Reservation
from tenfold.resilience.errors import BreakerOpen, DeadlineTooShort, Rejected
from tenfold.resilience.fallback import PROGRAMMING_ERRORS, exceptions

Stop = Literal["attempts", "deadline", "budget", "retry_after"]

# Of httpx, httpx2, aiohttp and urllib3, by name: they need not be installed.
_NEVER_SENT: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ClientConnectorError", "NewConnectionError"}
)
_PASSING_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_BUSY_STATUS: Final = frozenset({429, 503})
# Wrong input fails as wrongly the next time; who knows better says so in ``on``.
_LASTING: Final = (*PROGRAMMING_ERRORS, ValueError, LookupError, ArithmeticError)


def never_sent(error: BaseException) -> bool:
    """Whether the failed call certainly had no effect, so that repeating it is safe for anything: it was refused by a
    policy of ours, or no connection came about.
    """
    if isinstance(error, Rejected | ConnectionRefusedError | socket.gaierror):
        return True
    return any(kind.__name__ in _NEVER_SENT for kind in type(error).__mro__)


def status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, as those of httpx and aiohttp do; None where there is none."""
    found = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return found if isinstance(found, int) else None


def passing(error: BaseException) -> bool:
    """Whether the failure may pass by itself: no programming error, no wrong input, no HTTP status that says that the
    *request* is wrong.
    """
    if isinstance(error, _LASTING):
        return False
    code = status(error)
    return code is None or code in _PASSING_STATUS


def overloaded(error: BaseException) -> bool:
    """Whether the failure says that the peer has too much to do: a time-out, or HTTP 429 and 503."""
    return isinstance(error, TimeoutError) or status(error) in _BUSY_STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again what failed, ``attempts`` (3) times in all.

    The pause before the n-th further try is drawn from 0 … ``base`` · 2ⁿ⁻¹ (100 ms), ``cap`` (5 s) at most
    (``jitter="full"``), or as ``"decorrelated"`` or ``"none"`` have it (`tenfold.resilience.backoff`). A
    ``Retry-After`` of the peer is added to it; one longer than ``retry_after`` (30 s) ends the trying.

    ``idempotent=True`` says that the call may safely be made twice; it may be said at the policy or the decorator
    instead. Without it only what `never_sent` is tried again. ``on`` narrows the failures to classes of exceptions,
    names of them, or a function of the exception; by default all that may pass by themselves. ``on_result`` is a
    function of the result: True asks for another try of an idempotent call; the last result is returned as it is.

    ``budget`` bounds the further tries of all calls together: by default `Budget`, that is 20 % of calls and one a
    second. None or False does without, and then an outage is multiplied by ``attempts``.

    Raises `MisuseError` for what makes no sense.
    """

    attempts: int = field(default=3, kw_only=False)
    base: Duration = 0.1
    cap: Duration = 5.0
    jitter: Jitter = "full"
    on: Any = None
    on_result: Callable[[Any], object] | None = None
    idempotent: bool = False
    retry_after: Duration = 30.0
    budget: Any = True
    """A `Budget`, a dictionary of its options, True for the default one, False or None for none."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        whole_number(self.attempts, "retry attempts", least=1)
        for name in ("base", "cap", "retry_after"):
            put(self, name, duration(getattr(self, name), f"retry {name}"))
        if float(self.cap) < float(self.base):
            raise MisuseError(f"retry cap: expected base ({self.base:g} s) or more, got {self.cap:g} s")
        if self.jitter not in get_args(Jitter):
            raise MisuseError(f'retry jitter: expected "full", "decorrelated" or "none", got {self.jitter!r}')
        if self.on_result is not None and not callable(self.on_result):
            raise MisuseError(f"retry on_result: expected a function of the result, got {self.on_result!r}")
        if self.idempotent not in (True, False):
            raise MisuseError(f"retry idempotent: expected true or false, got {self.idempotent!r}")
        if self.on is not None and (isinstance(self.on, type | str) or not callable(self.on)):
            put(self, "on", exceptions(self.on, "retry on"))
        put(self, "budget", _budget(self.budget))


def _budget(given: object) -> Budget | None:
    if given is None or given is False:
        return None
    if given is True:
        return Budget()
    if isinstance(given, Budget):
        return given
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(Budget.__dataclass_fields__))
        if not unknown:
            return Budget(**given)
        raise MisuseError(f"retry budget: unknown option {unknown[0]!r}; there are share, floor, burst and window")
    raise MisuseError(f"retry budget: expected a Budget, its options, true or false, got {given!r}")


class Step:
    """Try again after ``pause`` seconds. ``reservation`` is to be confirmed then, else refunded."""

    __slots__ = ("pause", "reservation")

    def __init__(self, pause: float, reservation: Reservation | None) -> None:
        self.pause = pause
        self.reservation = reservation


class Retrier:
    """The live part of a `Retry`. It keeps nothing of any call: what belongs to one is in the arguments, so that calls
    cannot be mixed up. Thread-safe.
    """

    __slots__ = ("options", "purse", "rng")

    def __init__(self, options: Retry, rng: random.Random) -> None:
        self.options = options
        self.purse = None if options.budget is None else Purse(options.budget)
        self.rng = rng

    def reconfigure(self, options: Retry) -> None:
        """Other numbers; the tokens of the budget stay."""
        if options.budget is None:
            self.purse = None
        elif self.purse is None:
            self.purse = Purse(options.budget)
        else:
            self.purse.reconfigure(options.budget)
        self.options = options

    def wants(self, error: BaseException, idempotent: bool) -> bool:
        """Whether this failure is worth another try."""
        options = self.options
        if options.attempts == 1 or not isinstance(error, Exception) or isinstance(error, PROGRAMMING_ERRORS):
            return False
        # An open breaker is there to say no at once, and a deadline does not come back.
        if isinstance(error, BreakerOpen | DeadlineTooShort):
            return False
        if not (options.idempotent or idempotent or never_sent(error)):
            return False
        on = options.on
        if on is None:
            return passing(error)
        return isinstance(error, on) if isinstance(on, tuple) else bool(on(error))

    def unwanted(self, result: Any, idempotent: bool) -> bool:
        """Whether this result asks for another try."""
        predicate = self.options.on_result
        return (
            predicate is not None
            and self.options.attempts > 1
            and (self.options.idempotent or idempotent)
            and bool(predicate(result))
        )

    def step(
        self,
        error: BaseException,
        attempt: int,
        previous: float,
        now: float,
        until: float,
        quickest: float,
        epoch: float,
    ) -> Step | Stop:
        """What follows try number ``attempt`` that failed with ``error``: another one, or why there is none.

        ``previous`` is the pause before it, ``until`` the deadline, ``quickest`` the shortest that a try may take,
        ``epoch`` the Unix time.
        """
        options = self.options
        if attempt >= options.attempts:
            return "attempts"
        pause = backoff.pause(options.jitter, attempt, previous, float(options.base), float(options.cap), self.rng)
        told = backoff.retry_after(error, epoch)
        if told is not None:
            if told > float(options.retry_after):
                return "retry_after"
            pause += told
        if now + pause + quickest >= until:
            return "deadline"
        purse = self.purse
        if purse is None:
            return Step(pause, None)
        reservation = purse.reserve(now)
        return "budget" if reservation is None else Step(pause, reservation)

    def __repr__(self) -> str:
        return f"<Retrier attempts={self.options.attempts} budget={self.purse!r}>"
