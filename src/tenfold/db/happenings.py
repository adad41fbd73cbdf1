"""What a cluster tells: the events of its servers."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class RoleChanged(Event):
    """A server was seen in another role. ``"unknown"``: it does not answer."""

    node: str
    before: str
    after: str
    timeline: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class PrimaryElected(Event):
    """Another server takes the writes from now on; ``node`` is None while there is none."""

    node: str | None
    before: str | None
    timeline: int


@dataclass(frozen=True, slots=True)
class PrimaryRefused(Event):
    """A server says that it is a primary and gets no writes (fencing)."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class GenerationDropped(Event):
    """All connections to a server made so far are given up; ``generation`` is the number of the next ones."""

    node: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class LagChanged(Event):
    """A replica's lag passed from one of "fresh", "stale", "unknown" to another."""

    node: str
    before: str
    after: str
    lag: float | None
