"""Another try: whether a request that went wrong is sent again, where to, and who pays.

Theory. What may be sent again is decided by `balance.transports.rules.after`: anything of which nothing was sent; what
is idempotent and has had no byte of an answer; and once more on a fresh connection what was written into a kept one
that closed under it. A POST is never sent twice. Further tries never go to an endpoint that was tried, and those that
may repeat work are paid for (`resilience.Budget`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenfold.balance.transports.rules import IDEMPOTENT as _METHODS
from tenfold.balance.transports.rules import Failure, Next, after
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.ending import Ending
from tenfold.gateway.engine.problem import Fault
from tenfold.resilience.backoff import pause

if TYPE_CHECKING:
    from tenfold.gateway.engine.upstream import Upstream

IDEMPOTENT: Final = frozenset(name.encode() for name in _METHODS) | {b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY"}
"""Methods of which two are as good as one."""


class Trying(Ending):
    """The part of an exchange that decides about further tries."""

    __slots__ = ()

    def forward(self) -> None:
        """Take a place at an endpoint, and send."""
        raise NotImplementedError

    def _send(self, upstream: Upstream, *, fresh: bool) -> None:
        """Over a connection to that endpoint; ``fresh``: one that was not used before."""
        raise NotImplementedError

    def _failed(self, failure: Failure, fault: Fault, *, used: bool) -> None:
        ticket = self.ticket
        assert ticket is not None
        counters, route = self.site.counters, self.route
        then = after(
            failure, idempotent=self.idempotent, replayable=self.kept is not None, reused=used, refreshed=self.refreshed
        )
        if then is Next.FRESH:
            self.refreshed = True
            counters.fresh += 1
            self._send(self.pool.upstream(ticket.endpoint), fresh=True)
            return
        self.pool.upstream(ticket.endpoint).tally.failures += 1
        self._release(ok=False)
        self.failed_by = fault
        if then is Next.RAISE or self.attempt >= route.attempts:
            self.give_up(fault)
            return
        if failure is Failure.UNSENT:
            counters.failovers += 1
            self.forward()
            return
        if not self.pays(self.site.clock()):
            self.give_up(fault)
            return
        counters.retries += 1
        options = route.route.retries
        assert options is not None
        self.pause = pause(
            options.jitter, self.attempt, self.pause, float(options.base), float(options.cap), self.site.random
        )
        self.again(self.pause)

    @property
    def idempotent(self) -> bool:
        """Whether to do it twice is to do it once."""
        return self.head.method in IDEMPOTENT

    def pays(self, now: float) -> bool:
        """Whether the budget pays for a try that may repeat work; then it has."""
        purse = self.route.purse
        if purse is None:
            return True
        reservation = purse.reserve(now)
        if reservation is None:
            self.site.counters.retries_refused += 1
            return False
        purse.confirm(reservation, now)
        return True

    def again(self, wait: float) -> None:
        """Once more after ``wait`` seconds."""
        self.timer = self.site.loop.call_later(wait, self._again)

    def _again(self) -> None:
        self.timer = None
        if not self.finished:
            self.forward()

    def past_deadline(self) -> None:
        """The answer's head did not come in time."""
        self.site.counters.late += 1
        self._detach()
        self._release(ok=None if self.callers else False)
        self.give_up(problem.CALLERS_DEADLINE if self.callers else problem.DEADLINE)
