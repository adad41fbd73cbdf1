"""What must type-check: `_core` as a package above it uses it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_type

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.events import Event, Hub, Subscription
from tenfold._core.rng import derive
from tenfold._core.stats import Ewma, Window
from tenfold._core.tasks import Tasks, shielded
from tenfold._core.units import Duration, Size, duration, rate, share, size
from tenfold.testing import FakeClock


@dataclass(frozen=True, slots=True)
class Evicted(Event):
    key: str


class OwnClock:
    """A clock needs the three methods, not a base class."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        return None


clocks: list[Clock] = [SYSTEM_CLOCK, FakeClock(), OwnClock()]
spans: list[Duration] = ["5m", 300, 0.5]
sizes: list[Size] = ["64MB", 1024]
assert_type([duration(span) for span in spans], list[float])
assert_type([size(each) for each in sizes], list[int])
assert_type(share("0.1%"), float)
assert_type(rate("500/s"), float)
assert_type(derive(7, "arrivals", 3).random(), float)

hub = Hub()
subscription = hub.subscribe(Evicted, lambda event: print(event.key))
assert_type(subscription, Subscription[Evicted])


def on_any(event: Event) -> None:
    """A handler of the base type takes every derived one."""


hub.subscribe(Evicted, on_any)
hub.emit(Evicted("a"))

mean = Ewma(half_life="10s", rest=None)
mean.observe(1, now=0.0)
assert_type(mean.value(1.0), float)
assert_type(Window("10s", buckets=5).count(now=1.0), int)


async def answer() -> int:
    return 42


async def own() -> None:
    async with Tasks("refresh", limit=10, grace="1s") as tasks:
        assert_type(await tasks.spawn(answer(), name="one"), int)
    assert_type(await shielded(answer(), timeout="1s"), int)


entry: Callable[[], Awaitable[None]] = own
