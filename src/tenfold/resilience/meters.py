"""A live rate limit of its options: in this process, or shared by all that name the same store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenfold._core.events import EVENTS, Hub
from tenfold.resilience.gcra import Meter

if TYPE_CHECKING:
    from tenfold.resilience.distributed import SharedMeter
    from tenfold.resilience.ratelimit import RateLimit


def meter_of(options: RateLimit, *, name: str, hub: Hub = EVENTS) -> Meter | SharedMeter:
    """The meter that `Policy` and `ResilienceMiddleware` ask. A shared one wants `SharedMeter.aclose` at its end.

    Raises `MisuseError` where ``store`` is given and redis is not installed.
    """
    if options.store is None:
        return Meter(options, name=name)
    from tenfold.resilience.distributed import SharedMeter  # needs redis, which is an extra

    return SharedMeter(options, name=name, hub=hub)
