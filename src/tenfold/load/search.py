"""The search for the breakpoint: the highest rate that still meets the objectives. Pure: it is told, it never
waits.

Theory. Whether a rate passes is a noisy and nearly monotone predicate of the rate. The search climbs
geometrically from ``start`` until a probe fails, then bisects the bracket (highest passing rate, lowest
failing rate) in the geometric middle, because precision is relative, until it is at most ``precision`` wide.

One verdict is one vote. Far from the boundary a vote is almost always right; at the boundary it is a coin. So
a single vote is enough to go on, but what the answer rests on, the failure that ends the climb and both ends
of the final bracket, is decided by the majority of three (two that agree). A vote overturned moves the
bracket and the search goes on from there.

A probe in which the client itself was the limit is neither: it is repeated once, then that rate bounds the
search from above as *the client's* limit, and the answer says that the target may take more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration

Vote = Literal["pass", "fail", "invalid"]
Stop = Literal["precision", "ceiling", "budget", "client saturated", "nothing passes", "probe limit"]

_KNEE_POINTS: Final = 5
_PATIENCE: Final = 4.0
_KNEE_HEIGHT: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What bounds a search. Rates are arrivals a second, durations seconds.

    ``start`` is the first rate, ``factor`` (2) the step of the climb and of the descent where ``start`` itself fails,
    whose steps grow, because a rate that fails takes longest and tells least; ``floor`` (a sixteenth of start) and
    ``ceiling`` (5,000) bound both. ``precision`` (5 %) is the width of the final bracket. A probe has at least
    ``samples`` (1,000) arrivals and lasts at least ``min_seconds`` (3), since a queue needs time to grow;
    ``max_seconds`` (none) cuts the samples of a probe at a low rate. ``budget`` (none) bounds the whole: a probe that
    would end after it is not begun, except the first; and while no rate has passed yet the search may take four times
    as long, because zero is no answer.
    """

    start: float = 20.0
    ceiling: float = 5000.0
    floor: float | None = None
    factor: float = 2.0
    precision: float = 0.05
    samples: int = 1000
    min_seconds: float = 3.0
    max_seconds: float = math.inf
    budget: float = math.inf
    max_probes: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.ceiling < math.inf:
            raise MisuseError(f"breakpoint: expected 0 < start <= ceiling, got {self.start!r} and {self.ceiling!r}")
        if not 0 < self.lowest <= self.start:
            raise MisuseError(f"breakpoint floor: expected 0 < floor <= start, got {self.floor!r}")
        if not 1.1 <= self.factor <= 10:
            raise MisuseError(f"breakpoint factor: expected 1.1 … 10, got {self.factor!r}")
        if not 0.001 <= self.precision <= 0.5:
            raise MisuseError(f"breakpoint precision: expected 0.001 … 0.5, got {self.precision!r}")
        if self.samples < 1 or self.max_probes < 1 or self.min_seconds <= 0 or self.budget <= 0:
            raise MisuseError("breakpoint: expected samples, max_probes, min_seconds and budget above 0")
        if self.max_seconds < self.min_seconds:
            raise MisuseError(
                f"breakpoint max_seconds: expected min_seconds ({self.min_seconds:g}) or more, got {self.max_seconds!r}"
            )

    @property
    def lowest(self) -> float:
        return self.start / 16 if self.floor is None else self.floor

    def seconds(self, rate: float) -> float:
        """How long a probe at ``rate`` lasts, ramp-in not counted."""
        return min(self.max_seconds, max(self.min_seconds, self.samples / rate))


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The next probe: run ``rate`` for ``seconds``. ``why`` is for the progress line."""

    rate: float
    seconds: float
    why: str


class Probe(msgspec.Struct, kw_only=True):
    """What a probe found. Latencies are corrected seconds; ``None`` is infinitely slow or no sample."""

    rate: float
    vote: Vote
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    error_share: float = 0.0
    in_flight: float | None = None
    """Mean number of samples under way in the part that counts, by Little's law; ``None``: not known."""
    samples: int = 0
    seconds: float = 0.0
    early: bool = False
    """The probe was ended because its verdict was certain; its percentiles are those of the part that ran."""
    note: str = ""


class SearchResult(msgspec.Struct, kw_only=True):
    """The answer, with everything it rests on."""

    highest_passing: float
    """The breakpoint: arrivals a second; 0 where nothing passed."""
    lowest_failing: float | None
    client_limit: float | None
    """The rate at which the client, not the target, gave up; ``None`` where it did not."""
    stopped: Stop
    why: str
    """One sentence for a person."""
    probes: list[Probe]
    knee: float | None
    """The rate at which p95 starts to climb steeply; ``None`` where the probes show no such point."""


class BreakpointSearch:
    """Ask `next` what to probe, `record` what came out, until `next` returns ``None``; then read `result`."""

    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self.probes: list[Probe] = []
        self._votes: dict[float, list[Vote]] = {}
        self._asked: float | None = None
        self._stopped: Stop | None = None

    def next(self, elapsed: float = 0.0) -> Ask | None:
        """The next probe, or ``None`` when the search is over. ``elapsed``: seconds since it began, probes
        and pauses."""
        if self._stopped is not None:
            return None
        chosen = self._choose()
        if isinstance(chosen, Ask):
            passing, _, _ = self.bracket
            allowed = self.options.budget * (1 if passing else _PATIENCE)
            if self.probes and elapsed + chosen.seconds > allowed:
                self._stopped = "budget"
            elif len(self.probes) >= self.options.max_probes:
                self._stopped = "probe limit"
            else:
                self._asked = chosen.rate
                return chosen
        else:
            self._stopped = chosen
        return None

    def record(self, probe: Probe) -> None:
        """Count a probe's vote. Raises `MisuseError` for a rate that was not asked for."""
        if self._asked is None or probe.rate != self._asked:
            raise MisuseError(
                f"search: expected the probe at {self._asked!r}/s that was asked for, got {probe.rate!r}/s"
            )
        self._asked = None
        self.probes.append(probe)
        self._votes.setdefault(probe.rate, []).append(probe.vote)

    def _decided(self, rate: float) -> Vote | None:
        """The majority so far; of one vote each way the failure, until the third decides. None: no valid vote
        yet."""
        votes = self._votes[rate]
        passed, failed = votes.count("pass"), votes.count("fail")
        if votes.count("invalid") >= 2:
            return "invalid"
        if not passed and not failed:
            return None
        return "pass" if passed > failed else "fail"

    def _settled(self, rate: float) -> bool:
        votes = self._votes[rate]
        return max(votes.count(kind) for kind in ("pass", "fail", "invalid")) >= 2

    @property
    def bracket(self) -> tuple[float | None, float | None, float | None]:
        """``(highest passing, lowest failing, client limit)`` as far as the votes go."""
        by = {rate: self._decided(rate) for rate in self._votes}
        failing = min((rate for rate, vote in by.items() if vote == "fail"), default=None)
        client = min((rate for rate, vote in by.items() if vote == "invalid"), default=None)
        top = min(rate for rate in (failing, client, math.inf) if rate is not None)
        passing = max((rate for rate, vote in by.items() if vote == "pass" and rate < top), default=None)
        return passing, failing, client

    def _ask(self, rate: float, why: str) -> Ask:
        return Ask(rate=rate, seconds=self.options.seconds(rate), why=why)

    def _choose(self) -> Ask | Stop:
        options = self.options
        if not self._votes:
            return self._ask(options.start, "first rate")
        for rate in self._votes:
            if self._decided(rate) is None:
                return self._ask(rate, "again: the last probe was invalid")
        passing, failing, client = self.bracket
        if failing is None and client is None:
            assert passing is not None
            if passing >= options.ceiling:
                return "ceiling" if self._settled(passing) else self._ask(passing, "confirm the ceiling")
            return self._ask(min(passing * options.factor, options.ceiling), "climb")
        top = min(rate for rate in (failing, client) if rate is not None)
        if passing is None and top > options.lowest:
            # What failed is settled later, if it turns out to be an end of the bracket.
            return self._ask(max(top / options.factor ** len(self._votes), options.lowest), "descend")
        if not self._settled(top) and not self._bisecting(top):
            return self._ask(top, "confirm the failure")
        if passing is None:
            return "client saturated" if top == client else "nothing passes"
        if top / passing > 1 + options.precision:
            return self._ask(math.sqrt(passing * top), "bisect")
        for end in (top, passing):
            if not self._settled(end):
                return self._ask(end, "majority of three")
        return "client saturated" if top == client else "precision"

    def _bisecting(self, top: float) -> bool:
        """Whether a higher rate has failed before: then ``top`` is a vote inside the bracket, to be confirmed
        at its end."""
        return any(rate > top and self._decided(rate) in ("fail", "invalid") for rate in self._votes)

    @property
    def result(self) -> SearchResult:
        """The answer, also of a search that was cut short. Raises `MisuseError` before the first probe."""
        if not self.probes:
            raise MisuseError("search: expected at least one probe before the result is asked for")
        passing, failing, client = self.bracket
        stopped = self._stopped or "budget"
        return SearchResult(
            highest_passing=passing or 0.0,
            lowest_failing=failing,
            client_limit=client,
            stopped=stopped,
            why=self._sentence(stopped, passing, failing, client),
            probes=list(self.probes),
            knee=knee([(probe.rate, probe.p95) for probe in self.probes if probe.vote != "invalid"]),
        )

    def _sentence(self, stopped: Stop, passing: float | None, failing: float | None, client: float | None) -> str:
        best = f"{passing:.4g}/s passes" if passing else "no rate passed"
        worst = f", {failing:.4g}/s fails" if failing else ""
        if stopped == "nothing passes":
            return f"no rate passes: even {min(self._votes):.4g}/s, the lowest tried, fails"
        if stopped == "client saturated":
            return f"client saturated at {client:.4g}/s: {best}{worst}, the target may take more"
        if stopped == "ceiling":
            return f"{best}, which is the ceiling: the target may take more"
        if stopped == "precision":
            return f"{best}{worst}: known within {self.options.precision * 100:.3g} %"
        limit = (
            f"budget of {format_duration(self.options.budget)}"
            if stopped == "budget" and math.isfinite(self.options.budget)
            else "search was cut short"
            if stopped == "budget"
            else f"limit of {self.options.max_probes} probes"
        )
        ended = limit if limit.startswith("search") else f"{limit} ran out"
        unsure = [rate for rate in (passing, failing) if rate and not self._settled(rate)]
        doubt = "; one vote only at " + " and ".join(f"{rate:.4g}/s" for rate in unsure) if unsure else ""
        return f"the {ended}: so far {best}{worst}{doubt}"


def knee(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The rate at which a convex rising curve of ``(rate, p95)`` leaves the flat; ``None`` where it does not.

    Kneedle (Satopää et al. 2011) without its smoothing: both axes are scaled to 0 … 1 and the knee is where
    the curve lies furthest below the diagonal. At least five rates are needed and a depth of 0.2; several
    probes of one rate count with their median, and infinitely slow ones do not count.
    """
    by: dict[float, list[float]] = {}
    for rate, value in points:
        if value is not None and math.isfinite(value):
            by.setdefault(rate, []).append(value)
    rates = sorted(by)
    if len(rates) < _KNEE_POINTS:
        return None
    heights = [sorted(by[rate])[len(by[rate]) // 2] for rate in rates]
    low, high = min(heights), max(heights)
    if high <= low:
        return None
    width = rates[-1] - rates[0]
    depth = [
        (rate - rates[0]) / width - (height - low) / (high - low) for rate, height in zip(rates, heights, strict=True)
    ]
    best = max(range(len(rates)), key=depth.__getitem__)
    return rates[best] if depth[best] >= _KNEE_HEIGHT else None
