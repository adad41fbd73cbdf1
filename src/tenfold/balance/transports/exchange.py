"""One HTTP request through a balancer: the decisions that all transports share. It holds the ticket of the try under
way, and whoever drives it calls `failed` or `answered` for each try, and `give_up` on every other way out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tenfold.balance.attempts import Attempts
from tenfold.balance.balancer import Balancer
from tenfold.balance.errors import NoEndpoint, mark
from tenfold.balance.pick.base import ANY, Request
from tenfold.balance.ticket import Ticket
from tenfold.balance.transports.rules import Failure, Next, RetryRules, after

if TYPE_CHECKING:
    from tenfold.balance.transports.family import Family

IDEMPOTENT: Final = "tenfold_idempotent"
"""The extension of a request that says whether it may be sent twice."""
REQUEST: Final = "tenfold_request"
"""The extension of a request that holds what the pick may know of it."""


class Exchange:
    """``ticket`` is the try under way; its endpoint is where to send."""

    __slots__ = ("_attempts", "_balancer", "_refreshed", "_rules", "idempotent", "ticket")

    def __init__(self, balancer: Balancer, rules: RetryRules, request: Request, idempotent: bool) -> None:
        self._balancer: Final = balancer
        self._rules: Final = rules
        self.idempotent: Final = idempotent
        self._refreshed = False
        self._attempts: Final = Attempts(balancer, request, idempotent)
        self.ticket: Ticket = self._attempts.first()

    @property
    def until(self) -> float:
        """The deadline in force, monotonic seconds."""
        return self._attempts.until

    @property
    def tried(self) -> list[str]:
        """Ids of the endpoints tried, in order."""
        return self._attempts.tried

    def failed(self, error: BaseException, failure: Failure, *, replayable: bool, reused: bool) -> Next:
        """The try ended in ``error``. `Next.OTHER`: `ticket` is a new one; `Next.RAISE`: the error carries where it
        was tried.
        """
        step = after(
            failure,
            idempotent=self.idempotent,
            replayable=replayable,
            reused=reused,
            refreshed=self._refreshed,
        )
        if step is Next.FRESH:
            self._refreshed = True
            return step
        old = self.ticket
        old.release(None if failure is Failure.OURS or failure is Failure.NOT_HERS else False)
        if step is Next.OTHER:
            sent = failure is not Failure.UNSENT and failure is not Failure.NOT_HERS
            ticket = self._attempts.another(sent=sent)
            if ticket is not None:
                self.ticket = ticket
                return step
        mark(error, self._balancer.name, self._attempts.tried)
        return Next.RAISE

    def answered(self, status: int, headers: Mapping[str, str], *, replayable: bool) -> bool:
        """A response has begun. False: it is to be thrown away, and `ticket` is a new one."""
        ticket = self.ticket
        ticket.answered()
        if (agent := self._balancer.agent) is not None:
            self._balancer.reported(ticket, headers.get(agent.header))
        if status in self._rules.statuses and self.idempotent and replayable:
            other = self._attempts.another(sent=True)
            if other is not None:
                ticket.release(False)
                self.ticket = other
                return False
        return True

    def verdict(self, status: int) -> bool:
        """What a whole response with that status says about its endpoint."""
        return status not in self._rules.failures

    def give_up(self) -> None:
        """The caller has left, or something broke that is nobody's fault: the ticket goes back."""
        self.ticket.release(None)


def open_exchange(
    balancer: Balancer, rules: RetryRules, family: Family, request: Any, key: Callable[[Any], Request] | None
) -> Exchange:
    """The exchange of one request of httpx2 or httpx, with its first ticket.

    Raises a `NoEndpoint` that is the library's ``ConnectError`` as well.
    """
    extensions = request.extensions
    about = extensions.get(REQUEST)
    if about is None:
        about = ANY if key is None else key(request)
    idempotent = rules.idempotent(request.method, extensions.get(IDEMPOTENT))
    try:
        return Exchange(balancer, rules, about, idempotent)
    except NoEndpoint as error:
        raise family.no_endpoint(
            str(error), balancer=error.balancer, why=error.why, retry_after=error.retry_after
        ) from None
