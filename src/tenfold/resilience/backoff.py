"""How long to wait before the next try.

Theory. Callers that failed together must not come back together. Marc Brooker, "Exponential backoff and jitter"
(AWS Architecture Blog, 2015) compares the ways to spread them: *full* jitter draws from all of 0 … ``base · 2ⁿ`` and
needs the fewest calls until all are through; *decorrelated* jitter draws from ``base … 3 × the last pause`` and
never comes back at once. Without jitter the crowd stays a crowd; ``"none"`` is there for tests and for single callers.
"""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from typing import Literal

Jitter = Literal["full", "decorrelated", "none"]


def pause(jitter: Jitter, attempt: int, previous: float, base: float, cap: float, rng: random.Random) -> float:
    """Seconds to wait after try number ``attempt`` (1 is the first) has failed; ``previous`` is the pause before
    it, 0 where there was none.
    """
    if jitter == "decorrelated":
        return min(cap, rng.uniform(base, max(base, previous * 3)))
    # Not 2.0**attempt: a float overflows at 1024, and a long poll may get there.
    longest = cap if attempt > 64 else min(cap, base * (1 << (attempt - 1)))
    return longest if jitter == "none" else rng.uniform(0.0, longest)


def retry_after(error: BaseException, epoch: float) -> float | None:
    """Seconds that the peer asked to wait, or None: the error's own ``retry_after``, else the ``Retry-After`` header of
    its ``response`` (seconds, or a date as RFC 9110 has it; ``epoch`` is the Unix time now).

    Nonsense in the header counts as no header.
    """
    told = getattr(error, "retry_after", None)
    if isinstance(told, int | float) and not isinstance(told, bool) and told >= 0:
        return float(told)
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None)
    get = getattr(headers, "get", None)
    text = (get("Retry-After") or get("retry-after")) if callable(get) else None
    return parse_retry_after(text, epoch) if isinstance(text, str) else None


def parse_retry_after(text: str, epoch: float) -> float | None:
    """Seconds from the text of a ``Retry-After`` header; a date in the past is 0."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - epoch)
    except (TypeError, ValueError, OverflowError):
        return None
