"""One request on its way: `Sending` takes it to an endpoint, this streams the answer back, `Ending` ends it.

Theory. An exchange is a small machine without a task of its own: the client's connection and the endpoint's call it,
and it calls them. The answer's head says how the body is passed on: with its own framing where the client can read it,
in chunks where it would last until the connection ends, as it is until then for HTTP/1.0. Interim answers (1xx) pass
and end nothing; after a 101 bytes go through unread both ways. Once a part of an answer is with the client nothing can
be mended: an answer that breaks off is a connection that breaks off, which is how HTTP/1.1 says so.
"""

from __future__ import annotations

from math import inf

from tenfold.balance.transports.rules import Failure
from tenfold.gateway.engine import concurrency, problem, sticky
from tenfold.gateway.engine.again import retry_status
from tenfold.gateway.engine.sending import Sending
from tenfold.gateway.engine.upstream import UpstreamConnection
from tenfold.gateway.framing import (
    UNTIL_CLOSE,
    End,
    Refusal,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    chunk,
    last_chunk,
)


class Exchange(Sending):
    """One request and its answer."""

    __slots__ = ()

    def at_once(self, connection: UpstreamConnection, data: bytes) -> bool:
        """The same for an answer as most are, whose head is passed on as it came, and in the same write what has come
        of its body. False, and nothing done, for all others: `answered`.
        """
        head, route, client, site = self.head, self.route, self.client, self.site
        if (
            self.started
            or self.extra
            or self.renewal
            or not (self.ended and head.keep_alive)
            or head.http10
            or route.response_changes is not None
            or connection is not self.connection
            or client.closing
        ):
            return False
        found = connection.reader.usual(data)
        if found is None:
            return False
        status, data, left = found
        if status in route.retry_statuses:
            return False
        ticket = self.ticket
        assert ticket is not None
        ticket.answered(site.clock())
        connection.reader.passed(left)
        if self.place is not None:
            concurrency.answered(self, status)
        if self.until != inf:
            self.dated_no_more()
        self.kept = None
        self.started = True
        self.status = status
        self.bytes_out += len(data)
        client.write(data)
        if not left:
            self.finish()
        elif client.full:
            self.client_full()
        else:
            connection.due = site.now + self.pool.options.body_timeout
        return True

    def answered(self, connection: UpstreamConnection, events: list[ResponseEvent]) -> None:
        """Bytes of the endpoint's have come."""
        out: list[bytes] = []
        for event in events:
            if connection is not self.connection:
                return
            kind = type(event)
            if kind is bytes:
                self.piece(event, out)  # type: ignore[arg-type]
            elif kind is ResponseHead:
                if event.interim:  # type: ignore[union-attr]
                    if not self.head.http10:
                        out.append(self._head(event, False, None))  # type: ignore[arg-type]
                else:
                    self.final(event, out)  # type: ignore[arg-type]
            elif kind is Refusal:
                if out:
                    self._write(out)
                self._broken(connection, event)  # type: ignore[arg-type]
                return
            else:
                self._end(event, out)  # type: ignore[arg-type]
                return
        if out:
            self._write(out)
        if connection is self.connection and self.started:
            if self.client.full:
                self.client_full()
            else:
                wait = self.site.plan.gateway.tunnel_timeout if self.tunnel else self.pool.options.body_timeout
                connection.due = self.site.now + wait

    def final(self, head: ResponseHead, out: list[bytes]) -> None:
        """The head of the final answer."""
        request = self.head
        ticket = self.ticket
        assert ticket is not None
        ticket.answered()
        if head.status in self.route.retry_statuses and retry_status(self, head):
            return
        if self.place is not None:
            concurrency.answered(self, head.status)
        if self.renewal:
            sticky.renew(self)
        if self.until != inf:
            self.dated_no_more()
        changes = self.route.response_changes
        if changes is not None:
            changes.apply(head)
        self.kept = None
        self.pass_on(request, head, out)

    def pass_on(self, request: RequestHead, head: ResponseHead, out: list[bytes]) -> None:
        """Let the client have the head."""
        self.started = True
        self.status = head.status
        self.close = not (request.keep_alive and self.ended) or self.client.closing
        chunked: bool | None = None
        length = head.length
        if length < 0:
            if request.http10:
                chunked = False
                self.close = True
            elif length == UNTIL_CLOSE or self.decoded:
                chunked = self.rechunk = True
        if head.status == 101:
            self.tunnel = True
            self.close = False
        out.append(self._head(head, self.close and not self.tunnel, chunked))
        if self.tunnel:
            self._write(out)
            out.clear()
            self.site.counters.tunnels += 1
            self.client.switch(self)

    def _head(self, head: ResponseHead, close: bool, chunked: bool | None) -> bytes:
        link = self.client.link(True)
        return link.response(
            head, close=close, http10=self.head.http10, chunked=chunked, extra=() if head.interim else self.extra
        )

    def piece(self, data: bytes, out: list[bytes]) -> None:
        """A piece of the answer's body."""
        out.append(chunk(data) if self.rechunk else data)

    def _end(self, end: End, out: list[bytes]) -> None:
        if self.tunnel:
            self.close = True
        elif self.rechunk:
            out.append(last_chunk(end.trailers))
        if out:
            self._write(out)
        self.finish()

    def client_full(self) -> None:
        """The client takes no more for now."""
        connection = self.connection
        if connection is not None and connection.open:
            connection.due = inf
            connection.transport.pause_reading()

    def client_free(self) -> None:
        """It goes on."""
        connection = self.connection
        if connection is not None and connection.open:
            connection.due = self.site.now + self.pool.options.body_timeout
            connection.transport.resume_reading()

    def from_tunnel(self, data: bytes) -> None:
        """Bytes of the client's, after the switch to another protocol."""
        connection = self.connection
        if connection is not None and connection.open:
            connection.due = self.site.now + self.site.plan.gateway.tunnel_timeout
            connection.transport.write(data)

    def tunnel_eof(self) -> None:
        """The client sends no more."""
        connection = self.connection
        if connection is not None and connection.open and connection.transport.can_write_eof():
            connection.transport.write_eof()

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def lost(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        if connection is self.connection and not self.finished:
            self._broken(connection, None)

    def late(self, connection: UpstreamConnection) -> None:
        """The endpoint's time is over."""
        connection.due = inf
        if connection is not self.connection or self.finished:
            return
        self.site.counters.late += 1
        used = bool(connection.used)
        self._detach()
        if self.started:
            self._cut()
        else:
            self._failed(Failure.NO_ANSWER, problem.STALLED if not self.ended else problem.FIRST_BYTE, used=used)

    def _broken(self, connection: UpstreamConnection, refusal: Refusal | None) -> None:
        used = bool(connection.used)
        began = connection.reader.began
        self._detach()
        if self.started:
            self._cut()
            return
        fault = problem.BROKEN
        if refusal is not None and refusal.token != "premature_end":
            fault = problem.unreadable(refusal)
        self._failed(Failure.NO_ANSWER if began else Failure.BROKEN, fault, used=used)
