"""What a balancer and its sources tell. Nothing is told of a request that simply went well."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class EndpointUp(Event):
    """Enough checks in a row have succeeded: the endpoint may be given work again."""

    balancer: str
    endpoint: str
    why: str
    """For a person, for example "HTTP 200 in 3.10 ms"."""


@dataclass(frozen=True, slots=True)
class EndpointDown(Event):
    """Enough checks in a row have failed: the endpoint is given no work."""

    balancer: str
    endpoint: str
    why: str
    """For a person, for example "no answer within 1.00 s"."""


@dataclass(frozen=True, slots=True)
class EndpointEjected(Event):
    """What the endpoint did with real requests was so bad that it is left out for ``seconds``."""

    balancer: str
    endpoint: str
    reason: str
    seconds: float
    repeats: int
    """How often in a row it has been ejected, this time included."""


@dataclass(frozen=True, slots=True)
class EndpointReturned(Event):
    """The time of an ejection is over (or its place among the ejected is gone): the endpoint may be used again."""

    balancer: str
    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class DiscoveryFailed(Event):
    """A source could not say what there is; the set it gave last stays in force."""

    source: str
    why: str
    """A sentence for a person."""
    failures: int
    """In a row, this one included."""
    retry_in: float
    """Seconds until it is asked again."""


@dataclass(frozen=True, slots=True)
class MembersChanged(Event):
    """The set of endpoints of a balancer is another one. All are ids; ``changed`` are those declared otherwise now."""

    balancer: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    total: int
