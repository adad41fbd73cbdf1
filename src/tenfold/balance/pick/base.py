"""What every policy of choosing is: it puts the members in an order, best first, and says why.

Picks are pure: the time and the draws of chance are handed in, nothing is awaited, no socket is opened. They are given
the members that may be used (`rebuild`) whenever that set or a weight changes, always sorted by id, so that no table
depends on the order of a list. `order` is lazy: who needs one endpoint pays for one, and who needs the next because the
first one failed asks the same iterator on, which never yields a member twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from tenfold.balance.endpoint import Member

Draw = Callable[[], float]
"""A number in [0, 1): ``random.Random(seed).random``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a pick may know of a request.

    ``key`` is what consistent hashing goes by (a user, a cart), ``client`` the caller's address, ``zone`` where the
    caller stands, ``cookie`` the sticky cookie it sent, ``""`` if none.
    """

    key: str = ""
    client: str = ""
    zone: str = ""
    cookie: str = ""


ANY: Final = Request()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a member stands where it stands: ``score`` (the less the better), and words."""

    id: str
    score: float
    because: str


class Pick(ABC):
    """One policy over one set of members. Not thread-safe: its balancer holds a lock or belongs to one event loop.

    A pick is an option too: a fresh one is given to `Balancer`, which owns it from then on. One pick serves one
    balancer.
    """

    name: ClassVar[str]
    members: Sequence[Member] = ()

    def declare(self, members: Sequence[Member]) -> None:  # noqa: B027 - most picks need not know
        """All members there are, usable or not; told before `rebuild` whenever somebody has come or gone for good.

        Policies that spill over by the share of a group that is left need it. Never told: what may be used is all.
        """

    def rebuild(self, members: Sequence[Member]) -> None:
        """These may be used from now on, with these weights (all > 0), sorted by id. May be empty."""
        self.members = members

    @abstractmethod
    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """All members, the best first, each once. Nothing of the state changes but by what is taken from it.

        Raises `MisuseError` at the first ``next`` if the policy needs something that ``request`` lacks (a key, …).
        """

    def first(self, now: float, draw: Draw, request: Request = ANY) -> Member | None:
        """The one that `order` would begin with, where a policy can tell without the walk; `after` is the rest of it.

        None: there is nobody, or only the walk can tell.
        """
        return None

    def after(self, first: Member, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """The walk that began with ``first``, without it. Asked before anything else is."""
        raise NotImplementedError

    def started(self, member: Member, now: float) -> None:  # noqa: B027 - most picks need not know
        """A request is under way there; ``member.in_flight`` counts it already."""

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:  # noqa: B027
        """It is over, and ``member.in_flight`` no longer counts it. ``ok`` None: given up, says nothing."""

    @abstractmethod
    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        """Every member in the order of preference, without changing anything; where chance decides, by likelihood."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.members)} members)"
