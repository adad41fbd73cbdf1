"""The numbers of a cluster, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.lag import LagLimits
from tenfold.db.pool_size import connections_for

Pooler = Literal["auto", "none", "transaction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What `create_async_cluster` takes besides the servers; see there for meaning and defaults."""

    pool_size: int | Literal["auto"] = 10
    rate: str | float | None = None
    held: Duration | None = None
    pool_timeout: Duration = "5s"
    connect_timeout: Duration = "1s"
    statement_timeout: Duration = "30s"
    release_timeout: Duration = "2s"
    max_lag: Duration | None = "10s"
    failover_wait: Duration = "5s"
    held_writers: int = 1000
    watch_period: Duration = "250ms"
    spill: int | None = None
    pooler: Pooler = "auto"

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("pool_timeout", "connect_timeout", "statement_timeout", "release_timeout", "watch_period"):
            put(self, name, duration(getattr(self, name), name))
            if getattr(self, name) == 0:
                raise MisuseError(f'{name}: expected a duration above 0 such as "1s", got 0')
        put(self, "failover_wait", duration(self.failover_wait, "failover_wait"))
        put(self, "pool_size", self._size())
        whole_number(self.held_writers, "held_writers", least=1)
        if self.spill is None:
            put(self, "spill", max(1, int(self.pool_size) // 2))
        whole_number(self.spill, "spill")
        if self.pooler not in ("auto", "none", "transaction"):
            raise MisuseError(f'pooler: expected "auto", "none" or "transaction", got {self.pooler!r}')
        self.lag_limits()

    def _size(self) -> int:
        if self.pool_size == "auto":
            if self.rate is None or self.held is None:
                raise MisuseError(
                    'pool_size="auto": expected rate= and held= too, such as rate="500/s", held="4ms": the operations '
                    "a second that one pool must carry, and how long one of them holds a connection"
                )
            return connections_for(self.rate, self.held)
        if self.rate is not None or self.held is not None:
            raise MisuseError('rate and held: expected them with pool_size="auto" only')
        if type(self.pool_size) is not int or self.pool_size < 1:
            raise MisuseError(
                f'pool_size: expected a whole number of at least 1, or "auto" with rate= and held=, '
                f"got {self.pool_size!r}"
            )
        return self.pool_size

    def lag_limits(self) -> LagLimits:
        """How lag is judged: the primary's last sample may be as old as eight probes are apart, at least 2 s."""
        return LagLimits(leave=self.max_lag, horizon=max(2.0, 8 * float(self.watch_period)))

    def engine(self) -> dict[str, Any]:
        """What SQLAlchemy's engines get."""
        return {
            "pool_size": self.pool_size,
            "max_overflow": 0,
            "pool_timeout": self.pool_timeout,
            "pool_use_lifo": True,
            "connect_args": {"timeout": self.connect_timeout, "command_timeout": self.statement_timeout},
        }
