"""Who is out: the live part of `OutlierEjection`, pure, with the time handed in. The theory stands in `outlier`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

from tenfold._core.units import format_duration
from tenfold.balance.outlier import Ejected, OutlierEjection, Returned


class _Record:
    """What is known of one endpoint."""

    __slots__ = ("age", "bad", "good", "id", "passed", "repeats", "run", "since", "slow", "time", "until")

    def __init__(self, id: str) -> None:
        self.id = id
        self.until = -math.inf  # end of the ejection; minus infinity: in service
        self.since = -math.inf  # of the last return
        self.repeats = 0
        self.clear()

    def clear(self) -> None:
        """Hold nothing against it any more."""
        self.run = self.good = self.bad = self.age = 0
        self.time = 0.0  # seconds that the good ones took together


class Ejector:
    """Counts the results of endpoints and says who is to be left out. Pure; belongs to one event loop.

    `record` takes in results and returns whether it is time to `sweep`; `sweep` alone changes who is out and tells
    it. Call it then, and once `due` has come. ``draw`` (a number in [0, 1)) is the chance in the jitter.
    """

    __slots__ = (
        "_allowed",
        "_base",
        "_calm",
        "_consecutive",
        "_draw",
        "_judge_at",
        "_most",
        "_out",
        "_records",
        "_waiting",
        "ejections",
        "ignored",
        "options",
        "withheld",
    )

    def __init__(self, options: OutlierEjection | None = None, draw: Callable[[], float] = random.random) -> None:
        self.options: Final = OutlierEjection() if options is None else options
        options = self.options
        self._draw = draw
        self._base: Final = float(options.base)
        self._most: Final = float(options.most)
        self._calm: Final = float(options.calm)
        self._consecutive: Final = math.inf if options.consecutive is None else int(options.consecutive)
        self._judge_at: float | None = None
        self._allowed = 0
        self._records: dict[str, _Record] = {}
        self._out: dict[str, _Record] = {}
        self._waiting: dict[str, _Record] = {}  # enough failures in a row, not ejected yet
        self.ejections = self.withheld = self.ignored = 0
        """Ejections; ejections for which there was no room; results not counted (out, or begun before the return)."""

    # -- who there is -------------------------------------------------------------------------------------------

    def add(self, id: str) -> None:
        """There is such an endpoint, in service, with nothing held against it. One that is known already stays."""
        if id not in self._records:
            self._records[id] = _Record(id)
            self._resize()

    def remove(self, id: str) -> None:
        """There is no such endpoint any more; all that was known of it is forgotten. Then it is time to `sweep`."""
        if self._records.pop(id, None) is not None:
            self._out.pop(id, None)
            self._waiting.pop(id, None)
            self._resize()

    def _resize(self) -> None:
        # The nudge is for shares such as 0.29, of which 100 make 28.999999999999996.
        self._allowed = math.floor(len(self._records) * float(self.options.share) + 1e-9)

    # -- results ------------------------------------------------------------------------------------------------

    def record(self, id: str, now: float, ok: bool, elapsed: float) -> bool:
        """A request to ``id`` ended at ``now`` after ``elapsed`` seconds; whether it is time to `sweep`.

        Unknown ids are ignored: a result may arrive when its endpoint is gone.
        """
        known = self._records.get(id)
        if known is None or known.until > -math.inf or now - elapsed < known.since:
            self.ignored += 1
            return False
        if ok:
            known.good += 1
            known.time += elapsed
            if known.run:
                known.run = 0
                self._waiting.pop(id, None)
            return False
        known.bad += 1
        known.run += 1
        if known.run != self._consecutive:
            return False
        self._waiting[id] = known
        if len(self._out) < self._allowed:
            return True
        self.withheld += 1
        return False

    def ejected(self, id: str) -> bool:
        """Whether it is out, as of the last `sweep`."""
        return id in self._out

    # -- decisions ----------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When `sweep` has something to do next, at the latest; minus infinity: now."""
        if self._judge_at is None or len(self._out) > self._allowed:
            return -math.inf
        if self._waiting and len(self._out) < self._allowed:
            return -math.inf
        return min(self._judge_at, *(known.until for known in self._out.values())) if self._out else self._judge_at

    def sweep(self, now: float) -> list[Ejected | Returned]:
        """Let return whose time is over, eject who deserves it and find room, tell both in this order."""
        over = [known for known in self._out.values() if known.until <= now]
        told: list[Ejected | Returned] = [self._return(known, now, "its time was over") for known in over]
        if len(self._out) > self._allowed:
            surplus = sorted(self._out.values(), key=_by_end)[: len(self._out) - self._allowed]
            told += [self._return(known, now, "too large a share was ejected") for known in surplus]
        for known in list(self._waiting.values()):
            if len(self._out) >= self._allowed:
                break
            told.append(self._eject(known, now, f"{known.run} failures in a row"))
        if self._judge_at is None:
            self._judge_at = now + float(self.options.interval)
        elif now >= self._judge_at:
            self._judge_at = now + float(self.options.interval)
            for known, reason in self._outliers():
                if known.until == -math.inf:  # both ways may have found it
                    if len(self._out) >= self._allowed:
                        self.withheld += 1
                    else:
                        told.append(self._eject(known, now, reason))
            self._turn()
        return told

    def _outliers(self) -> list[tuple[_Record, str]]:
        """Who is out of the common: those that fail before those that are slow, the worst first."""
        options = self.options
        known = [k for k in self._records.values() if k.until == -math.inf and k.good + k.bad >= options.volume]
        found: list[tuple[float, _Record, str]] = []
        if options.deviations is not None and len(known) >= options.hosts:
            found += sorted(_failing(known, float(options.deviations), float(options.gap)), key=_by_score)
        timed = [k for k in known if k.good]
        if options.latency_factor is not None and len(timed) >= options.latency_hosts:
            found += sorted(_slow(timed, float(options.latency_factor), float(options.latency_floor)), key=_by_score)
        return [(record, reason) for _, record, reason in found]

    def _turn(self) -> None:
        """Start a new interval: forget what was judged, and what is too old to wait for more."""
        for known in self._records.values():
            known.age += 1
            if known.good + known.bad >= self.options.volume or known.age >= self.options.stretch:
                known.good = known.bad = known.age = 0
                known.time = 0.0

    def _eject(self, known: _Record, now: float, reason: str) -> Ejected:
        if known.repeats:
            known.repeats = max(0, known.repeats - int((now - known.since) / self._calm))
        known.repeats += 1
        seconds = min(self._most, self._base * known.repeats)
        seconds *= 1.0 + float(self.options.jitter) * self._draw()
        known.until = now + seconds
        known.clear()
        self._waiting.pop(known.id, None)
        self._out[known.id] = known
        self.ejections += 1
        return Ejected(known.id, reason, seconds, known.until, known.repeats)

    def _return(self, known: _Record, now: float, reason: str) -> Returned:
        del self._out[known.id]
        known.until = -math.inf
        known.since = now
        known.clear()
        return Returned(known.id, reason)

    def state(self) -> dict[str, object]:
        """For a person or a gauge: who is out until when, and the counters."""
        return {
            "ejected": {id: {"until": known.until, "repeats": known.repeats} for id, known in self._out.items()},
            "share": len(self._out) / len(self._records) if self._records else 0.0,
            "allowed": self._allowed,
            "ejections": self.ejections,
            "withheld": self.withheld,
            "ignored": self.ignored,
        }

    def __repr__(self) -> str:
        return f"<Ejector {len(self._out)} of {len(self._records)} out, {self._allowed} allowed>"


def _by_end(known: _Record) -> tuple[float, str]:
    return known.until, known.id


def _by_score(found: tuple[float, _Record, str]) -> tuple[float, str]:
    return -found[0], found[1].id


def _failing(known: list[_Record], deviations: float, gap: float) -> list[tuple[float, _Record, str]]:
    rates = [each.good / (each.good + each.bad) for each in known]
    mean = math.fsum(rates) / len(rates)
    stdev = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))
    least = mean - max(deviations * stdev, gap)
    return [
        (mean - rate, each, f"{rate:.0%} of its requests succeed, {mean:.0%} among its peers")
        for each, rate in zip(known, rates, strict=True)
        if rate < least
    ]


def _slow(known: list[_Record], factor: float, floor: float) -> list[tuple[float, _Record, str]]:
    times = [(each.time / each.good, each) for each in known]
    ordered = sorted(time for time, _ in times)
    found = []
    for position, (time, each) in enumerate(sorted(times, key=lambda pair: pair[0])):
        bar = _median_without(ordered, position)
        if time > max(floor, factor * bar):
            reason = f"takes {format_duration(time)} on average, {format_duration(bar)} is usual among its peers"
            found.append((time / bar if bar else math.inf, each, reason))
    return found


def _median_without(ordered: list[float], position: int) -> float:
    """The median of all but the one at ``position``."""

    def at(index: int) -> float:
        return ordered[index if index < position else index + 1]

    count = len(ordered) - 1
    return at(count // 2) if count % 2 else (at(count // 2 - 1) + at(count // 2)) / 2
