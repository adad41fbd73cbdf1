"""What benches that time single calls share: short turns, minima, no garbage collector in between."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def no_collector() -> Iterator[None]:
    """Without the garbage collector's pauses, as `timeit` does it; what has piled up goes before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def minima(timers: dict[str, Callable[[int], float]], rounds: int, seconds: float, unit: float) -> dict[str, float]:
    """The least time a call of each, over turns of about ``seconds``; a timer gives ``unit`` parts of a second."""
    counts = {name: max(10, int(seconds * unit / timer(200))) for name, timer in timers.items()}
    best = dict.fromkeys(timers, float("inf"))
    for _ in range(rounds):
        with no_collector():
            for name, timer in timers.items():
                best[name] = min(best[name], timer(counts[name]))
    return best
