"""An asynchronous transport for clients of httpx2 and httpx that sends each request to the best of several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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
from tenfold.resilience.transports import ResilientTransport

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport, Response
else:
    AsyncBaseTransport = object


class BalancedTransport(AsyncBaseTransport):
    """For a client's ``transport=``::

        client = httpx2.AsyncClient(transport=BalancedTransport(balancer), base_url="http://shop")

    The host of a request's URL is only a name: scheme, host and port become those of the endpoint picked, and so does
    the ``Host`` header, unless ``preserve_host`` leaves it as the caller's (then the certificate of an https endpoint
    is checked against that name, too). ``rules`` say what is sent again. ``inner(endpoint)`` makes the transport of one
    endpoint (default: one of the library's own, with up to 100 connections that are kept for 4 s). ``key(request)``
    makes what the pick may know of a request; a `Request` in the extension ``"tenfold_request"`` comes first.

    An endpoint counts as busy until its response is closed. Deadline and priority in force are passed on, as
    `ResilientTransport` does. ``replay_overflows`` counts streamed bodies too long to be sent again.

    Raises what the library raises (`tenfold.balance.tried_of` tells where), and a `NoEndpoint` that is a
    ``ConnectError`` too.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        rules: RetryRules | None = None,
        inner: Callable[[Endpoint], AsyncBaseTransport] | None = None,
        preserve_host: bool = False,
        key: Callable[[Any], Request] | None = None,
    ) -> None:
        self.balancer: Final = expect_balancer(balancer, "BalancedTransport")
        self.rules: Final = RetryRules() if rules is None else rules
        self.replay_overflows = 0
        self._inner = inner
        self._key = key
        self._lanes = Lanes(balancer, preserve_host=preserve_host)

    async def handle_async_request(self, request: Any) -> Response:
        family = family_of(request)
        exchange = open_exchange(self.balancer, self.rules, family, request, self._key)
        try:
            return await self._exchange(exchange, family, request)
        except BaseException:
            exchange.give_up()
            raise

    async def _exchange(self, exchange: Exchange, family: Family, request: Any) -> Response:
        stream = request.stream
        body: Replay | None = None
        if exchange.idempotent and not isinstance(stream, family.module.ByteStream):
            body = Replay(stream, int(self.rules.replay), self._overflow)
        once: ResilientTransport | None = None  # a transport for one request, whose connection is certainly fresh
        while True:
            lane = self._lanes.of(exchange.ticket.endpoint, family, self._pool)
            if self._lanes.gone:
                await self._close_gone()
            sent = lane.addressed(request, stream if body is None else _types(family)[1](body))
            reused = lane.served  # as it is now: what ends meanwhile leaves its connection to others
            lane.enter()
            try:
                response = await (lane.inner if once is None else once).handle_async_request(sent)
            except BaseException as error:
                await self._left(lane, once)
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
                await response.aclose()
            finally:
                await self._left(lane, once)
            once = None

    def _pool(self, endpoint: Endpoint, family: Family) -> ResilientTransport:
        made = family.pool(endpoint, "AsyncHTTPTransport") if self._inner is None else self._inner(endpoint)
        return ResilientTransport(made, clock=self.balancer.clock)

    def _overflow(self) -> None:
        self.replay_overflows += 1

    async def _left(self, lane: Lane, once: ResilientTransport | None) -> None:
        lane.leave()
        if once is not None:
            await once.aclose()

    async def _close_gone(self) -> None:
        for lane in self._lanes.take_idle():
            await lane.inner.aclose()

    async def aclose(self) -> None:
        """Close all connections; responses under way break off. The balancer stays open."""
        for lane in self._lanes.take_all():
            await lane.inner.aclose()

    async def __aenter__(self) -> BalancedTransport:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"BalancedTransport({self.balancer!r})"


@cache
def _types(family: Family) -> tuple[Any, Any]:
    """The streams of a response and of a request, as classes that the library takes for its own."""
    base = family.module.AsyncByteStream

    class Held(base):  # type: ignore[misc, valid-type]
        """The body of a response; its end gives the ticket back."""

        def __init__(
            self,
            stream: Any,
            ticket: Ticket,
            ok: bool,
            transport: BalancedTransport,
            lane: Lane,
            once: ResilientTransport | None,
        ) -> None:
            self._stream = stream
            self._ticket = ticket
            self._ok: bool | None = ok
            self._owner = transport
            self._lane = lane
            self._once = once
            self._closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for part in self._stream:
                    yield part
            except asyncio.CancelledError:
                self._ok = None
                raise
            except Exception:
                self._ok = False
                raise

        async def aclose(self) -> None:
            if self._closed:
                return
            self._closed = True
            try:
                await self._stream.aclose()
            finally:
                self._ticket.release(self._ok)
                self._lane.served = True
                await self._owner._left(self._lane, self._once)

    class Body(base):  # type: ignore[misc, valid-type]
        """The body of a request that may have to be sent again."""

        def __init__(self, replay: Replay) -> None:
            self._replay = replay

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._replay.aparts()

    return Held, Body
