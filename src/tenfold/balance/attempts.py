"""One call that may be tried at more than one endpoint: which, how often, and who pays.

Theory. A second try is right in two cases. Where *nothing was sent* (the connection was refused) nobody has worked for
the call, so another endpoint is always free to try. Where something was sent, the work may have been done: only what
is idempotent may be sent again (RFC 9110, section 9.2.2), and since every further try adds work just when endpoints
fail, it is paid for out of the retry budget (`tenfold.resilience.Budget`), and not made at all if a layer above says
that it repeats the call itself: three layers of three tries are 27 requests.

Never an endpoint twice: who has just failed is the worst candidate there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tenfold.balance.errors import NoEndpoint
from tenfold.balance.pick.base import Request
from tenfold.resilience.errors import DeadlineTooShort
from tenfold.resilience.scope import SCOPE

if TYPE_CHECKING:
    from tenfold.balance.balancer import Balancer
    from tenfold.balance.ticket import Ticket


class Attempts:
    """The tries of one call. `first` once, then `another` after each failure until it says None."""

    __slots__ = ("_balancer", "_idempotent", "_request", "_retried", "tried", "until")

    def __init__(self, balancer: Balancer, request: Request, idempotent: bool) -> None:
        self._balancer: Final = balancer
        self._request: Final = request
        self._idempotent: Final = idempotent
        self.until, self._retried = SCOPE.get()
        """The deadline in force, monotonic seconds."""
        self.tried: list[str] = []
        """Ids of the endpoints tried, in order."""

    def first(self) -> Ticket:
        """A ticket for the first try.

        Raises `NoEndpoint`, and `DeadlineTooShort` if the deadline has passed.
        """
        balancer = self._balancer
        if self.until != math.inf and self.until <= balancer.now():
            raise DeadlineTooShort(f"balancer {balancer.name!r}: the deadline passed before the first try")
        purse = balancer.purse
        if purse.hungry:
            purse.deposit()
        return self._take()

    def more(self) -> Ticket:
        """A ticket for an attempt beside the ones under way. Raises `NoEndpoint`."""
        return self._take()

    def another(self, *, sent: bool) -> Ticket | None:
        """A ticket for the next endpoint; None where there is to be no further try. ``sent``: whether anything of the
        request may have reached the one before.
        """
        balancer = self._balancer
        if len(self.tried) >= balancer.attempts or (sent and (self._retried or not self._idempotent)):
            return None
        now = balancer.now()
        if self.until <= now:
            return None
        reservation = balancer.purse.reserve(now) if sent else None
        if sent and reservation is None:
            balancer.count("retries_refused")
            return None
        try:
            ticket = self._take()
        except NoEndpoint:
            if reservation is not None:
                balancer.purse.refund(reservation)
            balancer.count("retries_refused")
            return None
        if reservation is None:
            balancer.count("failovers")
        else:
            balancer.purse.confirm(reservation, now)
            balancer.count("retries")
        return ticket

    def _take(self) -> Ticket:
        ticket = self._balancer.acquire(self._request, self.tried)
        self.tried.append(ticket.endpoint.id)
        return ticket

    def __repr__(self) -> str:
        return f"<Attempts tried={self.tried}>"
