"""The front: a gateway in this process, whose endpoints are the fleet's workers as they come and go.

Theory. Nothing is lost when a worker leaves if three things come in this order: it gets no more requests (its endpoint
is held), those under way end (the balancer counts them), and only then is it told to end. A worker that dies leaves in
no order. Then what was not sent, and what is idempotent and has no answer yet, goes to another worker, as the gateway's
rules for further tries have it. Who joins gets its `warm` paths first, then a share that grows (slow start).

Requests that wait for a place are woken when one becomes free; a new worker brings many places at once, so as many are
woken as it can take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold.autoscale.supervisor import Member
from tenfold.balance import Endpoint
from tenfold.balance.probe_http import NoAnswer, get
from tenfold.gateway.config import Address
from tenfold.gateway.engine import Gateway
from tenfold.gateway.engine.pool_plan import PoolPlan
from tenfold.gateway.processes import Sockets
from tenfold.serve.happenings import DrainCutShort, WarmingFailed
from tenfold.serve.latency import FineTimes
from tenfold.serve.options import ServeOptions
from tenfold.serve.setting import POOL, gateway_config

_WARM: Final = 10.0
"""Seconds for each path that a new worker is warmed by."""


class Front:
    """A gateway before the workers of a fleet, to which it is the listener.

    Workers that are ready before the gateway is open are its first endpoints: `open` after the fleet's start.
    Belongs to one event loop.
    """

    def __init__(self, options: ServeOptions, sockets: Sockets, token: str, *, hub: Hub = EVENTS) -> None:
        self._options = options
        self._sockets = sockets
        self._token = token
        self._hub = hub
        self._endpoints: dict[str, Endpoint] = {}
        self.gateway: Gateway | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Front:
        if not self._endpoints:
            raise MisuseError("front: expected a worker that is ready, got none; start the fleet first")
        assert self._sockets.admin is not None
        config = gateway_config(
            self._options,
            self._endpoints.values(),
            listen=self._sockets.addresses[0],
            admin=self._sockets.admin[0],
            token=self._token,
        )
        gateway = Gateway(config, sockets=self._sockets.bound, admin=self._sockets.admin)
        await gateway.__aenter__()
        self.gateway = gateway
        self._pool.balancer.replace(self._endpoints.values())  # who came and went meanwhile
        if self._options.by_latency:
            self._pool.times = FineTimes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            await gateway.__aexit__(kind, error, trace)

    @property
    def _pool(self) -> PoolPlan:
        assert self.gateway is not None
        return self.gateway.site.plan.pools[POOL]

    @property
    def address(self) -> Address:
        """Where clients come in."""
        return self._sockets.addresses[0]

    @property
    def admin(self) -> Address:
        """Where metrics and the admin API are."""
        assert self._sockets.admin is not None
        return self._sockets.admin[0]

    # -- the fleet's listener -----------------------------------------------------------------------------------------

    async def ready(self, member: Member) -> None:
        """Warm the worker, and give it requests."""
        for path in self._options.warm:
            await self._warm(member, path)
        endpoint = Endpoint(member.id, member.url)
        self._endpoints[member.id] = endpoint
        if self.gateway is not None:
            pool = self._pool
            pool.balancer.add(endpoint)
            for _ in range(min(pool.queued, self._options.max_inflight)):
                pool.wake()

    async def leaving(self, member: Member) -> None:
        """Give the worker no more requests, and return when those under way there have ended, or their time has."""
        self._endpoints.pop(member.id, None)
        if self.gateway is None or not self._knows(member.id):
            return
        whole = False
        try:
            whole = await self._pool.balancer.drain(member.id, self._options.drain_timeout)
        finally:  # the fleet may call time first
            self.look([member])
            if not whole and member.in_flight:
                self._hub.emit(DrainCutShort(member.id, member.in_flight))

    async def gone(self, member: Member, why: str, last_words: str) -> None:
        """Forget the worker."""
        self._endpoints.pop(member.id, None)
        if self.gateway is not None and self._knows(member.id):
            self._pool.balancer.remove(member.id)

    def _knows(self, id: str) -> bool:
        return any(each.id == id for each in self._pool.balancer.endpoints)

    async def _warm(self, member: Member, path: str) -> None:
        try:
            async with asyncio.timeout(_WARM):
                answer = await get(member.url, path, host="localhost")
            why = "" if answer.status < 400 else f"it answered {answer.status}"
        except TimeoutError:
            why = f"no answer within {_WARM:g} s"
        except (OSError, NoAnswer) as error:
            why = str(error)
        if why:
            self._hub.emit(WarmingFailed(member.id, path, why))

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self, members: Sequence[Member]) -> tuple[dict[str, int], int]:
        """Requests under way at each worker, and those that wait for one; ``members`` are told theirs."""
        if self.gateway is None:
            return {}, 0
        pool = self._pool
        seen = pool.balancer.loads
        for member in members:
            member.in_flight = seen.get(member.id, 0)
            tally = pool.tallies.get(member.id)
            if tally is not None:
                member.requests = tally.requests
        return seen, pool.queued

    @property
    def fine(self) -> list[int]:
        """Response times in the buckets of `latency.BOUNDS`; empty where nobody asked for them."""
        times = self._pool.times if self.gateway is not None else None
        return times.fine if isinstance(times, FineTimes) else []

    def __repr__(self) -> str:
        return f"<Front {self.address} of {self._options.app}>"
