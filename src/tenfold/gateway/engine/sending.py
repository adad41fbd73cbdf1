"""The way there: a pool, an endpoint of it, a connection, and another one if that fails.

Theory. What is to be sent again (`Trying` says when) must still be there, so a body is kept up to `REPLAY` bytes, and
until the answer begins.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.balance import NoEndpoint
from tenfold.balance.pick.base import ANY
from tenfold.balance.transports.rules import Failure
from tenfold.gateway.config import choose
from tenfold.gateway.engine import concurrency, problem, starting
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.engine.sticky import set_cookie
from tenfold.gateway.engine.trying import IDEMPOTENT, Trying
from tenfold.gateway.engine.upstream import Upstream, UpstreamConnection
from tenfold.gateway.engine.users import select
from tenfold.gateway.framing import Identity, Link, RequestHead
from tenfold.resilience.deadline import TIMEOUT_HEADER

if TYPE_CHECKING:
    from tenfold.gateway.engine.route_plan import RoutePlan

REPLAY: Final = 64 * 1024
"""Bytes of a body that are kept to be sent again, and that may wait for a connection."""
_TIMEOUT_LINE: Final = TIMEOUT_HEADER.encode() + b": %d"


class Sending(Trying):
    """The half of an exchange that sends."""

    __slots__ = ()

    def start(self) -> None:
        """Everything that is done once, and then the first try."""
        route, head = self.route, self.head
        if (not route.plain or self.client.trusted) and not self._prepare(route, head):
            return
        purse = route.purse
        if purse is not None and purse.hungry:
            purse.deposit()
        self.begin()

    def _prepare(self, route: RoutePlan, head: RequestHead) -> bool:
        """What few routes ask for. False: the request is answered, or waits."""
        if route.limit is not None and not route.limit.admits(self):
            return False
        if route.pool is None:
            starting.answer(self)
            return False
        if (route.deadline is not None or self.client.trusted) and not starting.dated(self, route.deadline):
            return False
        if route.own_cookies:
            starting.own_cookies(self, route.own_cookies)
        elif route.canary is not None:
            self.choose_pool({})
        if route.strip or route.request_changes is not None:
            route.change(head)
        return True

    def choose_pool(self, mine: dict[str, str]) -> None:
        """The canary's pool instead, for some; ``mine`` are the gateway's own cookies."""
        canary, head = self.route.canary, self.head
        assert canary is not None
        user = mark = asked = None
        if canary.by is not None:
            user = select(canary.by, head, self.client.believed(head))
        if canary.cookie is not None:
            mark = mine.get(canary.cookie)
        if canary.header is not None and (value := head.get(canary.header.lower().encode())) is not None:
            asked = value.decode("latin-1")
        choice = choose(canary, self.pool.options.name, self.site.random.random(), header=asked, user=user, cookie=mark)
        if choice.mark and canary.cookie is not None:
            self.extra += set_cookie(canary.cookie, choice.mark, secure=self.client.link(True).secure(head))
        if choice.canary and self.route.canary_pool is not None:
            self.canary = True
            self.site.counters.canaries += 1
            self.pool = self.route.canary_pool

    def begin(self) -> None:
        """After all is known: forward, unless something nearer can answer."""
        self.forward()

    def forward(self) -> None:
        """Take a place at an endpoint, and send."""
        self.attempt += 1
        pool, route = self.pool, self.route
        if route.adaptive is not None and self.place is None:
            places = route.canary_adaptive if self.canary else route.adaptive
            if places is not None and not concurrency.enter(places, self):
                return
        try:
            known = pool.request(self.head, self.client.peer, self.cookie) if pool.keyed or self.cookie else ANY
            ticket = pool.balancer.acquire(known, self.tried)
        except NoEndpoint as none:
            if pool.options.queue and (none.why.get("full") or not pool.balancer.endpoints):
                self._queue()
            elif self.failed_by is not None:
                self.give_up(self.failed_by)
            else:
                why = ", ".join(f"{count} {reason}" for reason, count in none.why.items()) or "none is left"
                reason = "no_place" if none.why.get("full") else "no_endpoint"
                detail = f"no endpoint can take the request ({why})"
                self.give_up(problem.fault(reason, detail, retry_after=none.retry_after))
            return
        self.ticket = ticket
        if pool.sticky is not None:
            self.renewal = pool.sticky.renewal(self, ticket)
        self.tried.append(ticket.endpoint.id)
        self._send(pool.upstream(ticket.endpoint), fresh=False)

    def _queue(self) -> None:
        pool = self.pool
        if self.due == inf and pool.queued >= pool.options.queue:
            self.give_up(problem.QUEUE_FULL)
            return
        waiting = pool.waiting[self.route.priority]
        if self.due == inf:
            self.due = self.site.now + pool.options.queue_timeout
            self.site.counters.queued += 1
            waiting.append(self)
        else:
            waiting.appendleft(self)  # it had its turn, and somebody was faster

    def retry_queued(self) -> None:
        """A place has become free, perhaps."""
        if self.finished:
            self.pool.wake()  # the turn of somebody who left is the next one's
        else:
            self.attempt -= 1
            self.forward()

    def waited_too_long(self) -> None:
        """For a place."""
        self.give_up(problem.QUEUE_TIMEOUT)

    def _send(self, upstream: Upstream, *, fresh: bool) -> None:
        upstream.tally.requests += 1
        connection = None if fresh else upstream.take()
        if connection is None:
            upstream.connect(self)  # type: ignore[arg-type] # `Exchange` has the rest of a taker
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
        connection.taker = self  # type: ignore[assignment] # `Exchange` has the rest of one
        head, site, options = self.head, self.site, self.pool.options
        link = self.client.link(options.preserve_host)
        identity = self.identity
        if identity is None:
            identity = self.identity = link.identify(head, site.random.getrandbits)
        if self.until != inf:
            left = int((self.until - site.clock()) * 1000)
            if left <= 0:
                self.give_up(problem.CALLERS_DEADLINE if self.callers else problem.DEADLINE)
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
        if kept is not None and not (head.length == 0 or head.method in IDEMPOTENT):
            self.kept = None
        upgrade = None if head.upgrade is None else link.upgrade(head)
        connection.reader.expect(head.method, upgrade, self.decoded)
        if self.ended:
            connection.due = site.now + options.first_byte_timeout
            site.write(connection.transport, data)
        else:
            connection.due = inf
            connection.transport.write(data)  # at once: the rest of the body is written without waiting too
        if self.paused:
            self._read_on()

    @property
    def decoded(self) -> bool:
        """Whether a chunked answer is wanted as its data alone."""
        return self.head.http10

    def upstream_head(self, link: Link, identity: Identity, connection: UpstreamConnection) -> bytes:
        """The bytes of the request's head."""
        return link.request(self.head, identity, connection.upstream.authority)

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
