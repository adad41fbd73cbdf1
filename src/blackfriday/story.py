"""What the proof found out: plain data that the console, report.json and report.html all show."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct, field

from tenfold.load import RunResult


class Probe(Struct, frozen=True):
    """One rate that was tried."""

    rate: float
    p95: float  # seconds; infinite when more than 5 % of the requests failed
    held: bool


class RungOutcome(Struct, frozen=True):
    """One rung of the ladder, measured."""

    key: str
    title: str
    change: str
    rate: float | None  # the highest rate that held the SLO; None when only the fixed rate was tried
    failing: float | None = None  # the lowest rate that missed it
    why: str = ""  # why the search stopped
    probes: tuple[Probe, ...] = ()
    fixed: Probe | None = None  # the one rate that every rung is tried at in a quick run


class Statement(Struct, frozen=True):
    """A row of pg_stat_statements, divided by the requests that caused it."""

    text: str
    calls_per_request: float
    mean: float  # seconds
    share: float  # of the database's time


class Endpoint(Struct, frozen=True):
    """Statements that one request of this kind sends, counted by the server, for each variant asked."""

    name: str
    statements: dict[str, float]


class Finding(Struct, frozen=True):
    """What a reader should see in the evidence, and the rung that acts on it."""

    what: str
    evidence: str
    rung: str


class Evidence(Struct, frozen=True):
    """The find act: where the time of the baseline goes."""

    requests: int
    statements: tuple[Statement, ...]
    endpoints: tuple[Endpoint, ...]
    findings: tuple[Finding, ...]


class SameRate(Struct, frozen=True):
    """The same journeys at the same rate, before and after, in interleaved blocks."""

    rate: float
    step: str
    before: float  # p95 in seconds
    after: float
    low: float  # 95 % interval of the change as a share of `before`; not a number where too few answered for one
    high: float
    verdict: str
    samples: int

    @property
    def reduction(self) -> float:
        return 1 - self.after / self.before if self.before else 0.0

    @property
    def too_few(self) -> bool:
        """Whether nothing is said because there was too little to compare, and not because answers failed to come."""
        return math.isnan(self.low) and math.isfinite(self.after)

    @property
    def interval(self) -> str:
        if self.too_few:
            return f"none: {self.samples:,} answers are too few"
        return f"{self.low:+.0%} to {self.high:+.0%}"


class TenTimes(Struct, frozen=True):
    """Ten times the baseline's breakpoint, held."""

    rate: float
    seconds: float
    p95: float
    errors: float  # share
    held: bool
    invalid: tuple[str, ...]
    requests: int
    reads: int  # requests that a cache may answer, in the edge or in the workers
    loads: int  # of these, how many went to the database
    replica_reads: int = 0  # statements that a replica answered, carts and names of ordered products included
    token_reads: int = 0  # of these, those that had to show what their customer had written
    primary_reads: int = 0  # those that the primary took over from the replicas


class Cost(Struct, frozen=True):
    """What a request cost in a run at one rate."""

    requests: int
    p95: float  # seconds
    workers: float  # seconds of processor time a request
    gateway: float


class Prices(Struct, frozen=True):
    """Prices that were changed in the middle of the long run, watched through the gateway."""

    changes: int
    reads: int  # asked after the change was confirmed
    late: int  # of these, how many had the old price
    longest: float  # seconds after the confirmation at which the last of them was asked
    confirmed_within: float  # seconds from the commit to the confirmation, at most
    promised: float  # seconds for which the edge may keep a page, whatever happens

    @property
    def kept(self) -> bool:
        return self.changes > 0 and self.longest <= self.promised


class EdgeOutcome(Struct, frozen=True):
    """The gateway with its HTTP cache before the shop, against the workers alone, at the same rate."""

    rate: float
    direct: Cost
    through: Cost
    asked: int  # requests for pages that the edge may keep
    hits: int  # of these, how many it answered without the workers
    prices: Prices

    @property
    def share(self) -> float:
        return self.hits / self.asked if self.asked else 0.0


class Outage(Struct, frozen=True):
    """The payment service was frozen in the middle of the long run."""

    seconds: float
    browsed: int  # in the whole run
    failed_browses: int
    checkouts: int  # answered while it was away
    pending: int  # of these, how many were told that their money is pending
    failed_checkouts: int  # in the whole run
    paid_again: float | None  # seconds from its return to the first order that was paid at once
    never_paid: int  # orders still pending when the cashier had had its time

    @property
    def survived(self) -> bool:
        return not (self.failed_browses or self.failed_checkouts or self.never_paid) and self.paid_again is not None


class Look(Struct, frozen=True):
    """The workers under ``tenfold serve`` at one moment."""

    at: float  # seconds since the run began
    workers: int  # that are ready
    wished: int
    in_flight: float  # requests at the workers and waiting, the mean of a second


class ScaleUp(Struct, frozen=True):
    """More workers were wished."""

    at: float  # seconds since the run began
    workers: int
    ready: float | None  # when so many were there


class ScaleOutcome(Struct, frozen=True):
    """A ramp at the shop under ``tenfold serve``, which began with one worker."""

    most: int  # workers that it may have
    target_cpu: float  # of a core, in each worker
    target_in_flight: float
    low: float  # requests a second at the beginning
    high: float
    seconds: float
    complete: bool
    looks: tuple[Look, ...]
    ups: tuple[ScaleUp, ...]
    requests: int
    errors: int
    refused: int  # of these errors, those answered 503
    p95: float  # seconds
    settled_from: float | None  # seconds since the run began; None: too little was left of it to judge
    settled_requests: int
    settled_errors: int
    settled_p95: float
    code: int | None  # of the process, once it had drained; 0: no request was cut

    @property
    def reached(self) -> int:
        return max((look.workers for look in self.looks), default=0)

    @property
    def grew(self) -> bool:
        """Whether it went from one worker to all that it may have."""
        return bool(self.looks) and self.looks[0].workers == 1 and self.reached == self.most

    @property
    def kept(self) -> bool:
        settled = self.settled_from is not None and self.settled_errors < 0.001 * self.settled_requests
        return self.grew and settled and self.code == 0


class Integrity(Struct, frozen=True):
    """Acknowledged against stored, sold against stock, read against written."""

    acknowledged: int
    stored: int
    lost: int
    oversold: int
    negative_stock: int
    miscounted: int  # products whose stock is not what there was minus what was sold
    duplicates: int
    own_reads: int
    stale_own_reads: int
    leaked: int = 0  # reservations without an order
    spread: tuple[int, ...] = ()  # orders on each shard


class Promise(Struct, frozen=True):
    """A row of the table at the end."""

    promise: str
    target: str
    measured: str
    kept: bool | None  # None: not measured


class Story(Struct):
    """The whole run, in the order in which it was told. What was not reached is None."""

    quick: bool
    seed: int
    started_at: str
    environment: dict[str, Any]
    slo: str
    zipf: float
    rungs: list[RungOutcome] = field(default_factory=list)
    evidence: Evidence | None = None
    same_rate: SameRate | None = None
    ten_times: TenTimes | None = None
    edge: EdgeOutcome | None = None
    outage: Outage | None = None
    scale: ScaleOutcome | None = None
    integrity: dict[str, Integrity] = field(default_factory=dict)
    promises: list[Promise] = field(default_factory=list)
    seconds: float = 0.0
    stopped_because: str | None = None
    ten_times_run: RunResult | None = None
    scale_run: RunResult | None = None
    before_run: RunResult | None = None
    after_run: RunResult | None = None

    def rung(self, key: str) -> RungOutcome | None:
        return next((rung for rung in self.rungs if rung.key == key), None)

    @property
    def kept(self) -> bool:
        """True when the run is whole and every promise that was measured is kept."""
        measured = [promise.kept for promise in self.promises if promise.kept is not None]
        return self.stopped_because is None and bool(measured) and all(measured)

    def to_json(self) -> bytes:
        """Every number of the story; infinite and unknown ones are null. The runs are as `tenfold.load` writes them."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=_encode), indent=1)


def _encode(value: object) -> object:
    """A histogram of a run: the one kind of object in a story that msgspec does not know."""
    sparse = getattr(value, "to_sparse", None)
    if sparse is None:
        raise NotImplementedError(f"a {type(value).__name__} in a story")
    return sparse()
