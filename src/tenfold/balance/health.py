"""Whether an endpoint is up, by the words of its checks.

Theory. One check that fails is weak evidence (a packet was lost), and so is one that succeeds (the server has just
started and will fall over). HAProxy's rise and fall ask for several in a row: an endpoint that is up goes down after
``fall`` failures without a success between them, one that is down comes up after ``rise`` successes without a
failure between them. Whatever points the other way resets the count, so that a check which fails now and then, but
never ``fall`` times in a row, takes nothing down; and every change starts both counts from nothing.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number

Initial = Literal["up", "down"]


def check_initial(initial: str, name: str) -> None:
    """Raises `MisuseError` for anything but ``"up"`` and ``"down"``."""
    if initial not in ("up", "down"):
        raise MisuseError(f'{name}: expected "up" or "down", got {initial!r}')


class Health:
    """The state of one endpoint under its checks. Pure; belongs to one event loop.

    Down after ``fall`` (3) failures in a row, up after ``rise`` (2) successes in a row. ``initial`` (``"up"``) is
    what it is taken for until the checks have spoken: ``"down"`` gives it no work before ``rise`` of them succeeded.

    Raises `MisuseError` for what makes no sense.
    """

    __slots__ = ("_fall", "_initial", "_rise", "_run", "changes", "failed", "passed", "since", "up")

    def __init__(self, rise: int = 2, fall: int = 3, initial: Initial = "up") -> None:
        self._rise: Final = whole_number(rise, "health rise", least=1)
        self._fall: Final = whole_number(fall, "health fall", least=1)
        check_initial(initial, "health initial")
        self._initial: Final = initial
        self.up = initial == "up"
        self.since = -math.inf
        """When ``up`` changed last; minus infinity: it has been so from the start."""
        self._run = 0  # observations in a row that speak against the present state
        self.passed = self.failed = self.changes = 0
        """Since the start: checks that succeeded, checks that failed, changes of ``up``."""

    def observe(self, ok: bool, now: float) -> bool:
        """Take in the result of one check made at ``now``; whether `up` has changed by it."""
        if ok:
            self.passed += 1
        else:
            self.failed += 1
        if ok is self.up:
            self._run = 0
            return False
        self._run += 1
        if self._run < (self._fall if self.up else self._rise):
            return False
        self.up = ok
        self.since = now
        self._run = 0
        self.changes += 1
        return True

    def state(self) -> dict[str, object]:
        """For a person or a gauge: ``up``, ``since``, and how many more checks it takes to change (``left``)."""
        left = (self._fall if self.up else self._rise) - self._run
        return {
            "up": self.up,
            "since": self.since,
            "left": left,
            "passed": self.passed,
            "failed": self.failed,
            "changes": self.changes,
        }

    def __repr__(self) -> str:
        return f"<Health {'up' if self.up else 'down'} run={self._run} rise={self._rise} fall={self._fall}>"
