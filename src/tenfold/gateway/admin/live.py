"""Live metrics and events for whoever looks on: asked of the workers once a second, and only while somebody looks.

Theory. All lookers share one question a second to the workers. What it brings is told as what has changed: counters as
rates over the second, gauges where they have another value; who begins to look gets all values once. Each looker has a
bounded queue: one that reads more slowly than a second a message misses messages, is told how many with the next one,
and holds up nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import Tasks
from tenfold.gateway.admin.merge import merge_samples
from tenfold.gateway.admin.workers import Workers

_log: Final = logging.getLogger("tenfold.gateway")

LOOKERS: Final = 32
_QUEUE: Final = 64
_OVERLAP: Final = 10.0
"""Seconds for which events are asked for again, so that clocks need not agree to the second."""
Message = tuple[str, str]
"""The type, and the data as JSON."""


class Looker:
    """One reader of the stream."""

    __slots__ = ("dropped", "queue", "told")

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message] = asyncio.Queue(_QUEUE)
        self.dropped = 0
        """Messages that it did not get."""
        self.told = 0

    def put(self, message: Message) -> bool:
        """Hand it over, or drop it. False: dropped."""
        if self.dropped > self.told and self.queue.qsize() < _QUEUE - 1:
            self.queue.put_nowait(("dropped", json.dumps({"messages": self.dropped - self.told})))
            self.told = self.dropped
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped += 1
            return False
        return True


class Rates:
    """What has changed from one set of samples to the next."""

    __slots__ = ("_before", "_when")

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._when = 0.0

    def take(self, samples: list[dict[str, Any]], now: float) -> dict[str, Any]:
        """``{"seconds", "rates", "gauges"}`` since the last call: rates of counters that moved, gauges with another
        value. A counter that fell (a worker was replaced) counts from nothing.
        """
        before, self._before = self._before, {}
        seconds, self._when = now - self._when, now
        rates: dict[str, float] = {}
        gauges: dict[str, float] = {}
        for each in samples:
            if each["name"].endswith("_bucket"):
                continue
            name, value = series(each), each["value"]
            self._before[name] = value
            if each["name"].endswith(("_total", "_sum", "_count")):
                was = before.get(name, value)
                rise = value - was if value >= was else value
                if rise and before:
                    rates[name] = round(rise / max(seconds, 1e-3), 6)
            elif before.get(name) != value:
                gauges[name] = value
        return {"seconds": round(seconds, 3) if before else 0.0, "rates": rates, "gauges": gauges}


def _told(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the workers did not answer in time"
    return f"{type(error).__name__}: {error}"


def series(sample: dict[str, Any]) -> str:
    """What a sample is called in the stream: its name, and its labels as Prometheus writes them."""
    labels = ",".join(f'{name}="{value}"' for name, value in sample["labels"].items())
    return f"{sample['name']}{{{labels}}}" if labels else str(sample["name"])


class Live:
    """The stream. ``wall`` is the Unix time; ``interval`` (1 s) the time between two questions."""

    def __init__(self, workers: Workers, wall: Callable[[], float], *, interval: float = 1.0) -> None:
        self._workers = workers
        self._wall = wall
        self._interval = interval
        self._lookers: set[Looker] = set()
        self._tasks = Tasks("admin live", limit=4)
        self._samples: list[dict[str, Any]] = []
        self._seen: dict[int, int] = {}
        self._since = 0.0
        self._asking = False
        self.dropped = 0
        """Messages that lookers did not get, all together."""

    @property
    def full(self) -> bool:
        """Whether nobody more may look."""
        return len(self._lookers) >= LOOKERS

    async def start(self) -> None:
        """Be ready for lookers."""
        await self._tasks.__aenter__()

    async def close(self) -> None:
        """Ask no more."""
        await self._tasks.close()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Looker]:
        """A looker, within the block."""
        looker = Looker()
        self._lookers.add(looker)
        if not self._asking:
            self._asking = True
            self._tasks.spawn(self._run(), name="live")
        else:
            looker.put(("snapshot", json.dumps(self._snapshot())))
        try:
            yield looker
        finally:
            self._lookers.discard(looker)

    def _snapshot(self) -> dict[str, Any]:
        values = {series(each): each["value"] for each in self._samples if not each["name"].endswith("_bucket")}
        return {"time": round(self._wall(), 3), "values": values}

    async def _run(self) -> None:
        """Ask as long as anybody looks."""
        try:
            await self._ask()
        finally:
            self._asking = False

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        rates, due, first = Rates(), loop.time(), True
        self._since = self._wall()
        while self._lookers:
            try:
                answers = await self._workers.call_all("metrics", {}, timeout=self._interval * 2)
                self._samples = merge_samples(answers)
                told = rates.take(self._samples, loop.time())
                if first:
                    self._publish("snapshot", self._snapshot())
                else:
                    self._publish("metrics", {"time": round(self._wall(), 3), **told})
                first = False
                for event in await self._events():
                    self._publish("event", event)
            except Exception as error:  # noqa: BLE001 - told to everybody who looks, and asked again
                _log.warning("admin: no live metrics: %s", _told(error))
                self._publish("error", {"detail": _told(error)})
            due = max(due + self._interval, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _events(self) -> list[dict[str, Any]]:
        since = max(self._since, self._wall() - _OVERLAP)
        try:
            answers = await self._workers.call_all("events", {"since": since}, timeout=self._interval * 2)
        except MisuseError:
            return []  # an engine that tells of nothing
        found = []
        for worker, answer in enumerate(answers):
            pid = answer["pid"]
            for each in answer["events"]:
                if each["seq"] > self._seen.get(pid, 0):
                    self._seen[pid] = each["seq"]
                    found.append({**each, "worker": worker})
        for pid in [pid for pid in self._seen if pid not in {answer["pid"] for answer in answers}]:
            del self._seen[pid]
        return sorted(found, key=lambda each: float(each["time"]))

    def _publish(self, kind: str, data: dict[str, Any]) -> None:
        message = kind, json.dumps(data)
        for looker in self._lookers:
            self.dropped += not looker.put(message)
