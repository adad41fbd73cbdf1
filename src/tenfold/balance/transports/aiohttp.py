"""A middleware for clients of aiohttp (3.12 and later) that sends each request to the best of several servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.errors import NoEndpoint, mark
from tenfold.balance.pick.base import ANY, Request
from tenfold.balance.ticket import Ticket
from tenfold.balance.transports.address import base_of
from tenfold.balance.transports.exchange import Exchange
from tenfold.balance.transports.lanes import expect_balancer
from tenfold.balance.transports.rules import Failure, Next, RetryRules
from tenfold.resilience.errors import DeadlineExceeded
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.wire import (
    PRIORITY,
    PRIORITY_HEADER,
    RETRIED_BY_CALLER,
    RETRY,
    TIMEOUT,
    Priority,
    format_timeout,
)

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
_UNSENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_NO_ANSWER: Final = (aiohttp.SocketTimeoutError,)
_BROKEN: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError, ConnectionError)


class NoEndpointHere(NoEndpoint, aiohttp.ClientConnectionError):
    """`NoEndpoint` that aiohttp's own ``except ClientConnectionError`` catches as well."""


class BalancedMiddleware:
    """For a session's ``middlewares=``, the last of them::

        session = aiohttp.ClientSession("http://shop", middlewares=[BalancedMiddleware(balancer)])

    As `BalancedTransport`: the host of a URL is only a name, ``rules`` say what is sent again, ``key(request)`` makes
    what the pick may know, an endpoint is busy until its response is released, deadline and priority are passed on and
    the deadline ends the wait for an answer with `DeadlineExceeded`. Connections belong to the session's connector;
    give it a ``keepalive_timeout`` below the servers'.

    Two differences. aiohttp does not say whether a connection had been used before, so the race of persistent
    connections goes to another endpoint. And aiohttp by itself repeats once what is idempotent and ended in a broken
    connection: such a request may be tried twice as often as ``attempts`` says before its error is raised.
    """

    __slots__ = ("_key", "_preserve_host", "balancer", "rules")

    def __init__(
        self,
        balancer: Balancer,
        *,
        rules: RetryRules | None = None,
        preserve_host: bool = False,
        key: Callable[[aiohttp.ClientRequest], Request] | None = None,
    ) -> None:
        self.balancer: Final = expect_balancer(balancer, "BalancedMiddleware")
        self.rules: Final = RetryRules() if rules is None else rules
        self._preserve_host = preserve_host
        self._key = key

    async def __call__(self, request: aiohttp.ClientRequest, handler: Handler) -> aiohttp.ClientResponse:
        about = ANY if self._key is None else self._key(request)
        try:
            exchange = Exchange(self.balancer, self.rules, about, self.rules.idempotent(request.method))
        except NoEndpoint as error:
            raise NoEndpointHere(
                str(error), balancer=error.balancer, why=error.why, retry_after=error.retry_after
            ) from None
        try:
            left = exchange.until - self.balancer.now()
            if left == math.inf:
                return await self._exchange(exchange, request, handler)
            return await self._within(left, exchange, request, handler)
        except BaseException:
            exchange.give_up()
            raise

    async def _within(
        self, left: float, exchange: Exchange, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        within = asyncio.timeout(left)
        try:
            async with within:
                return await self._exchange(exchange, request, handler)
        except TimeoutError as error:
            if not within.expired():
                raise
            late = DeadlineExceeded(f"{request.method} {request.original_url}: the deadline passed")
            mark(late, self.balancer.name, exchange.tried)
            raise late from error

    async def _exchange(
        self, exchange: Exchange, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        while True:
            self._address(request, exchange.ticket.endpoint)
            self._inherit(request)
            try:
                response = await handler(request)
            except BaseException as error:
                step = exchange.failed(error, failure_of(error), replayable=_replayable(request), reused=False)
                if step is Next.RAISE:
                    raise
                continue
            ticket, status = exchange.ticket, response.status
            if exchange.answered(status, response.headers, replayable=_replayable(request)):
                _hold(response, ticket, exchange.verdict(status))
                return response
            response.close()

    def _address(self, request: aiohttp.ClientRequest, endpoint: Endpoint) -> None:
        base = base_of(endpoint)
        url = request.original_url.with_fragment(None)
        request.url = url.with_scheme(base["scheme"]).with_host(base["host"]).with_port(base["port"])
        if not self._preserve_host:
            request.headers["Host"] = base["authority"]

    def _inherit(self, request: aiohttp.ClientRequest) -> None:
        until, retried = SCOPE.get()
        told = format_timeout(until - self.balancer.now())
        if told is not None:
            request.headers[TIMEOUT] = told
        if retried:
            request.headers[RETRY] = RETRIED_BY_CALLER
        priority = PRIORITY.get()
        if priority is not Priority.NORMAL and PRIORITY_HEADER not in request.headers:
            request.headers[PRIORITY_HEADER] = priority.label

    def __repr__(self) -> str:
        return f"BalancedMiddleware({self.balancer!r})"


def failure_of(error: BaseException) -> Failure:
    """How far a request got."""
    if isinstance(error, _UNSENT):
        return Failure.UNSENT
    if isinstance(error, _NO_ANSWER):
        return Failure.NO_ANSWER
    return Failure.BROKEN if isinstance(error, _BROKEN) else Failure.OURS


def _replayable(request: aiohttp.ClientRequest) -> bool:
    body: Any = request.body
    return body == b"" or not getattr(body, "consumed", True)


def _hold(response: aiohttp.ClientResponse, ticket: Ticket, ok: bool) -> None:
    """The ticket comes back when the connection does."""
    connection = response.connection
    if connection is None:  # its body came with the head, and is whole
        ticket.release(ok)
        return

    def released() -> None:
        error = response.content.exception()
        if error is None:
            ticket.release(ok)
        else:
            ticket.release(False if isinstance(error, _BROKEN) else None)

    connection.add_callback(released)
