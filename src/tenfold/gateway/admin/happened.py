"""The last things that happened, kept for whoever asks: typed events as plain values, numbered.

Events are of changes of state and never of single requests, so a few hundred are minutes to months. A ring, because
nobody may ask for long.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tenfold._core.events import EVENTS, Event, Hub

_KEPT: Final = 256


class Happened:
    """Keeps the last events of ``hub`` until it is closed. ``wall`` says when (Unix time). Any thread may emit."""

    __slots__ = ("_ring", "_seq", "_subscription", "_wall")

    def __init__(self, wall: Callable[[], float], hub: Hub = EVENTS) -> None:
        self._wall = wall
        self._seq = 0
        self._ring: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._subscription = hub.subscribe(Event, self._hear)

    def close(self) -> None:
        """Keep no more."""
        self._subscription.cancel()

    def _hear(self, event: Event) -> None:
        self._seq += 1
        values = {each.name: _plain(getattr(event, each.name)) for each in dataclasses.fields(event)}
        told = {"seq": self._seq, "time": round(self._wall(), 3), "type": type(event).__name__, **values}
        self._ring.append(told)

    def state(self, since: float = 0.0) -> dict[str, Any]:
        """The events after ``since`` (Unix time), the oldest first, and the process they are of."""
        return {"pid": os.getpid(), "events": [each for each in list(self._ring) if each["time"] >= since]}

    def __repr__(self) -> str:
        return f"<Happened {len(self._ring)} of {self._seq}>"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(each) for each in value]
    return str(value)
