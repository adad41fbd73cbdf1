"""A request under way: who got it, and the one moment at which it is over.

An in-flight count that is off by one is off for ever: the member looks busier than it is, and a cap of
``max_in_flight`` closes for good after as many leaks. So the count is not a pair of calls that somebody must balance,
but an object that can be settled once, from wherever the request ends.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from tenfold.resilience.errors import DeadlineTooShort, Rejected
from tenfold.resilience.retry import passing

if TYPE_CHECKING:
    from tenfold.balance.endpoint import Endpoint
    from tenfold.balance.members import Seat
    from tenfold.resilience.window import Ticket as Permit


class Keeper(Protocol):
    """Who gave the ticket out and takes it back."""

    def settle(self, ticket: Ticket, ok: bool | None, now: float | None = None) -> None: ...

    def now(self) -> float: ...


class Ticket:
    """A place at ``endpoint``, held until `release`; of the releases of one ticket the first one counts.

    As a context manager: a block that ends has succeeded, an exception that may pass by itself is a failure of the
    endpoint. A cancellation, an interrupt, a call that was refused before it started, wrong input and an answer that
    says so (HTTP 404) say nothing::

        with balancer.acquire() as ticket:
            await ask(ticket.endpoint.url)
    """

    __slots__ = ("_keeper", "began", "ended", "endpoint", "open", "permit", "seat")

    def __init__(self, keeper: Keeper, seat: Seat, permit: Permit | None, began: float) -> None:
        self._keeper = keeper
        self.seat = seat
        self.permit = permit
        self.began = began
        self.ended: float | None = None
        self.endpoint: Endpoint = seat.member.endpoint
        self.open = True
        """Whether the request still counts as under way."""

    def release(self, ok: bool | None, now: float | None = None) -> None:
        """The request is over. True: it succeeded, False: it failed, None: it was given up, which says nothing.

        ``now`` is for who has just looked at the balancer's clock. A second call does nothing. Any thread may call it.
        """
        if self.open:
            self._keeper.settle(self, ok, now)

    def answered(self, now: float | None = None) -> None:
        """The answer has begun: what the caller takes to read the rest is no latency of the endpoint's."""
        if self.ended is None:
            self.ended = self._keeper.now() if now is None else now

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(verdict(error))

    def __repr__(self) -> str:
        return f"<Ticket {self.endpoint.id!r} {'open' if self.open else 'released'}>"


def verdict(error: BaseException | None) -> bool | None:
    """What an exception says about the endpoint: `Ticket.release`'s argument."""
    if error is None:
        return True
    if not isinstance(error, Exception) or isinstance(error, Rejected | DeadlineTooShort):
        return None
    return False if passing(error) else None
