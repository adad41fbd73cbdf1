"""What must not type-check, with the code of the error that each line must have."""

import asyncio

from tenfold._core import clock
from tenfold._core.clock import Clock
from tenfold._core.events import Event, Hub
from tenfold._core.rng import derive
from tenfold._core.stats import Ewma
from tenfold._core.tasks import Tasks
from tenfold._core.units import duration, size


class HalfAClock:
    def monotonic(self) -> float:
        return 0.0


class SleepsInText:
    def monotonic(self) -> str:
        return "now"

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        return None


half: Clock = HalfAClock()  # E: assignment
text: Clock = SleepsInText()  # E: assignment
clock.SYSTEM_CLOCK = half  # E: misc

duration(None)  # E: arg-type
duration(b"5m")  # E: arg-type
size([1])  # E: arg-type
seconds: int = duration("5m")  # E: assignment
derive("seed")  # E: arg-type

Ewma("10s")  # E: call-arg
Ewma(tau=1).observe("5", 0.0)  # E: arg-type


class Evicted(Event):
    key: str


def on_text(event: str) -> None:
    """Takes something that is no event."""


hub = Hub()
hub.subscribe(int, print)  # E: type-var
hub.subscribe(Event, on_text)  # E: arg-type
hub.emit("evicted")  # E: arg-type


async def own() -> None:
    async with Tasks("refresh") as tasks:
        tasks.spawn(own)  # E: arg-type
        name: str = await tasks.spawn(asyncio.sleep(1, 5))  # E: arg-type
        print(name)
