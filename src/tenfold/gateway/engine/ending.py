"""One request and how it ends: whatever happens, what it holds is given back exactly once.

Theory. An exchange holds a place at an endpoint (`balance.Ticket`) and a connection. An in-flight count that is off by
one is off for ever, so every way out goes through `_detach` and `_release`, the client's leaving at any stage included,
and both do nothing the second time.
"""

from __future__ import annotations

from asyncio import TimerHandle
from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.balance import Ticket
from tenfold.gateway.engine import concurrency, problem
from tenfold.gateway.engine.concurrency import Place
from tenfold.gateway.engine.pool_plan import PoolPlan
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.engine.route_plan import RoutePlan
from tenfold.gateway.engine.upstream import UpstreamConnection
from tenfold.gateway.framing import Identity, RequestHead

if TYPE_CHECKING:
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.site import Site

JOINED: Final = 128 * 1024
"""Bytes up to which pieces are put together to be written at once: a copy costs less than another system call then."""


class Ending:
    """The state of an exchange, and its ends."""

    __slots__ = (
        "admitted", "attempt", "bytes_out", "callers", "canary", "client", "clocked", "close", "connection", "cookie",
        "due", "ended", "extra", "failed_by", "fault", "finished", "head", "identity", "kept", "kept_size", "pause",
        "paused", "place", "pool", "rechunk", "refreshed", "renewal", "route", "site", "started", "status", "ticket",
        "timer", "tried", "tunnel", "until",
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
        self.callers = False
        """The deadline is the caller's own, and says nothing of the endpoint."""
        self.admitted = False
        """The rate limit was asked."""
        self.place: Place | None = None
        """Its place in the adaptive limit."""
        self.cookie = self.renewal = ""
        """The sticky cookie that came, and the one to set."""

    def _write(self, out: list[bytes]) -> None:
        size = sum(map(len, out))
        self.bytes_out += size
        if size <= JOINED and len(out) > 1:
            out = [b"".join(out)]
        for data in out:
            self.client.write(data)

    def _cut(self) -> None:
        """An answer broke off, and only a closed connection can say so."""
        if not self.tunnel:
            self.site.counters.cut += 1
            self.fault = "cut"
        self._release(ok=None if self.tunnel else False)
        self.finish(cut=True)

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
        if fault.limit:
            fault = problem.measured(fault, self._options)
        self.site.counters.own_answers += 1
        request_id = b"" if self.identity is None else self.identity.request_id
        self.close = not (self.head.keep_alive and self.ended) or self.client.closing
        data = problem.render(
            fault, close=self.close, request_id=request_id, extra=extra, head_only=self.head.method == b"HEAD"
        )
        self.respond(fault.status, data)

    def _options(self, table: str) -> object:
        """The options that hold for this request."""
        if table == "gateway":
            return self.site.plan.gateway
        return self.route.route if table == "route" else getattr(self.pool, "options", None)

    def respond(self, status: int, data: bytes) -> None:
        """A whole answer that is not an endpoint's."""
        self.started = True
        self.status = status
        self._write([data])
        self.finish()

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
        ticket = self.ticket
        if ticket is not None:
            self.ticket = None
            pool = self.pool
            now = self.site.clock()
            ticket.release(ok, now)
            if ok is not None:
                pool.times.add(now - ticket.began)
            if pool.options.queue:
                pool.wake()

    def _answer_done(self, *, ok: bool | None) -> None:
        """The endpoint's answer is not for the client."""
        connection = self.connection
        if connection is not None and connection.reader.free:
            self.connection = None
            connection.upstream.put(connection)
        else:
            self._detach()
        self._release(ok=ok)

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
            if self.ended and connection.reader.free:
                connection.upstream.put(connection)
            else:
                connection.drop()
        self._release(ok=self.status < 500)
        self._over()
        self.client.done(self, cut=cut)

    def _over(self) -> None:
        self.finished = True
        if self.until != inf:
            self.dated_no_more()
        self.kept = None
        if self.place is not None:
            place, self.place = self.place, None
            concurrency.ended(place, self.fault, self.site.clock())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.due != inf:
            waiting = self.pool.waiting[self.route.priority]
            if self in waiting:
                waiting.remove(self)  # type: ignore[arg-type] # who waits is a `Sending`
        self.site.over(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.head!r} attempt={self.attempt} started={self.started}>"
