"""What a policy tells and counts. Nothing is told of a call that simply succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenfold._core.events import Event

LAYERS: Final = ("breaker", "rate limit", "bulkhead", "adaptive limit", "deadline", "other")


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """A try failed, and another one starts in ``pause`` seconds. ``attempt`` is the number of the one that failed."""

    policy: str
    attempt: int
    pause: float
    error: str


@dataclass(frozen=True, slots=True)
class RetryRefused(Event):
    """A failure was worth another try and got none. ``why``: ``"attempts"``, ``"deadline"`` or ``"retry_after"``."""

    policy: str
    attempt: int
    why: str
    error: str


@dataclass(frozen=True, slots=True)
class BudgetExhausted(Event):
    """The retry budget could not pay for a try that was worth one."""

    policy: str
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class AttemptTimedOut(Event):
    """A try was stopped after ``seconds``, at the policy's ``timeout``."""

    policy: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DeadlinePassed(Event):
    """A try was stopped after ``seconds``, at the deadline. ``inherited``: it was a caller's, not the policy's own."""

    policy: str
    seconds: float
    inherited: bool


@dataclass(frozen=True, slots=True)
class PolicyReconfigured(Event):
    """A policy goes by other options from now on. ``changed`` names them."""

    policy: str
    changed: tuple[str, ...]


class Counters:
    """Plain numbers of one policy; they never fall. Adding one is one step under the interpreter's lock."""

    __slots__ = (
        "cancelled",
        "deadlines",
        "failures",
        "good",
        "rejected",
        "retries",
        "retries_refused",
        "timeouts",
    )

    def __init__(self) -> None:
        self.good = 0.0  # a number of float type grows faster than an integer, and every call adds to this one
        self.failures = 0
        """Calls that ended in an exception, or in a fallback because of one."""
        self.cancelled = 0
        """Calls whose caller gave them up."""
        self.retries = 0
        """Further tries."""
        self.retries_refused = 0
        """Further tries that the budget did not pay for."""
        self.timeouts = 0
        """Tries stopped at ``timeout``."""
        self.deadlines = 0
        """Tries stopped at the deadline."""
        self.rejected = dict.fromkeys(LAYERS, 0)
        """Tries that a layer did not let through."""

    @property
    def successes(self) -> int:
        """Calls that returned a result of the function's own."""
        return int(self.good)

    @property
    def calls(self) -> int:
        """Calls that have ended."""
        return self.successes + self.failures + self.cancelled

    def state(self) -> dict[str, object]:
        """Plain values."""
        return {
            "calls": self.calls,
            "successes": self.successes,
            "failures": self.failures,
            "cancelled": self.cancelled,
            "retries": self.retries,
            "retries_refused": self.retries_refused,
            "timeouts": self.timeouts,
            "deadlines": self.deadlines,
            "rejected": {layer: count for layer, count in self.rejected.items() if count},
        }
