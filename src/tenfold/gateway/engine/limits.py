"""Rate limits of routes: who is held to which rate, and what those are told who exceed it.

Theory. A limit is a *promise about a client*, whatever the backends are doing, so it is asked once for each request,
before the edge and before a place at an endpoint is taken, and not again for further tries. The algorithm is GCRA
(`resilience.gcra`; shared by several processes through a store: `resilience.distributed`). What is kept for a client is
one number, and `RateLimit.max_keys` of them are remembered.

*Keys* come from strangers, so they are bounded in length as well: a long one is kept as its hash. An IPv6 address
counts as its /64, which is what one subscriber has (RFC 6177); one who may choose among 2^64 addresses would never meet
a limit for each. Who lacks the header or the cookie that tells users apart is told apart by address, and never
shares a bucket with somebody whose header says just that address.

*The shared limit* asks a store, over one connection and within `store_timeout`; the request waits meanwhile and its
body, if there is one, is held as it is while a connection to an endpoint is opened. If the store does not answer,
`on_store_error` decides, the next requests do not ask for `store_pause`, and both are counted (`state`).

*What a refused client is told*: 429, ``Retry-After``, and the fields of draft-ietf-httpapi-ratelimit-headers. Its
``q`` per ``w`` is what GCRA lets through in w whole seconds: the burst, or what comes in a second if that is more.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.engine import problem
from tenfold.gateway.engine.users import select
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.meters import meter_of
from tenfold.resilience.ratelimit import RateLimit

if TYPE_CHECKING:
    from tenfold.gateway.config import Route
    from tenfold.gateway.engine.problem import Fault
    from tenfold.gateway.engine.sending import Sending
    from tenfold.gateway.framing import RequestHead

_LONGEST: Final = 64
_SUBSCRIBER: Final = 64


class RouteLimit:
    """The rate limit of one route."""

    __slots__ = ("_by", "_name", "_policy", "_waits", "asking", "meter")

    def __init__(self, route: Route, options: RateLimit, old: RouteLimit | None, now: float) -> None:
        self._name = route.name
        self._by = route.limit_by
        if old is not None and old.meter.local is (options.store is None):
            self.meter: Any = old.meter
            if old.meter.options != options:
                old.meter.reconfigure(options, now)
        else:
            self.meter = meter_of(options, name=f"gateway.{route.name}")
        self._waits = not self.meter.local
        self._policy = policy_field(route.name, options)
        self.asking = 0
        """Requests that wait for the store now."""

    def admits(self, exchange: Sending) -> bool:
        """Whether the request goes on now. If not it was answered, or goes on by itself (`Sending.start`) once the
        store has said so.
        """
        if exchange.admitted:
            return True
        exchange.admitted = True
        key = key_of(self._by, exchange.head, exchange.client.believed(exchange.head)) if self._by else None
        if self._waits:
            self.asking += 1
            exchange.site.tasks.spawn(self._ask(exchange, key), name="rate limit")
            return False
        try:
            self.meter.admit(exchange.site.clock(), key)
        except RateLimited as refusal:
            self._refuse(exchange, refusal)
            return False
        return True

    async def _ask(self, exchange: Sending, key: str | None) -> None:
        try:
            await self.meter.admit_async(exchange.site.clock(), key)
        except RateLimited as refusal:
            if not exchange.finished:
                self._refuse(exchange, refusal)
        else:
            if not exchange.finished:
                exchange.start()
        finally:
            self.asking -= 1

    def _refuse(self, exchange: Sending, refusal: RateLimited) -> None:
        exchange.site.counters.rate_limited += 1
        wait = refusal.retry_after or 0.0
        options = self.meter.options
        if str(refusal).startswith("the store"):
            fault = problem.fault("rate_limit_store", str(refusal), retry_after=wait, value=options.on_store_error)
        else:
            fault = limited(options, self._by, wait)
        exchange.refuse(fault, b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (self._policy, self._left(wait)))

    def _left(self, wait: float) -> bytes:
        return b'"%b";r=0;t=%d' % (self._name.encode(), max(1, math.ceil(wait)))

    def state(self) -> dict[str, object]:
        """The meter's numbers, and how many requests wait for its store."""
        return {**self.meter.state(), "by": self._by or "route", "asking": self.asking}

    async def aclose(self) -> None:
        """Close the connection to the store, if there is one."""
        if self._waits:
            await self.meter.aclose()


def limited(options: RateLimit, by: str | None, wait: float) -> Fault:
    """What a request is told that came too early by ``wait`` seconds."""
    whom = "this route" if by is None else f"each {by.replace(':', ' ')} on this route"
    rate = f"{options.cells_a_second:g}/s"
    detail = f"the rate for {whom}, {rate} with a burst of {options.cells}, is used up"
    return problem.fault("rate_limit", detail, retry_after=wait, value=rate)


def policy_field(name: str, options: RateLimit) -> bytes:
    """The value of ``RateLimit-Policy``: a quota ``q`` in ``w`` whole seconds."""
    window = max(1, math.ceil(options.cells / options.cells_a_second))
    quota = max(options.cells, math.floor(options.cells_a_second * window))
    return f'"{name}";q={quota};w={window}'.encode()


def key_of(by: str, head: RequestHead, client: str) -> str:
    """Whose limit it is, in a bounded number of characters."""
    if by == "client":
        return subscriber(client)
    said = select(by, head, client)
    if not said:
        return "@" + subscriber(client)
    if len(said) > _LONGEST or said[0] in "@#":
        return "#" + hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return said


def subscriber(address: str) -> str:
    """An address as one who has it cannot change it: IPv4 as it is, IPv6 as its /64."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(found) >> _SUBSCRIBER << _SUBSCRIBER)) + "/64"
