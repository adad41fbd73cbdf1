"""What a call inherits from its callers: how long it may take, and who retries.

Both travel in one context variable, because setting one costs as much as a dozen attribute look-ups and a
policy sets it on every call. The deadline is absolute on the monotonic clock; a child may shorten it, never
prolong it.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Final

Scope = tuple[float, bool]
"""``(until, retried)``: the deadline in monotonic seconds (infinite: none), and whether an outer layer
retries.
"""

NO_SCOPE: Final[Scope] = (math.inf, False)
SCOPE: Final[ContextVar[Scope]] = ContextVar("tenfold_scope", default=NO_SCOPE)
