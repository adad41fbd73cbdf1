"""What the gateway costs and what it saves: the processor time of a request, with and without it.

On a machine that client, shop and gateway share, a gateway takes from the shop what it gives to it. So the time that
the processes used is read from the kernel around a run of the workers alone, and around one through the gateway at the
same rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from blackfriday.processes import cpu_seconds
from blackfriday.shop import Shop
from blackfriday.story import Cost

_READS: Final = ("replica_reads", "token_reads", "primary_reads")
_COUNTED: Final = ("hits", "misses", "collapsed", "requests")


@dataclass(slots=True)
class Meter:
    """``async with Meter(shop) as meter`` around a run; then `told` divides by its requests."""

    shop: Shop
    edge: dict[str, int] = field(default_factory=dict)
    """What the gateway and its edge counted meanwhile; zeros without one."""
    workers: float = 0.0
    gateway: float = 0.0
    reads: int = 0
    """Requests for what may be cached that reached the workers."""
    loads: int = 0
    """Statements that they sent to PostgreSQL for these."""
    statements: dict[str, int] = field(default_factory=dict)
    """Of the catalogue and of customers' own carts: which of them replicas answered."""

    async def __aenter__(self) -> Meter:
        self._add(-1, await self._edge(), await self.shop.stats())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._add(1, await self._edge(), await self.shop.stats())

    async def _edge(self) -> dict[str, int]:
        gate = self.shop.gate
        counted = {} if gate is None else await gate.stats()
        return {name: counted.get(name, 0) for name in _COUNTED}

    def _add(self, sign: int, edge: dict[str, int], stats: dict[str, int]) -> None:
        gate = self.shop.gate
        self.edge = {name: self.edge.get(name, 0) + sign * value for name, value in edge.items()}
        self.workers += sign * cpu_seconds(self.shop.pid)
        self.gateway += sign * (0.0 if gate is None else cpu_seconds(gate.pid))
        self.reads += sign * stats["requests"]
        for name in _READS:
            self.statements[name] = self.statements.get(name, 0) + sign * stats[name]
        self.loads += sign * (stats["document_loads"] + stats["stock_loads"])

    def told(self, requests: int, p95: float) -> Cost:
        """The times of one of ``requests``: all that there were meanwhile, those of warming up included."""
        each = max(1, requests)
        return Cost(requests=requests, p95=p95, workers=self.workers / each, gateway=self.gateway / each)
