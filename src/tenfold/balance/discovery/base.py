"""What every source of endpoints is: it gives the whole set, and gives it again whenever it changes.

The whole set and not what was added and removed, because a reader that missed one difference would be wrong for ever,
and one that missed one set is right with the next. Two rules hold for all sources. *A source that cannot say what
there is changes nothing*: the set it gave last stays in force, the failure is told (`DiscoveryFailed`, once for each
new sentence) and it is asked again after a pause that grows up to a bound. And *no difference, no change*: a set equal
to the last one is not given again.
"""

from __future__ import annotations

import random as _random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, duration
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.happenings import DiscoveryFailed


class LookFailed(TenfoldError):
    """A source could not say what there is. The message is a sentence for a person; the same cause, the same words."""


class Discovery(ABC):
    """A source of endpoints. One source serves one balancer.

    ``name`` is how events call it. ``failures`` counts all failures, ``problem`` is the sentence of the present one
    (``""`` while all is well).
    """

    def __init__(
        self,
        name: str,
        *,
        pause: Duration = 1.0,
        pause_max: Duration = 30.0,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
        events: Hub = EVENTS,
    ) -> None:
        self.name: Final = name
        self.failures = 0
        self.problem = ""
        self._pause = positive(pause, f"{name} pause")
        self._pause_max = positive(pause_max, f"{name} pause_max")
        self._clock: Final = clock
        self._draw: Final = random
        self._events: Final = events
        self._in_a_row = 0

    @abstractmethod
    def changes(self) -> AsyncGenerator[Sequence[Endpoint], None]:
        """The whole set, sorted by id, now and at every change. It ends only where nothing can ever change.

        Close the iterator (`contextlib.aclosing`, or cancel the task that reads it): that lets go of all it holds.
        """

    def _failed(self, why: str) -> float:
        """Count and tell a failure; seconds until the next attempt."""
        self.failures += 1
        self._in_a_row += 1
        wait = self._wait(self._in_a_row)
        if why != self.problem:
            self.problem = why
            self._events.emit(DiscoveryFailed(self.name, why, self._in_a_row, wait))
        return wait

    def _wait(self, failures: int) -> float:
        """Doubled with each failure, less up to a half by chance: who failed together must not come back together."""
        return float(min(self._pause_max, self._pause * 2.0 ** min(failures - 1, 60)) * (1.0 - 0.5 * self._draw()))

    def _went_well(self) -> None:
        self.problem = ""
        self._in_a_row = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{f' failing: {self.problem}' if self.problem else ''}>"


class Polled(Discovery):
    """A source that is asked, over and over."""

    @abstractmethod
    async def _look(self) -> tuple[Sequence[Endpoint] | None, float]:
        """What there is (None: as before), and in how many seconds to look again. Raises `LookFailed`."""

    async def changes(self) -> AsyncGenerator[Sequence[Endpoint], None]:
        """See `Discovery.changes`. Never ends by itself."""
        given: Sequence[Endpoint] | None = None
        while True:
            try:
                found, wait = await self._look()
            except LookFailed as error:
                wait = self._failed(str(error))
            else:
                self._went_well()
                if found is not None and found != given:
                    given = found
                    yield found
            await self._clock.sleep(wait)


def as_set(endpoints: Iterable[Any], where: str) -> tuple[Endpoint, ...]:
    """Sorted by id. Raises `MisuseError` for two of the same id, and for what is no `Endpoint`."""
    found: dict[str, Endpoint] = {}
    for each in endpoints:
        if not isinstance(each, Endpoint):
            raise MisuseError(f"{where}: expected endpoints, got {each!r}")
        if each.id in found:
            raise MisuseError(f"{where}: two endpoints have the id {each.id!r}; give each its own")
        found[each.id] = each
    return tuple(found[id] for id in sorted(found))


def positive(value: Duration, name: str) -> float:
    """A duration of more than nothing. Raises `MisuseError`."""
    seconds = duration(value, name)
    if seconds == 0:
        raise MisuseError(f'{name}: expected more than 0, such as "1s"')
    return seconds
