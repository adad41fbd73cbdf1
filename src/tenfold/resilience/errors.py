"""What a policy raises of its own. "Not started" is another type than "started and given up"."""

from __future__ import annotations

from tenfold._core.errors import TenfoldError


class ResilienceError(TenfoldError):
    """Root of this package's errors.

    ``policy`` is the name of the policy that raised it, "" where none did. ``retry_after`` is when a further
    try makes sense, in seconds from now; None where nobody knows.
    """

    def __init__(self, message: str, *, policy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.policy = policy
        self.retry_after = retry_after


class Rejected(ResilienceError):
    """The call was not started, so it certainly had no effect. Each layer that refuses has its own subclass."""


class BreakerOpen(Rejected):
    """The breaker is open, or half-open with all its permits out."""


class BulkheadFull(Rejected):
    """All places are taken, and the queue is full or the wait for a place took too long."""


class RateLimited(Rejected):
    """The rate is used up."""


class Overloaded(Rejected):
    """An adaptive limit or a shedder turned the call away."""


class DeadlineTooShort(Rejected, TimeoutError):
    """The deadline had passed before the call was started, or a retry would not have ended within it."""


class DeadlineExceeded(ResilienceError, TimeoutError):
    """The deadline passed while the call ran; it was stopped (async) or its late result discarded."""


class AttemptTimeout(ResilienceError, TimeoutError):
    """One attempt took longer than ``timeout``; a retry may follow."""


class ChaosFault(ResilienceError):
    """A fault that `Chaos` injected where it was told no other exception."""
