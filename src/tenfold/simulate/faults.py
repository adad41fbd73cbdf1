"""What goes wrong and when: crash, freeze, a slow period, the loss of a zone, and the return from each."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.simulate.events import Timeline
from tenfold.simulate.servers import Server

Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class _Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """``at`` it begins; ``lasts`` (for good) so long, then what it took returns."""

    at: Duration
    lasts: Duration | None = None

    def __post_init__(self) -> None:
        duration(self.at, "at")
        if self.lasts is not None and duration(self.lasts, "lasts") == 0:
            raise MisuseError('lasts: expected a duration above 0 such as "10s", got 0; leave it out for "for good"')


class Crash(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="crash"):
    """The process dies: connections are refused, and reset where there are some. ``servers``: ids, ``*`` allowed."""

    servers: Names

    def hits(self, server: Server) -> bool:
        """Whether it befalls this one."""
        return _named(self.servers, server)

    def begin(self, now: float, server: Server) -> None:
        """It happens."""
        server.crash(now)

    def end(self, now: float, server: Server) -> None:
        """It is over."""
        server.start(now)


class Freeze(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="freeze"):
    """The process hangs (SIGSTOP, a long pause): connections are taken, nothing is answered until it goes on."""

    servers: Names

    def hits(self, server: Server) -> bool:
        """Whether it befalls this one."""
        return _named(self.servers, server)

    def begin(self, now: float, server: Server) -> None:
        """It happens."""
        server.freeze(now)

    def end(self, now: float, server: Server) -> None:
        """It is over."""
        server.thaw(now)


class Slow(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow"):
    """Everything takes ``factor`` times as long."""

    servers: Names
    factor: float

    def __post_init__(self) -> None:
        # Not super(): a Struct is made anew by msgspec, and the cell of super() then names another class.
        _Fault.__post_init__(self)
        if not 0 < self.factor <= 1e6:
            raise MisuseError(f"factor: expected a number above 0 such as 20, got {self.factor!r}")

    def hits(self, server: Server) -> bool:
        """Whether it befalls this one."""
        return _named(self.servers, server)

    def begin(self, now: float, server: Server) -> None:
        """It happens."""
        server.slow(now, self.factor)

    def end(self, now: float, server: Server) -> None:
        """It is over."""
        server.recover(now, self.factor)


class ZoneLoss(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="zone_loss"):
    """A whole zone goes: its servers hang as behind a cut cable (``how="freeze"``) or refuse (``how="crash"``)."""

    zone: str
    how: Literal["freeze", "crash"] = "freeze"

    def hits(self, server: Server) -> bool:
        """Whether it befalls this one."""
        return server.zone == self.zone

    def begin(self, now: float, server: Server) -> None:
        """It happens."""
        (server.freeze if self.how == "freeze" else server.crash)(now)

    def end(self, now: float, server: Server) -> None:
        """It is over."""
        (server.thaw if self.how == "freeze" else server.start)(now)


Fault = Crash | Freeze | Slow | ZoneLoss


def schedule(faults: Sequence[Fault], servers: Sequence[Server], timeline: Timeline) -> None:
    """Put all beginnings and ends on the timeline. Raises `MisuseError` for a fault that hits nobody."""
    for number, fault in enumerate(faults):
        hit = [server for server in servers if fault.hits(server)]
        if not hit:
            what = f"the zone {fault.zone!r}" if isinstance(fault, ZoneLoss) else f"{list(fault.servers)}"
            known = ", ".join(server.id for server in servers[:4]) + (", …" if len(servers) > 4 else "")
            raise MisuseError(f"fault[{number}]: expected to hit a server (there are {known}), got {what}")
        begins = duration(fault.at)
        for server in hit:
            timeline.at(begins, fault.begin, server)
            if fault.lasts is not None:
                timeline.at(begins + duration(fault.lasts), fault.end, server)


def _named(patterns: Sequence[str], server: Server) -> bool:
    return any(fnmatchcase(server.id, pattern) for pattern in patterns)
