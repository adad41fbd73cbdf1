"""The synchronous transport for clients of httpx2 and httpx: as `httpx_async`, on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.pick.base import Request
from tenfold.balance.ticket import Ticket
from tenfold.balance.transports.exchange import Exchange, open_exchange
from tenfold.balance.transports.family import Family, Lane, Replay, family_of
from tenfold.balance.transports.lanes import Lanes, expect_balancer
from tenfold.balance.transports.rules import Next, RetryRules
from tenfold.resilience.transports import ResilientSyncTransport

if TYPE_CHECKING:
    from httpx2 import BaseTransport, Response
else:
    BaseTransport = object


class BalancedSyncTransport(BaseTransport):
    """`BalancedTransport` for a synchronous client; one may be used by many threads::

        client = httpx2.Client(transport=BalancedSyncTransport(balancer), base_url="http://shop")

    A balancer with checks or discovery lives in an event loop of its own thread meanwhile; one without needs none.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        rules: RetryRules | None = None,
        inner: Callable[[Endpoint], BaseTransport] | None = None,
        preserve_host: bool = False,
        key: Callable[[Any], Request] | None = None,
    ) -> None:
        self.balancer: Final = expect_balancer(balancer, "BalancedSyncTransport")
        self.rules: Final = RetryRules() if rules is None else rules
        self.replay_overflows = 0
        self._inner = inner
        self._key = key
        self._lanes = Lanes(balancer, preserve_host=preserve_host)

    def handle_request(self, request: Any) -> Response:
        family = family_of(request)
        exchange = open_exchange(self.balancer, self.rules, family, request, self._key)
        try:
            return self._exchange(exchange, family, request)
        except BaseException:
            exchange.give_up()
            raise

    def _exchange(self, exchange: Exchange, family: Family, request: Any) -> Response:
        stream = request.stream
        body: Replay | None = None
        if exchange.idempotent and not isinstance(stream, family.module.ByteStream):
            body = Replay(stream, int(self.rules.replay), self._overflow)
        once: ResilientSyncTransport | None = None  # a transport for one request, whose connection is certainly fresh
        while True:
            lane = self._lanes.of(exchange.ticket.endpoint, family, self._pool)
            if self._lanes.gone:
                self._close_gone()
            sent = lane.addressed(request, stream if body is None else _types(family)[1](body))
            reused = lane.served  # as it is now: what ends meanwhile leaves its connection to others
            lane.enter()
            try:
                response = (lane.inner if once is None else once).handle_request(sent)
            except BaseException as error:
                self._left(lane, once)
                once = None
                replayable = body is None or body.replayable
                step = exchange.failed(error, family.failure(error), replayable=replayable, reused=reused)
                if step is Next.RAISE:
                    raise
                if step is Next.FRESH:
                    once = self._pool(exchange.ticket.endpoint, family)
                continue
            ticket, status = exchange.ticket, response.status_code
            if exchange.answered(status, response.headers, replayable=body is None or body.replayable):
                response.stream = _types(family)[0](response.stream, ticket, exchange.verdict(status), self, lane, once)
                return response
            try:
                response.close()
            finally:
                self._left(lane, once)
            once = None

    def _pool(self, endpoint: Endpoint, family: Family) -> ResilientSyncTransport:
        made = family.pool(endpoint, "HTTPTransport") if self._inner is None else self._inner(endpoint)
        return ResilientSyncTransport(made, clock=self.balancer.clock)

    def _overflow(self) -> None:
        self.replay_overflows += 1

    def _left(self, lane: Lane, once: ResilientSyncTransport | None) -> None:
        lane.leave()
        if once is not None:
            once.close()

    def _close_gone(self) -> None:
        for lane in self._lanes.take_idle():
            lane.inner.close()

    def close(self) -> None:
        """Close all connections; responses under way break off. The balancer stays open."""
        for lane in self._lanes.take_all():
            lane.inner.close()

    def __enter__(self) -> BalancedSyncTransport:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"BalancedSyncTransport({self.balancer!r})"


@cache
def _types(family: Family) -> tuple[Any, Any]:
    """The streams of a response and of a request, as classes that the library takes for its own."""
    base = family.module.SyncByteStream

    class Held(base):  # type: ignore[misc, valid-type]
        """The body of a response; its end gives the ticket back."""

        def __init__(
            self,
            stream: Any,
            ticket: Ticket,
            ok: bool,
            transport: BalancedSyncTransport,
            lane: Lane,
            once: ResilientSyncTransport | None,
        ) -> None:
            self._stream = stream
            self._ticket = ticket
            self._ok: bool | None = ok
            self._owner = transport
            self._lane = lane
            self._once = once
            self._closed = False

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._stream
            except Exception:
                self._ok = False
                raise

        def close(self) -> None:
            if self._closed:
                return
            self._closed = True
            try:
                self._stream.close()
            finally:
                self._ticket.release(self._ok)
                self._lane.served = True
                self._owner._left(self._lane, self._once)

    class Body(base):  # type: ignore[misc, valid-type]
        """The body of a request that may have to be sent again."""

        def __init__(self, replay: Replay) -> None:
            self._replay = replay

        def __iter__(self) -> Iterator[bytes]:
            return self._replay.parts()

    return Held, Body
