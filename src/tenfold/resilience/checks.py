"""What a policy must not be: combinations of options that would not do what they say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration, format_duration
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.deadline import Deadline
from tenfold.resilience.fallback import Fallback, exceptions
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

_KINDS: dict[str, tuple[type[Any], ...]] = {
    "retry": (Retry,),
    "breaker": (Breaker,),
    "limit": (RateLimit, AdaptiveLimit),
    "bulkhead": (Bulkhead,),
    "hedge": (Hedge,),
    "fallback": (Fallback,),
    "chaos": (Chaos,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one policy, checked one by one and together."""

    deadline: Any = None
    timeout: Any = None
    retry: Retry | None = None
    breaker: Breaker | None = None
    limit: RateLimit | AdaptiveLimit | None = None
    bulkhead: Bulkhead | None = None
    hedge: Hedge | None = None
    fallback: Fallback | None = None
    chaos: Chaos | None = None
    answers: Any = ()
    idempotent: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        seconds = self.deadline.seconds if isinstance(self.deadline, Deadline) else self.deadline
        for name, given in (("deadline", seconds), ("timeout", self.timeout)):
            put(self, name, None if given is None else duration(given, f"policy {name}"))
            if getattr(self, name) == 0:
                raise MisuseError(
                    f'policy {name}: expected a duration above 0 such as "2s", got 0; leave it out for none'
                )
        for name, kinds in _KINDS.items():
            part = getattr(self, name)
            if part is not None and not isinstance(part, kinds):
                names = " or ".join(f"{kind.__name__}(…)" for kind in kinds)
                raise MisuseError(f"policy {name}: expected {names}, got {part!r}")
        if self.idempotent not in (True, False):
            raise MisuseError(f"policy idempotent: expected true or false, got {self.idempotent!r}")
        put(self, "answers", exceptions(self.answers, "policy answers") if self.answers else ())
        self._check_together()

    @property
    def repeatable(self) -> bool:
        """Whether it was declared that calls may safely be made twice."""
        return self.idempotent or (self.retry is not None and self.retry.idempotent)

    def _check_together(self) -> None:
        layers = ("deadline", "timeout", *_KINDS)
        if all(getattr(self, name) is None for name in layers):
            raise MisuseError(f"policy: expected at least one of {', '.join(layers)}; this one would do nothing")
        deadline, timeout = self.deadline, self.timeout
        if deadline is not None and timeout is not None and timeout >= deadline:
            raise MisuseError(
                f"policy timeout: expected less than the deadline ({format_duration(deadline)}), "
                f"got {format_duration(timeout)}; it bounds one try, the deadline all of them"
            )
        if isinstance(self.limit, AdaptiveLimit) and self.bulkhead is not None:
            raise MisuseError(
                "policy: AdaptiveLimit and Bulkhead both bound the calls at a time, and the smaller one would blind "
                "the other; keep one (a fixed bound for AdaptiveLimit is its maximum)"
            )
        if self.bulkhead is not None and self.breaker is not None and self.bulkhead.size < self.breaker.permits:
            raise MisuseError(
                f"policy bulkhead: expected at least the breaker's {self.breaker.permits} permits, got "
                f"{self.bulkhead.size}; its probes would be turned away and the breaker stay half-open"
            )
        self._check_repeats(deadline if deadline is not None else float("inf"))

    def _check_repeats(self, deadline: float) -> None:
        if self.retry is not None and self.retry.attempts > 1 and float(self.retry.base) >= deadline:
            raise MisuseError(
                f"policy retry: the first back-off ({format_duration(float(self.retry.base))}) is as long as the "
                f"deadline ({format_duration(deadline)}) or longer, so nothing would be retried; give a shorter base"
            )
        hedge = self.hedge
        if hedge is None:
            return
        if not self.repeatable:
            raise MisuseError(
                "policy hedge: a hedge makes the same call twice; say idempotent=True if that is safe, or leave it out"
            )
        longest = min(deadline, self.timeout or float("inf"))
        if hedge.delay is not None and float(hedge.delay) >= longest:
            raise MisuseError(
                f"policy hedge: a delay of {format_duration(float(hedge.delay))} is never reached within "
                f"{format_duration(longest)}; give a shorter one"
            )

    def but(self, changes: dict[str, Any]) -> Options:
        """These options with some of them changed. Raises `MisuseError` for unknown ones and for what makes no
        sense.
        """
        known = [field.name for field in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise MisuseError(f"policy: unknown option {unknown[0]!r}; there are {', '.join(known)}")
        return Options(**{**{name: getattr(self, name) for name in known}, **changes})


def is_async(fn: object) -> bool:
    """Whether calling it makes a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def check_function(name: str, options: Options, fn: Callable[..., Any]) -> None:
    """Refuse a function that the policy cannot protect."""
    label = getattr(fn, "__qualname__", None) or repr(fn)
    if isinstance(fn, classmethod | staticmethod | property):
        raise MisuseError(
            f"policy {name!r}: expected a function, got a {type(fn).__name__}; "
            f"put the policy below @{type(fn).__name__}, next to the function"
        )
    if isinstance(fn, type) or not callable(fn):
        raise MisuseError(f"policy {name!r}: expected a function to protect, got {label}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise MisuseError(
            f"policy {name!r}: {label} is a generator, and what it yields comes after the call; "
            "protect the calls that it makes, or use `with policy:` inside"
        )
    if not is_async(fn):
        check_plain(name, options, label)


def check_plain(name: str, options: Options, label: str) -> None:
    """Refuse what only works with coroutines."""
    if options.hedge is not None:
        raise MisuseError(f"policy {name!r}: a hedge needs an asynchronous function, and {label} is a plain one")
    if options.timeout is not None:
        raise MisuseError(
            f"policy {name!r}: timeout stops asynchronous calls, and {label} is a plain one, which nothing can stop; "
            "use a deadline, and give what it calls `remaining()` as its time-out"
        )
