"""How far a replica is behind its primary, in bytes and in seconds, and whether that is too far.

Theory. Two usual measures lie. ``now() - pg_last_xact_replay_timestamp()`` grows while the primary is idle,
although nothing is missing. *Received minus replayed* is zero when the primary is dead or the network is cut,
although everything is missing. What a reader wants to know is: *how old is the state that I see?* So the primary
itself is the yardstick. It is asked for its position again and again, and the answers are kept as a record of
(time, position). A replica that has replayed up to position r shows the state that the primary had when it stood at
r; that moment is looked up in the record (in between two samples by interpolation, so to within one period), and the
time since is the lag. It is the method of pt-heartbeat (Percona) with the log's own position in the heartbeat's place,
so that nothing is written for it
(but for a transaction without effect in the rare case that `tenfold.db.probe` tells of).

A lag is known only as well as the primary is: when its last sample is older than ``horizon``, nobody knows. Hence
three values: *fresh*, *stale*, *unknown*. Between fresh and stale there are two thresholds (hysteresis, as in a
Schmitt trigger): a replica leaves above the higher one and returns below the lower, or a replica at the threshold
would flap and take its readers' caches and the primary's load along.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share, whole_number
from tenfold.db.position import Position
from tenfold.db.seen import LagState


class Trail:
    """Where the primary stood when: a bounded record of (time, position). Pure.

    ``capacity`` (512) samples. When it is full, every second one of its older half goes, so that the record gets
    coarser towards the past rather than shorter. An idle primary adds nothing: the last sample is just confirmed.
    """

    __slots__ = ("_branch", "_capacity", "_first", "_last", "_lsns")

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = whole_number(capacity, "trail capacity", least=8)
        self._branch: tuple[int, int] | None = None
        self._lsns: list[int] = []
        self._first: list[float] = []  # when the primary was first seen there
        self._last: list[float] = []  # and when last

    def note(self, position: Position, now: float) -> None:
        """The primary stands at ``position``. Another timeline or system begins a new record."""
        branch = (position.system, position.timeline)
        if branch != self._branch:
            self._branch = branch
            self._lsns, self._first, self._last = [], [], []
        lsns = self._lsns
        if lsns and position.lsn <= lsns[-1]:
            self._last[-1] = max(self._last[-1], now)
            return
        if len(lsns) >= self._capacity:
            half = len(lsns) // 2
            for column in (lsns, self._first, self._last):
                del column[1:half:2]
        lsns.append(position.lsn)
        self._first.append(now)
        self._last.append(now)

    def behind(self, position: Position, now: float, horizon: float) -> tuple[float, int] | None:
        """``(seconds, bytes)`` that a replica at ``position`` is behind at ``now``.

        None where nobody knows: on another timeline, without a sample of the primary, with one older than ``horizon``
        seconds, or when the replica is behind the whole record and the record shorter than ``horizon``. For a longer
        one the age of the record is the answer: it is at least that far behind.
        """
        if not self._lsns or (position.system, position.timeline) != self._branch or now - self._last[-1] > horizon:
            return None
        bytes_behind = max(0, self._lsns[-1] - position.lsn)
        index = bisect_right(self._lsns, position.lsn)
        if index == len(self._lsns):
            return 0.0, bytes_behind
        if index == 0:
            age = now - self._first[0]
            return (age, bytes_behind) if age > horizon else None
        left, right = self._last[index - 1], self._first[index]
        part = (position.lsn - self._lsns[index - 1]) / (self._lsns[index] - self._lsns[index - 1])
        return max(0.0, now - (left + part * (right - left))), bytes_behind

    def __len__(self) -> int:
        return len(self._lsns)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if not self._lsns or self._branch is None:
            return "<Trail empty>"
        return f"<Trail {len(self)} samples on timeline {self._branch[1]} up to {self._lsns[-1]:#x}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class LagLimits:
    """When a replica counts as stale.

    It leaves when it is more than ``leave`` (10 s) behind, and returns when it is at most ``back`` (0.5) of that
    behind. ``leave=None``: a lag that is known is never too long. ``horizon`` (2 s): how old the last sample of the
    primary may be before nobody knows any more.

    Raises `MisuseError` for what makes no sense.
    """

    leave: Duration | None = 10.0
    back: str | float = 0.5
    horizon: Duration = 2.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.leave is not None:
            put(self, "leave", duration(self.leave, "max_lag"))
        put(self, "back", share(self.back, "lag back"))
        put(self, "horizon", duration(self.horizon, "lag horizon"))
        if self.horizon == 0:
            raise MisuseError('lag horizon: expected a duration above 0 such as "2s", got 0')


class LagSwitch:
    """The three-valued state of one replica, with its memory. Pure."""

    __slots__ = ("limits", "state", "turns")

    def __init__(self, limits: LagLimits) -> None:
        self.limits: Final = limits
        self.state: LagState = "unknown"
        self.turns = 0
        """How often it has gone stale."""

    def update(self, lag: float | None) -> LagState:
        """Take in the lag in seconds (None: unknown), give back the state.

        After a time of not knowing, only a lag at or below the threshold to return is fresh again.
        """
        leave = self.limits.leave
        if lag is None:
            self.state = "unknown"
        elif leave is None:
            self.state = "fresh"
        else:
            threshold = float(leave) if self.state == "fresh" else float(leave) * float(self.limits.back)
            fresh = lag <= threshold
            if not fresh and self.state == "fresh":
                self.turns += 1
            self.state = "fresh" if fresh else "stale"
        return self.state

    def __repr__(self) -> str:
        return f"<LagSwitch {self.state}, gone stale {self.turns} times>"
