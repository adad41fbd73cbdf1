"""What a balancer tells of itself; what it tells of single endpoints stands in `happenings`."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class PanicStarted(Event):
    """Too few endpoints are ready, so all are used: ``ready`` of ``members``."""

    balancer: str
    ready: int
    members: int


@dataclass(frozen=True, slots=True)
class PanicEnded(Event):
    """Enough endpoints are ready again: ``ready`` of ``members``."""

    balancer: str
    ready: int
    members: int


@dataclass(frozen=True, slots=True)
class DrainStarted(Event):
    """An endpoint is given no more work; ``in_flight`` requests are under way there."""

    balancer: str
    endpoint: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class DrainEnded(Event):
    """`Balancer.drain` is over, with ``left`` requests still under way, more than none at its deadline only."""

    balancer: str
    endpoint: str
    left: int
