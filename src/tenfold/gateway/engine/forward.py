"""One request on its way: a route, an endpoint, another one if need be, and the answer streamed back.

Theory. An exchange is a small machine without a task of its own: the client's connection and the endpoint's call it,
and it calls them. It holds two things that must be given back exactly once, a place at an endpoint (`balance.Ticket`)
and a connection, and every way out goes through `_let_go`, the client's leaving at any stage included.

What may be sent again is decided by `balance.transports.rules.after`: anything of which nothing was sent; what is
idempotent and has had no byte of an answer; and once more on a fresh connection what was written into a kept one that
closed under it. A POST is never sent twice. What is to be sent again must still be there, so a body is kept up to
`REPLAY` bytes, and until the answer begins.
"""

from __future__ import annotations

from asyncio import TimerHandle
from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.balance import NoEndpoint, Ticket
from tenfold.balance.transports.rules import IDEMPOTENT, Failure, Next, after
from tenfold.gateway.config import choose
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.plan import PoolPlan, RoutePlan, cookie, select
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.engine.upstream import Upstream, UpstreamConnection
from tenfold.gateway.framing import (
    UNTIL_CLOSE,
    End,
    Identity,
    Refusal,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    chunk,
    last_chunk,
)
from tenfold.resilience.backoff import pause
from tenfold.resilience.deadline import TIMEOUT_HEADER

if TYPE_CHECKING:
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.site import Site

REPLAY: Final = 64 * 1024
"""Bytes of a body that are kept to be sent again, and that may wait for a connection."""
_IDEMPOTENT: Final = frozenset(name.encode() for name in IDEMPOTENT) | {b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY"}
_TIMEOUT: Final = TIMEOUT_HEADER.lower().encode()
_TIMEOUT_LINE: Final = TIMEOUT_HEADER.encode() + b": %d"
_T: Final = b"tT"


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "attempt", "bytes_out", "canary", "client", "clocked", "close", "connection", "due", "ended", "extra",
        "failed_by", "fault", "finished", "head", "identity", "kept", "kept_size", "pause", "paused", "pool",
        "rechunk", "refreshed", "route", "site", "started", "status", "ticket", "timer", "tried", "tunnel",
        "until",
    )  # fmt: skip

    def __init__(self, site: Site, client: Client, head: RequestHead, route: RoutePlan, pool: PoolPlan) -> None:
        self.site = site
        self.client = client
        self.head = head
        self.route = route
        self.pool = pool
        self.clocked = 0.0 if site.log is None else site.clock()
        """When it began, for the log."""
        self.fault = ""
        """Why it went wrong, for the log."""
        self.identity: Identity | None = None
        self.connection: UpstreamConnection | None = None
        self.ticket: Ticket | None = None
        self.tried: list[str] = []
        self.kept: list[bytes] | None = []
        """The body so far; None once it is too long to be sent again."""
        self.kept_size = 0
        self.ended = False
        """The request is complete."""
        self.started = False
        """A part of the final answer is with the client."""
        self.finished = False
        self.refreshed = False
        self.rechunk = False
        self.tunnel = False
        self.close = False
        self.canary = False
        self.status = 0
        self.bytes_out = 0
        self.attempt = 0
        self.pause = 0.0
        self.paused = False
        """The client is not read, for want of room further on."""
        self.extra: list[bytes] = []
        self.failed_by: Fault | None = None
        self.timer: TimerHandle | None = None
        self.due = inf
        """While it waits for a place: until when."""
        self.until = inf
        """The deadline for the answer's head."""

    # -- the way there ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything that is done once, and then the first try."""
        route, head = self.route, self.head
        if route.deadline is not None:
            self.until = self.site.now + self._allowed(route.deadline)
            self.site.dated.add(self)
        if route.strip:
            self._strip(route.strip)
        changes = route.request_changes
        if changes is not None:
            changes.apply(head)
            if changes.host is not None:
                head.host = changes.host
        if route.canary is not None:
            self.choose_pool()
        purse = route.purse
        if purse is not None and purse.hungry:
            purse.deposit()
        self.begin()

    def choose_pool(self) -> None:
        """The canary's pool instead, for some."""
        canary, head = self.route.canary, self.head
        assert canary is not None
        user = mark = asked = None
        if canary.by is not None:
            user = select(canary.by, head, self.client.believed(head))
        if canary.cookie is not None:
            mark = cookie(head, canary.cookie)
        if canary.header is not None and (value := head.get(canary.header.lower().encode())) is not None:
            asked = value.decode("latin-1")
        choice = choose(canary, self.pool.options.name, self.site.random.random(), header=asked, user=user, cookie=mark)
        if choice.mark:
            self.extra.append(f"Set-Cookie: {canary.cookie}={choice.mark}; Path=/; SameSite=Lax; HttpOnly".encode())
        if choice.canary and self.route.canary_pool is not None:
            self.canary = True
            self.site.counters.canaries += 1
            self.pool = self.route.canary_pool

    def _allowed(self, most: float) -> float:
        """Seconds for the answer's head: the route's, or what is left of the caller's, if that is less."""
        head = self.head
        size = len(_TIMEOUT)
        if not any(line[0] in _T and line[:size].lower() == _TIMEOUT for line in head.plain):
            return most
        said = head.get(_TIMEOUT)
        head.plain = [line for line in head.plain if line.partition(b":")[0].lower() != _TIMEOUT]
        if said is not None and said.isdigit() and len(said) < 10:
            return min(most, int(said) / 1000)
        return most

    def _strip(self, size: int) -> None:
        head = self.head
        prefix, rest = head.target[:size], head.target[size:]
        head.target = rest if rest[:1] == b"/" else b"/" + rest
        head.plain = [line for line in head.plain if line.partition(b":")[0].lower() != b"x-forwarded-prefix"]
        head.plain.append(b"X-Forwarded-Prefix: " + prefix)

    def begin(self) -> None:
        """After all is known: forward, unless something nearer can answer."""
        self.forward()

    def forward(self) -> None:
        """Take a place at an endpoint, and send."""
        self.attempt += 1
        pool = self.pool
        try:
            ticket = pool.balancer.acquire(pool.request(self.head, self.client.peer), self.tried)
        except NoEndpoint as none:
            if self.failed_by is not None:
                self.give_up(self.failed_by)
            elif none.why.get("full") and pool.options.queue:
                self._queue()
            else:
                why = ", ".join(f"{count} {reason}" for reason, count in none.why.items()) or "none is left"
                self.give_up(Fault(503, "no_endpoint", f"no endpoint can take the request ({why})",
                                   "pool.max_in_flight" if none.why.get("full") else "", none.retry_after))  # fmt: skip
            return
        self.ticket = ticket
        self.tried.append(ticket.endpoint.id)
        self._send(pool.upstream(ticket.endpoint), fresh=False)

    def _queue(self) -> None:
        pool = self.pool
        if pool.queued >= pool.options.queue:
            self.give_up(problem.QUEUE_FULL)
            return
        if self.due == inf:
            self.due = self.site.now + pool.options.queue_timeout
            self.site.counters.queued += 1
        pool.waiting[self.route.priority].append(self)

    def retry_queued(self) -> None:
        """A place has become free, perhaps."""
        if not self.finished:
            self.attempt -= 1
            self.forward()

    def waited_too_long(self) -> None:
        """For a place."""
        self.give_up(problem.QUEUE_TIMEOUT)

    def _send(self, upstream: Upstream, *, fresh: bool) -> None:
        connection = None if fresh else upstream.take()
        if connection is None:
            upstream.connect(self)
        else:
            self.connected(connection)

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: write all that is there."""
        ticket = self.ticket
        if self.finished or ticket is None or self.connection is not None or not connection.open:
            if connection.open and not connection.used:
                connection.upstream.put(connection)  # the client left meanwhile; somebody else may want it
            elif not self.finished and ticket is not None and self.connection is None:
                self.unconnected(problem.CONNECT)
            return
        self.connection = connection
        connection.taker = self
        head = self.head
        link = self.client.link(self.pool.options.preserve_host)
        identity = self.identity
        if identity is None:
            identity = self.identity = link.identify(head, self.site.random.getrandbits)
        if self.until != inf:
            left = int((self.until - self.site.clock()) * 1000)
            if left <= 0:
                self.give_up(problem.DEADLINE)
                return
            plain = head.plain
            head.plain = [*plain, _TIMEOUT_LINE % left]
            data = self.upstream_head(link, identity, connection)
            head.plain = plain
        else:
            data = self.upstream_head(link, identity, connection)
        kept = self.kept
        if kept:
            data = b"".join((data, *kept))
        if kept is not None and not (head.length == 0 or head.method in _IDEMPOTENT):
            self.kept = None
        connection.reader.expect(head.method, upgrade=link.upgrade(head), decoded=self.decoded)
        options = self.pool.options
        connection.due = self.site.now + options.first_byte_timeout if self.ended else inf
        connection.transport.write(data)
        if self.paused:
            self._read_on()

    @property
    def decoded(self) -> bool:
        """Whether a chunked answer is wanted as its data alone."""
        return self.head.http10

    def upstream_head(self, link: object, identity: Identity, connection: UpstreamConnection) -> bytes:
        """The bytes of the request's head."""
        return link.request(self.head, identity, connection.upstream.authority)  # type: ignore[attr-defined,no-any-return]

    def unconnected(self, fault: Fault) -> None:
        """There is none."""
        if not self.finished and self.ticket is not None:
            self._failed(Failure.UNSENT, fault, used=False)

    # -- the client's body --------------------------------------------------------------------------------------------

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        kept, connection = self.kept, self.connection
        if kept is not None:
            self.kept_size += len(data)
            if connection is not None and self.kept_size > REPLAY:
                self.kept = None
                self.site.counters.replay_overflows += 1
            else:
                kept.append(data)
                if connection is None and self.kept_size > REPLAY:
                    self._wait()
        if connection is not None and connection.open:
            connection.transport.write(data)

    def body_end(self) -> None:
        """The request is complete."""
        self.ended = True
        connection = self.connection
        if connection is not None and not self.started:
            connection.due = self.site.now + self.pool.options.first_byte_timeout

    def _wait(self) -> None:
        if not self.paused:
            self.paused = True
            self.client.pause_reading()

    def _read_on(self) -> None:
        self.paused = False
        self.client.resume_reading()

    def upstream_full(self, connection: UpstreamConnection) -> None:
        """The endpoint takes no more for now."""
        if connection is self.connection and not self.finished:
            if not self.started:
                connection.due = self.site.now + self.pool.options.body_timeout
            self._wait()

    def upstream_free(self, connection: UpstreamConnection) -> None:
        """It goes on."""
        if connection is self.connection and self.paused:
            if not self.started:
                options = self.pool.options
                connection.due = self.site.now + options.first_byte_timeout if self.ended else inf
            self._read_on()

    # -- the way back -------------------------------------------------------------------------------------------------

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
            connection.due = (
                inf
                if self.client.full
                else self.site.now
                + (self.site.plan.config.gateway.tunnel_timeout if self.tunnel else self.pool.options.body_timeout)
            )

    def final(self, head: ResponseHead, out: list[bytes]) -> None:
        """The head of the final answer."""
        request = self.head
        ticket = self.ticket
        assert ticket is not None
        ticket.answered()
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

    def _write(self, out: list[bytes]) -> None:
        data = out[0] if len(out) == 1 else b"".join(out)
        self.bytes_out += len(data)
        self.client.write(data)

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
            connection.due = self.site.now + self.site.plan.config.gateway.tunnel_timeout
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
            fault = Fault(502, f"upstream_{refusal.token}", f"the endpoint's answer is none: {refusal.sentence}")
        self._failed(Failure.NO_ANSWER if began else Failure.BROKEN, fault, used=used)

    def _cut(self) -> None:
        """An answer broke off, and only a closed connection can say so."""
        if not self.tunnel:
            self.site.counters.cut += 1
            self.fault = "cut"
        self._release(ok=None if self.tunnel else False)
        self.finish(cut=True)

    def _failed(self, failure: Failure, fault: Fault, *, used: bool) -> None:
        ticket = self.ticket
        assert ticket is not None
        counters, route = self.site.counters, self.route
        idempotent = self.head.method in _IDEMPOTENT
        then = after(
            failure, idempotent=idempotent, replayable=self.kept is not None, reused=used, refreshed=self.refreshed
        )
        if then is Next.FRESH:
            self.refreshed = True
            counters.fresh += 1
            self._send(self.pool.upstream(ticket.endpoint), fresh=True)
            return
        self._release(ok=False)
        self.failed_by = fault
        if then is Next.RAISE or self.attempt >= route.attempts:
            self.give_up(fault)
            return
        if failure is Failure.UNSENT:
            counters.failovers += 1
            self.forward()
            return
        purse = route.purse
        if purse is not None:
            now = self.site.clock()
            reservation = purse.reserve(now)
            if reservation is None:
                counters.retries_refused += 1
                self.give_up(fault)
                return
            purse.confirm(reservation, now)
        counters.retries += 1
        options = route.route.retries
        assert options is not None
        self.pause = pause(
            options.jitter, self.attempt, self.pause, float(options.base), float(options.cap), self.site.random
        )
        self.timer = self.site.loop.call_later(self.pause, self._again)

    def _again(self) -> None:
        self.timer = None
        if not self.finished:
            self.forward()

    def past_deadline(self) -> None:
        """The answer's head did not come in time."""
        self.site.counters.late += 1
        self._detach()
        self._release(ok=False)
        self.give_up(problem.DEADLINE)

    def give_up(self, fault: Fault) -> None:
        """Answer that it did not work."""
        self.refuse(fault)

    def refuse(self, fault: Fault, extra: bytes = b"") -> None:
        """The gateway's own answer; what is under way at an endpoint is dropped."""
        self._detach()
        self._release(ok=None)
        if self.started:
            self._cut()
            return
        self.fault = fault.reason
        self.site.counters.own_answers += 1
        request_id = b"" if self.identity is None else self.identity.request_id
        self.close = not (self.head.keep_alive and self.ended) or self.client.closing
        data = problem.render(
            fault, close=self.close, request_id=request_id, extra=extra, head_only=self.head.method == b"HEAD"
        )
        self.respond(fault.status, data)

    def respond(self, status: int, data: bytes) -> None:
        """A whole answer that is not an endpoint's."""
        self.started = True
        self.status = status
        self._write([data])
        self.finish()

    # -- the end ------------------------------------------------------------------------------------------------------

    def left(self) -> None:
        """The client is gone."""
        if not self.finished:
            self.site.counters.clients_left += 0 if self.tunnel else 1
            self._detach()
            self._release(ok=None)
            self._over()

    def _detach(self) -> None:
        """Let go of the connection, which may be in the midst of something."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.taker = None
            connection.drop()

    def _release(self, *, ok: bool | None) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.release(ok)
            if self.pool.options.queue:
                self.pool.wake()

    def dated_no_more(self) -> None:
        """The deadline is met, or nobody cares any more."""
        if self.until != inf:
            self.until = inf
            self.site.dated.discard(self)

    def finish(self, *, cut: bool = False) -> None:
        """The answer is complete, or will never be."""
        if self.finished:
            return
        connection = self.connection
        if connection is not None:
            self.connection = None
            connection.taker = None
            if self.ended and connection.reader.reusable and connection.reader.ended:
                connection.upstream.put(connection)
            else:
                connection.drop()
        self._release(ok=self.status < 500)
        self._over()
        self.client.done(self, cut=cut)

    def _over(self) -> None:
        self.finished = True
        self.dated_no_more()
        self.kept = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.due != inf:
            waiting = self.pool.waiting[self.route.priority]
            if self in waiting:
                waiting.remove(self)
        self.site.over(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.head!r} attempt={self.attempt} started={self.started}>"
