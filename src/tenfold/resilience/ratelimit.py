"""`RateLimit`: how many calls a second may pass, of one process or of all together.

Options only; `tenfold.resilience.gcra` and `tenfold.resilience.distributed` are what they turn into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share, whole_number
from tenfold._core.units import rate as per_second

OnStoreError = Literal["open", "closed", "local"]
_SCHEMES: Final = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``burst + rate * t`` calls in any ``t`` seconds; the rest is refused with `RateLimited`.

    * ``rate``: ``"100/s"``, ``"3000/m"`` or a number a second.
    * ``burst``: how many may come at once after a silence; default what a second brings, at least one.
    * ``key``: a function of the call's arguments; each result (hashable) has a limit of its own. ``max_keys``
      (default 100,000) are remembered at most.

    With ``store`` (``"redis://…"``, a Valkey or Redis) all processes that use the same ``store`` and ``name`` share
    one limit (``name`` defaults to the policy's). Each call then asks the store once, unless

    * ``lease`` is above 0: a process may take up to so many cells (default 0) for ``lease_time`` (default 1 s) and
      serves them without asking. What one process holds, the others lack, and in any window at most
      ``lease`` cells a process come on top of the limit. Quiet keys take small leases.
    * the store does not answer within ``store_timeout`` (default 50 ms, connecting included): then it is left alone
      for ``store_pause`` (default 1 s) and ``on_store_error`` says what happens meanwhile: ``"open"`` (default)
      admits all and counts them, ``"closed"`` refuses all, ``"local"`` lets each process admit ``local_share``
      of the rate and of the burst (``"25%"`` for four processes).

    Raises `MisuseError` for values that make no sense and for store options without a store.
    """

    rate: str | float = field(kw_only=False)
    burst: int | None = None
    key: Callable[..., Hashable] | None = None
    max_keys: int = 100_000
    store: str | None = None
    name: str | None = None
    lease: int = 0
    lease_time: Duration = 1.0
    on_store_error: OnStoreError = "open"
    local_share: str | float | None = None
    store_timeout: Duration = 0.05
    store_pause: Duration = 1.0

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        speed = per_second(self.rate, "rate limit: rate")
        if speed == 0:
            raise MisuseError(f'rate limit: expected a rate above 0 such as "100/s", got {self.rate!r}')
        put("rate", speed)
        if self.burst is None:
            put("burst", max(1, math.floor(speed)))
        else:
            whole_number(self.burst, "rate limit: burst", least=1)
        whole_number(self.max_keys, "rate limit: max_keys", least=1)
        if self.key is not None and not callable(self.key):
            raise MisuseError(f"rate limit: expected a function of the call's arguments as key, got {self.key!r}")
        put("lease_time", _positive(self.lease_time, "lease_time"))
        put("store_timeout", _positive(self.store_timeout, "store_timeout"))
        put("store_pause", _positive(self.store_pause, "store_pause"))
        whole_number(self.lease, "rate limit: lease")
        if self.on_store_error not in get_args(OnStoreError):
            raise MisuseError(
                f'rate limit: expected on_store_error to be "open", "closed" or "local", got {self.on_store_error!r}'
            )
        if self.local_share is not None:
            part = share(self.local_share, "rate limit: local_share")
            if part == 0:
                raise MisuseError('rate limit: expected a local_share above 0; to refuse all: on_store_error="closed"')
            put("local_share", part)
        self._check_store()

    def _check_store(self) -> None:
        if self.store is None:
            for name, given in (
                ("lease", self.lease != 0),
                ("on_store_error", self.on_store_error != "open"),
                ("local_share", self.local_share is not None),
            ):
                if given:
                    raise MisuseError(f'rate limit: {name}= only means something with store="redis://…"; leave it out')
            return
        if not str(self.store).startswith(_SCHEMES):
            raise MisuseError(f'rate limit: expected a store such as "redis://127.0.0.1:6379/0", got {self.store!r}')
        if self.lease > self.cells:
            raise MisuseError(
                f"rate limit: expected a lease of at most the burst ({self.cells}), got {self.lease}; "
                "a process could hold more than there ever is"
            )
        if (self.on_store_error == "local") != (self.local_share is not None):
            raise MisuseError(
                'rate limit: on_store_error="local" and local_share= belong together; '
                'say which share of the rate each process may admit, such as local_share="25%" for four'
            )

    @property
    def cells_a_second(self) -> float:
        """``rate`` as the number it is after the check."""
        return float(self.rate)

    @property
    def cells(self) -> int:
        """``burst``, or its default."""
        return self.burst or 1


def _positive(value: Duration, name: str) -> float:
    seconds = duration(value, f"rate limit: {name}")
    if seconds == 0:
        raise MisuseError(f"rate limit: expected a {name} longer than zero, got {value!r}")
    return seconds
