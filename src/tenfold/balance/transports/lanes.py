"""The lanes of one transport: made when an endpoint is first used, closed when it has left the balancer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.transports.family import Family, Lane


class Lanes:
    """By id of the endpoint, bounded by the set of endpoints. Thread-safe.

    A lane whose endpoint is gone, or has moved, is closed by the next request after its last response has ended.
    """

    __slots__ = ("_balancer", "_by_id", "_lock", "_preserve_host", "_version", "gone")

    def __init__(self, balancer: Balancer, *, preserve_host: bool) -> None:
        self._balancer: Final = balancer
        self._preserve_host: Final = preserve_host
        self._by_id: dict[str, Lane] = {}
        self._lock: Final = threading.Lock()
        self._version = -1
        self.gone: list[Lane] = []
        """To be closed once nobody uses them."""

    def of(self, endpoint: Endpoint, family: Family, pool: Callable[[Endpoint, Family], Any]) -> Lane:
        """The lane to ``endpoint``."""
        lane = self._by_id.get(endpoint.id)
        if lane is not None and lane.endpoint.url == endpoint.url and self._version == self._balancer.version:
            return lane
        with self._lock:
            self._look()
            lane = self._by_id.get(endpoint.id)
            if lane is not None and lane.endpoint.url != endpoint.url:
                self._retire(lane)
                lane = None
            if lane is None:
                lane = Lane(endpoint, pool(endpoint, family), preserve_host=self._preserve_host)
                self._by_id[endpoint.id] = lane
            return lane

    def _look(self) -> None:
        version = self._balancer.version
        if version == self._version:
            return
        self._version = version
        here = {endpoint.id: endpoint.url for endpoint in self._balancer.endpoints}
        for lane in list(self._by_id.values()):
            if here.get(lane.endpoint.id) != lane.endpoint.url:
                self._retire(lane)

    def _retire(self, lane: Lane) -> None:
        del self._by_id[lane.endpoint.id]
        lane.gone = True
        self.gone.append(lane)

    def take_idle(self) -> list[Lane]:
        """The lanes that are gone and that nobody uses; whoever takes them closes them."""
        with self._lock:
            idle = [lane for lane in self.gone if lane.open == 0]
            self.gone = [lane for lane in self.gone if lane.open]
        return idle

    def take_all(self) -> list[Lane]:
        """All of them, to be closed."""
        with self._lock:
            lanes = [*self._by_id.values(), *self.gone]
            self._by_id, self.gone = {}, []
        return lanes

    def __len__(self) -> int:
        return len(self._by_id)


def expect_balancer(balancer: object, who: str) -> Balancer:
    """``balancer`` if it is one. Raises `MisuseError`."""
    if not isinstance(balancer, Balancer):
        raise MisuseError(f"{who}: expected a Balancer, got {balancer!r}")
    return balancer
