"""What is balanced: an `Endpoint` as it was declared, and a `Member`, which is the endpoint as one balancer sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError

_SCHEMES: Final = ("http", "https", "tcp", "unix")
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that can do the work.

    ``id`` names it for good: counters, sticky cookies and consistent hashing go by it, so it must not change when
    the list is put in another order or the server moves. ``url`` is where it is (``http``, ``https``, ``tcp`` or
    ``unix``). ``weight`` (1) is its share of the work against the others; 0 gives it none. ``zone`` ("") is where it
    stands, ``priority`` (0) the group it belongs to: a higher number is used when the lower ones cannot carry the
    load. ``metadata`` is for the owner's use.

    Raises `MisuseError` for what makes no sense.
    """

    id: str
    url: str
    weight: float = field(default=1.0, kw_only=True)
    zone: str = field(default="", kw_only=True)
    priority: int = field(default=0, kw_only=True)
    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING, kw_only=True, hash=False)

    def __post_init__(self) -> None:
        if type(self.id) is not str or not self.id or not self.id.isprintable():
            raise MisuseError(f'Endpoint: expected an id such as "a" or "10.0.0.1:8000", got {self.id!r}')
        if type(self.url) is not str or not _is_place(self.url):
            raise MisuseError(f'Endpoint {self.id!r}: expected a url such as "http://10.0.0.1:8000", got {self.url!r}')
        if type(self.weight) not in (int, float) or not 0 <= self.weight < math.inf:
            raise MisuseError(f"Endpoint {self.id!r}: expected a weight >= 0, got {self.weight!r}")
        if type(self.priority) is not int or self.priority < 0:
            raise MisuseError(f"Endpoint {self.id!r}: expected a priority of 0, 1, 2, …, got {self.priority!r}")
        if type(self.zone) is not str:
            raise MisuseError(f'Endpoint {self.id!r}: expected a zone such as "eu-1", got {self.zone!r}')


def _is_place(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port  # raises for one that is no number
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return parts.scheme in _SCHEMES and bool(parts.hostname) and port != 0


class Member:
    """An endpoint in one balancer: what picks look at. Plain slots; the balancer writes, picks read.

    ``weight`` is the weight that counts now: the declared one, times slow start, times what the agent reports.
    ``in_flight`` is how many requests are under way there from here. ``ready`` is whether it may be given work:
    healthy, not ejected, not draining. ``state`` is room for what the pick in use keeps about it.
    """

    __slots__ = ("endpoint", "id", "in_flight", "priority", "ready", "state", "weight", "zone")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.id = endpoint.id
        self.zone = endpoint.zone
        self.priority = endpoint.priority
        self.weight = float(endpoint.weight)
        self.in_flight = 0
        self.ready = True
        self.state: object = None

    def __repr__(self) -> str:
        ready = "" if self.ready else ", not ready"
        return f"Member({self.id!r}, weight={self.weight:g}, in_flight={self.in_flight}{ready})"
