"""A request that the edge may answer: from the store, with a stale response, out of another request's answer, or by
asking the endpoint as the edge wants it asked.

What is decided is `edge.Edge`'s; this hands it what happens, and carries out what it says. Responses are passed on
while they are stored. A client that leaves does not end the storing while others wait for the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.edge import Action, Decision, Filling, Turn
from tenfold.gateway.edge import Request as EdgeRequest
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.edge_keys import OURS, key_of
from tenfold.gateway.engine.edge_response import response_of
from tenfold.gateway.engine.forward import Exchange
from tenfold.gateway.engine.nobody import Nobody
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.framing import End, Identity, RequestHead, ResponseHead

if TYPE_CHECKING:
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.pool_plan import PoolPlan
    from tenfold.gateway.engine.route_plan import RoutePlan
    from tenfold.gateway.engine.site import Site
    from tenfold.gateway.engine.upstream import UpstreamConnection

_FAILURES: Final = (500, 502, 503, 504)


class CachedExchange(Exchange):
    """One request of a route with ``edge``."""

    __slots__ = ("_settled", "_soon", "decision", "filling")

    def __init__(
        self, site: Site, client: Client | Nobody, head: RequestHead, route: RoutePlan, pool: PoolPlan
    ) -> None:
        super().__init__(site, client, head, route, pool)  # type: ignore[arg-type] # Nobody does as well
        self.decision: Decision | None = None
        self.filling: Filling | None = None
        self._settled = True
        """The edge has been told what became of the decision."""
        self._soon = False

    def begin(self) -> None:
        head, edge = self.head, self.site.edge
        strange = head.upgrade is not None or (head.length and head.method in (b"GET", b"HEAD"))
        if edge is None or self.canary or strange:
            self.forward()
            return
        fields = {name: values[0] if len(values) == 1 else b", ".join(values) for name, values in head.fields.items()}
        keys = self.route.edge_keys
        if keys is not None:
            keys.ask(fields, head)
        key = key_of(self.client.scheme.encode(), head, self.route.route.edge)
        request = EdgeRequest(head.method, key, fields)
        self._go(edge.lookup(request, self.site.clock()))

    # -- what the edge says -------------------------------------------------------------------------------------------

    def _go(self, decision: Decision) -> None:
        self.decision = decision
        action = decision.action
        if action is Action.SERVE:
            self._serve(decision)
        elif action is Action.SERVE_STALE_WHILE_REVALIDATE:
            self._refresh(decision)
            self._serve(decision)
        elif action is Action.FORWARD or action is Action.REVALIDATE:
            self._settled = False
            self.forward()
        elif action is Action.WAIT:
            self._follow(decision)
        elif action is Action.ONLY_IF_CACHED_504:
            self._own(decision, problem.ONLY_IF_CACHED)
        else:
            self._own(decision, problem.COLLAPSED._replace(status=decision.fwd_status or 502))

    def _own(self, decision: Decision, fault: Fault) -> None:
        edge = self.site.edge
        assert edge is not None
        super().refuse(fault, edge.cache_status(decision, self.site.clock()))

    def _refresh(self, decision: Decision) -> None:
        """Ask the endpoint in the background."""
        site = self.site
        site.counters.in_flight += 1
        behind = CachedExchange(site, Nobody(self.client), self.head, self.route, self.pool)
        behind.ended = True
        behind.decision = decision
        behind._settled = False
        site.loop.call_soon(behind.forward)

    def _serve(self, decision: Decision) -> None:
        site = self.site
        edge = site.edge
        assert edge is not None
        client = self.client
        self.dated_no_more()
        self.close = not (self.head.keep_alive and self.ended) or client.closing
        extra = b"".join(line + b"\r\n" for line in self.extra) if self.extra else b""
        if self.close:
            extra += b"Connection: close\r\n"
        elif self.head.http10:
            extra += b"Connection: keep-alive\r\n"
        answer = edge.answer(decision, site.clock(), extra)
        assert answer is not None  # SERVE has one
        self.started = True
        self.status = answer.status
        body = answer.body
        if not body:
            self._write([answer.head])
        else:
            self._write([answer.head, *body])
        follower = decision.follower
        if follower is None:
            self.finish()
        else:
            follower.wake = self._woken
            self._pump()

    # -- the answer of another request --------------------------------------------------------------------------------

    def _follow(self, decision: Decision) -> None:
        edge, options = self.site.edge, self.route.route.edge
        assert edge is not None
        assert options is not None
        assert decision.follower is not None
        if not options.collapse:
            self._go(edge.resume(decision, self.site.clock()))
            return
        decision.follower.wake = self._woken
        self.timer = self.site.loop.call_later(self.pool.options.first_byte_timeout, self._resume)
        if decision.follower.turn is not Turn.WAIT:
            self._woken()  # it joined when a part had come already, and the next part may be long in coming

    def _woken(self) -> None:
        """Called from within another exchange, so that nothing may be done here and now."""
        if not self._soon and not self.finished:
            self._soon = True
            self.site.loop.call_soon(self._look)

    def _look(self) -> None:
        self._soon = False
        decision = self.decision
        if self.finished or decision is None or decision.follower is None:
            return
        if self.started:
            self._pump()
        elif decision.follower.turn is not Turn.WAIT:
            self._resume()

    def _resume(self) -> None:
        edge, decision = self.site.edge, self.decision
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if edge is not None and decision is not None and not self.finished:
            self._go(edge.resume(decision, self.site.clock()))

    def _pump(self) -> None:
        """Pass on what has come of the body that is followed."""
        decision = self.decision
        assert decision is not None
        assert decision.follower is not None
        follower = decision.follower
        if self.client.full:
            return
        if follower.turn is Turn.BROKEN:
            self._cut()
            return
        for piece in follower.take():
            self._write([piece])
        if follower.ended:
            follower.leave()
            self.finish()

    def client_free(self) -> None:
        super().client_free()
        if self.started and self.decision is not None and self.decision.follower is not None:
            self._woken()

    # -- the endpoint's answer ----------------------------------------------------------------------------------------

    @property
    def decoded(self) -> bool:
        return self.head.http10 or self.decision is not None

    def upstream_head(self, link: Any, identity: Identity, connection: UpstreamConnection) -> bytes:
        head, decision = self.head, self.decision
        if decision is None or not (decision.drop or decision.conditions):
            return super().upstream_head(link, identity, connection)
        plain, drop = head.plain, decision.drop
        head.plain = [line for line in plain if line.partition(b":")[0].lower() not in drop]
        head.plain += [b"%b: %b" % pair for pair in decision.conditions]
        try:
            return super().upstream_head(link, identity, connection)
        finally:
            head.plain = plain

    def at_once(self, connection: UpstreamConnection, data: bytes) -> bool:
        return self.decision is None and super().at_once(connection, data)

    def pass_on(self, request: RequestHead, head: ResponseHead, out: list[bytes]) -> None:
        decision, edge = self.decision, self.site.edge
        if decision is None or edge is None or head.status == 101:
            super().pass_on(request, head, out)
            return
        now = self.site.clock()
        options = self.route.route.edge
        assert options is not None
        response = response_of(head, options, self.route.edge_keys)
        if head.status == 304 and decision.conditions:
            then = edge.revalidated(decision, response, now, self.site.wall())
            if then is not None:
                self._settled = True
                self._answer_done(ok=True)
                self.kept = []
                self.tried.clear()
                self._go(then)
                return
        elif head.status in _FAILURES:
            self._settled = True
            stale = edge.failed(decision, now, head.status)
            if stale is not None:
                self._answer_done(ok=False)
                self._go(stale)
                return
        else:
            self.filling = edge.begin_store(decision, response, now, self.site.wall())
        self._settled = True
        self.extra.append(edge.cache_status(decision, now)[:-2])
        keys = self.route.edge_keys
        ours = OURS if keys is None else keys.ours
        head.plain = [line for line in head.plain if line.partition(b":")[0].lower() not in ours]
        super().pass_on(request, head, out)

    def piece(self, data: bytes, out: list[bytes]) -> None:
        if self.filling is not None:
            self.filling.write(data)
        super().piece(data, out)

    def _end(self, end: End, out: list[bytes]) -> None:
        if self.filling is not None:
            self.filling.finish()
            self.filling = None
        super()._end(end, out)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        if self.filling is not None:
            self.filling.abort()
            self.filling = None
        super()._cut()

    def give_up(self, fault: Fault) -> None:
        edge, decision = self.site.edge, self.decision
        if not self._settled and edge is not None and decision is not None:
            self._settled = True
            stale = edge.failed(decision, self.site.clock(), fault.status)
            if stale is not None:
                self._detach()
                self._release(ok=None)
                self._go(stale)
                return
            self._own_fault(fault)
            return
        super().give_up(fault)

    def _own_fault(self, fault: Fault) -> None:
        assert self.decision is not None
        self._own(self.decision, fault)

    def refuse(self, fault: Fault, extra: bytes = b"") -> None:
        self._cancel()
        super().refuse(fault, extra)

    def left(self) -> None:
        filling = self.filling
        if filling is not None and filling.open and filling.followers and not self.finished:
            self.client = Nobody(self.client)  # type: ignore[assignment]
            super().client_free()
            return
        if filling is not None:
            filling.abort()
            self.filling = None
        self._cancel()
        super().left()

    def _cancel(self) -> None:
        """Tell the edge that nobody asks any more."""
        edge, decision = self.site.edge, self.decision
        if edge is None or decision is None:
            return
        if not self._settled:
            self._settled = True
            edge.cancelled(decision)
        elif decision.follower is not None and not self.finished:
            edge.cancelled(decision)
