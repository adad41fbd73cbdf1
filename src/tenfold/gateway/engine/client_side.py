"""One client connection: requests read one after another, each answered before the next is looked at.

Theory. Reading stops in three cases, and TCP tells the client: when more requests have come than the one being answered
(pipelining), when an endpoint takes a body more slowly than it comes, and when the connection is to be closed. Writing
stops in one: when the client takes an answer more slowly than it comes, its endpoint is not read on.

A half-closed connection is no abort: who sends a request and shuts its side down wants the answer.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from tenfold.gateway.engine import problem
from tenfold.gateway.engine.client_ends import ClientEnds
from tenfold.gateway.engine.ending import Ending
from tenfold.gateway.engine.forward import Exchange
from tenfold.gateway.engine.quick import served
from tenfold.gateway.framing import UNIX, Refusal, RequestEvent, RequestHead, RequestReader

if TYPE_CHECKING:
    from tenfold.gateway.engine.problem import Fault
    from tenfold.gateway.engine.route_plan import RoutePlan


class Client(ClientEnds):
    """One client connection."""

    __slots__ = ()

    # -- the socket ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        site = self.site
        self.transport = transport  # type: ignore[assignment] # a socket's transport is one
        if not self.peer:
            name = transport.get_extra_info("peername")
            self.peer = str(name[0]) if isinstance(name, tuple) and len(name) >= 2 else UNIX
        self.trusted = site.plan.trusts(self.peer)
        self.reader = RequestReader(site.plan.limits)
        self._open = True
        site.clients.add(self)
        site.counters.accepted += 1
        self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self.site.gone(self)
        exchange, self.exchange, self.tunnel = self.exchange, None, None
        if exchange is not None:
            exchange.left()

    def data_received(self, data: bytes) -> None:
        self.site.counters.bytes_in += len(data)
        if self.tunnel is not None:
            self.tunnel.from_tunnel(data)
            return
        if self._lingers:
            self._left -= len(data)
            if self._left < 0:
                self.cut()
            return
        head = self.reader.whole(data)
        if head is not None:
            self._busy = True
            self._begin(head)
            self._busy = False
        else:
            events = self.reader.feed(data)
            if events:
                self._take(events)
        if self.exchange is None:
            # As nearly always: there is no other request yet.
            if not (self._reading and not (self.full or self.eof or self._lingers) and self.reader.rest()):
                self._next()
        elif self.reader.held:
            self.pause_reading()

    def eof_received(self) -> bool:
        self.eof = True
        if self.tunnel is not None:
            self.tunnel.tunnel_eof()
            return True
        if self._lingers:
            return False
        refusal = self.reader.eof()
        if refusal is not None:
            self._refused(problem.fault_of(refusal))
            return True
        return self.exchange is not None or self.reader.held > 0

    def pause_writing(self) -> None:
        self.full = True
        self.due = self.site.now + self.site.plan.gateway.write_timeout
        if self.exchange is not None:
            self.exchange.client_full()
        else:
            self.pause_reading()  # its answers were put off (`Outbox`), and it shall ask for no more of them

    def resume_writing(self) -> None:
        self.full = False
        exchange = self.exchange
        if exchange is not None:
            self.due = inf if exchange.ended else self.site.now + self.site.plan.gateway.body_timeout
            exchange.client_free()
        elif self._goes_on:
            self._idle()
            self._next()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _take(self, events: list[RequestEvent]) -> None:
        self._busy = True
        for event in events:
            kind = type(event)
            if kind is RequestHead:
                self._begin(event)  # type: ignore[arg-type]
                continue
            exchange = self.exchange
            if kind is Refusal:
                self._refused(problem.fault_of(event))  # type: ignore[arg-type]
                break
            if exchange is None:
                continue  # it was answered already
            if kind is bytes:
                if self._most is not None and self._chunked and self.reader.size > self._most:
                    exchange.refuse(problem.BODY_MAX)
                    break
                exchange.body(event)  # type: ignore[arg-type]
                if self._reading and not self.full:
                    self.due = self.site.now + self.site.plan.gateway.body_timeout
            elif not exchange.ended:
                if not self.full:
                    self.due = inf
                exchange.body_end()
        unsent = self._unsent
        if unsent is not None:
            self._unsent = None
            if not unsent.finished:
                unsent.start()
        self._busy = False

    def _begin(self, head: RequestHead) -> None:
        site = self.site
        plan = site.plan
        site.counters.requests += 1
        route = plan.only
        if route is None:
            if plan.dotted(head):
                self._answer(problem.DOTS, head)
                return
            route = plan.match(head)
            if route is None:
                self._answer(problem.NO_ROUTE, head)
                return
        if route.quick and site.log is None and not (self.eof or site.draining) and served(self, head, route):
            self._idle()
            return
        most = self._most = route.body_max
        length = head.length
        self._chunked = length < 0
        if most is not None and (length > most or (length < 0 and most == 0)):
            self._answer(problem.BODY_MAX, head, route)
            return
        exchange = self.exchange = site.exchange(self, head, route)
        # A request without a body is complete with its head, and need not be told so in a second event.
        exchange.ended = length == 0
        if not self.full:
            self.due = inf if length == 0 else site.now + plan.gateway.body_timeout
        if length == 0 or route.pool is None:
            exchange.start()
        else:
            self._unsent = exchange

    def _answer(self, fault: Fault, head: RequestHead, route: RoutePlan | None = None) -> None:
        site = self.site
        exchange = self.exchange = site.exchange(self, head, route or site.nowhere)
        exchange.ended = head.length == 0
        exchange.refuse(fault)

    def _refused(self, fault: Fault) -> None:
        """What came is no request: answer if that can still be, and close."""
        site = self.site
        site.counters.refused += 1
        exchange = self.exchange
        if exchange is not None:
            exchange.ended = False
            exchange.refuse(fault)
            return
        site.refused(self, fault)
        options = site.plan.gateway
        self.write(problem.render(problem.measured(fault, lambda _: options), close=True))
        self._linger()

    def switch(self, exchange: Exchange) -> None:
        """From now on bytes go through unread."""
        self.tunnel = exchange
        self.due = inf
        held = self.reader.surplus()
        if held:
            exchange.from_tunnel(held)
        self.resume_reading()
        if self.eof:
            exchange.tunnel_eof()

    def done(self, exchange: Ending, *, cut: bool) -> None:
        """The exchange has ended."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        self.tunnel = None
        if not self._open:
            return
        if cut:
            self.cut()
        elif exchange.close:
            if exchange.ended:
                self.shut()
            else:
                self._linger()
        else:
            self._idle()
            # As nearly always: there is no other request yet.
            if not (
                self._busy or (self._reading and not (self.full or self.eof or self._lingers) and self.reader.rest())
            ):
                self._next()

    def _next(self) -> None:
        """Go on to the next request, if the answers are taken."""
        reader = self.reader
        while self.exchange is None and reader.ended and self._goes_on and not self.full:
            events = reader.next()
            if events:
                self._take(events)
        if not self._goes_on or self.full:
            return
        exchange = self.exchange
        if exchange is None:
            if not reader.idle and not self._heading:
                self._heading = True
                self.due = self.site.now + self.site.plan.gateway.header_timeout
            elif self.eof:
                self.shut()
                return
            self.resume_reading()
        elif not exchange.paused:
            self.resume_reading()

    # -- time ---------------------------------------------------------------------------------------------------------

    def late(self) -> None:
        """The time for what was expected is over."""
        self.due = inf
        exchange = self.exchange
        if self._lingers or self.full:
            self.site.counters.late += self.full
            self.cut()
        elif exchange is not None:
            self.site.counters.late += 1
            exchange.ended = False
            exchange.refuse(problem.BODY_TIMEOUT)
        elif self.reader.idle:
            self.shut()
        else:
            self.site.counters.late += 1
            self._refused(problem.HEADER_TIMEOUT)

    def __repr__(self) -> str:
        return f"<Client {self.peer} exchange={self.exchange!r}>"
