"""What a call tells the next service in its headers: how long it may take, who retries, how much it matters.

Time travels as *remaining* milliseconds, not as a time of day: two machines agree on how long a millisecond is,
not on what time it is (gRPC's ``grpc-timeout`` does the same). The receiver counts from the arrival, so the
time on the network is given away; a caller that wants it back tells less than it has (``margin``).

Whatever a header holds, reading it never fails: what makes no sense is no request of the caller's, and a typing
error of one client is not a reason to answer 500.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final

from tenfold._core.errors import MisuseError

TIMEOUT: Final = "Tenfold-Timeout-Ms"
"""Request header: how many milliseconds are left; 0 is "too late already"."""
RETRY: Final = "Tenfold-Retry"
"""Request header: ``caller`` when a layer above repeats the call, so that nobody below does."""
PRIORITY_HEADER: Final = "Tenfold-Priority"
"""Request header: one of the names of `Priority`, in lower case."""
DEGRADATION: Final = "Tenfold-Degradation"
"""Response header: the level of the server's `Degradation`, a number above 0; absent at level 0."""
RETRIED_BY_CALLER: Final = "caller"

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")


class Priority(IntEnum):
    """How much a call matters; a higher number matters more. Under overload the lowest goes first."""

    SHEDDABLE = 0
    """May fail at any time: prefetching, speculative work."""
    BATCH = 1
    """Nobody waits for it now and it will be tried again: reports, imports."""
    NORMAL = 2
    """A person waits. What is not marked is this."""
    CRITICAL = 3
    """The business fails without it: checkout, sign-in."""

    @property
    def label(self) -> str:
        """The name as it stands in the header and in files: ``"critical"``."""
        return self.name.lower()

    @classmethod
    def of(cls, value: Priority | str, name: str = "priority") -> Priority:
        """The priority that ``value`` names, in any case. Raises `MisuseError` for anything else."""
        if isinstance(value, cls):
            return value
        found = _BY_LABEL.get(value.lower().encode()) if isinstance(value, str) else None
        if found is None:
            raise MisuseError(
                f'{name}: expected one of "critical", "normal", "batch" and "sheddable", got {value!r}; '
                "correct the name"
            )
        return found


_BY_LABEL: Final = {priority.label.encode(): priority for priority in Priority}

PRIORITY: Final[ContextVar[Priority]] = ContextVar("tenfold_priority", default=Priority.NORMAL)
"""The priority of the call under way; everything that it starts inherits it."""


@contextmanager
def at_priority(priority: Priority | str) -> Iterator[Priority]:
    """Run the block at that priority: `Shedder` and the client transports take it from the context.

    Unlike a deadline it can be raised as well as lowered; a task or thread started in the block with a copy of
    the context keeps it. Raises `MisuseError` for a name that is none.
    """
    taken = Priority.of(priority)
    token = PRIORITY.set(taken)
    try:
        yield taken
    finally:
        PRIORITY.reset(token)


def parse_timeout(value: bytes, *, most: float = math.inf) -> float | None:
    """Seconds from the value of `TIMEOUT`, ``most`` at most; None for what is not a whole number of
    milliseconds.

    A number that is too large to be meant is still a wish for "long" and gets ``most``.
    """
    text = value.strip(b" \t")
    if _DIGITS.fullmatch(text) is None:
        return None
    return min(int(text) / 1000.0, most)


def format_timeout(remaining: float) -> str | None:
    """The value of `TIMEOUT` for ``remaining`` seconds, rounded down; None where there is no deadline.

    What is over, or less than a millisecond, is ``"0"``.
    """
    if not math.isfinite(remaining):
        return None
    return str(max(0, math.floor(remaining * 1000.0)))


def parse_priority(value: bytes, *, most: Priority = Priority.CRITICAL) -> Priority | None:
    """The priority that a header asks for, ``most`` at most; None for a name that is none."""
    found = _BY_LABEL.get(value.strip(b" \t").lower())
    return None if found is None else min(found, most)


def parse_retry(value: bytes) -> bool | None:
    """True for ``caller``; None for anything else."""
    return True if value.strip(b" \t").lower() == b"caller" else None


def format_retry_after(seconds: float) -> str:
    """The value of ``Retry-After``: whole seconds, rounded up, at least 1 (RFC 9110, section 10.2.3).

    Rounding down would call the client back before its time, and 0 at once.
    """
    if not math.isfinite(seconds):
        return "1" if seconds != math.inf else "86400"
    return str(min(86_400, max(1, math.ceil(seconds))))
