"""Capacity for a rate: workers, requests in flight, pools and database connections, or why the data do not tell.

Theory. Little's law (1961): what is in a system is the rate times the time spent in it, ``L = λ W``, whatever the
distributions. It gives requests in flight and, with the time spent in the database, the connections in use. Both vary;
arrivals that know nothing of each other make the number in use about Poisson, so a pool of ``L + 2 √L`` is too small in
some two of a hundred moments. How many workers a rate takes comes from measured breakpoints by the Universal
Scalability Law (`usl`).

An answer is refused rather than guessed: where the law does not fit the points, where it would be carried to more than
twice the largest number of workers that was measured, and where its peak lies below the rate. Up to what was measured
no law is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration, share, whole_number
from tenfold._core.units import rate as per_second
from tenfold.autoscale.usl import USL, Measured, fit

_WORST_FIT: Final = 0.1
_REACH: Final = 2
_LEAST_DATABASE_POOL: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``rate`` a second takes.

    ``workers``; ``capacity``: what they can do within the SLO; ``headroom``: the share of it that is left.
    ``in_flight``: requests in flight in all, and ``pool``: connections to keep to each worker (None: the response time
    was not measured). ``database_pool``: connections of one worker to the database, ``database_connections`` of all
    (None: the time in the database was not given). ``replicas`` of the database: None where none was measured.
    ``assumptions``: what must be true for it, for a person. ``law``: None where none was needed or could be had.
    """

    rate: float
    workers: int
    capacity: float
    headroom: float
    in_flight: float | None
    pool: int | None
    database_pool: int | None
    database_connections: int | None
    replicas: int | None
    assumptions: tuple[str, ...]
    law: USL | None


@dataclass(frozen=True, slots=True)
class NoPlan:
    """The data do not support an answer. ``why``, and ``measure``: what would."""

    why: str
    measure: str
    law: USL | None = None


def plan(
    rate: str | float,
    measured: Sequence[Measured],
    *,
    headroom: str | float = 0.3,
    database_time: Duration | None = None,
    max_connections: int | None = None,
    reads: float = 1.0,
    replica_rate: str | float | None = None,
) -> Plan | NoPlan:
    """What ``rate`` (``"12000/s"``) takes, by the ``measured`` breakpoints, with ``headroom`` (30 %) left.

    ``database_time``: mean seconds that a request holds a database connection; ``max_connections``: as many as the
    database allows. ``replica_rate``: queries a second that one replica was measured to serve, of which a request makes
    ``reads`` (1.0).

    Raises `MisuseError` for what makes no sense.
    """
    wanted, spare = per_second(rate, "rate"), share(headroom, "headroom")
    if wanted == 0 or spare >= 1:
        raise MisuseError(f"plan: expected a rate above 0 and a headroom below 100 %, got {rate!r} and {headroom!r}")
    if type(reads) not in (int, float) or not 0 <= reads < math.inf:
        raise MisuseError(f"reads: expected a number of queries, got {reads!r}")
    if not measured:
        return NoPlan("nothing was measured", "the breakpoint with one worker, and with two, four and eight")
    law = fit(measured)
    found = _workers(wanted / (1 - spare), measured, law)
    if isinstance(found, NoPlan):
        return found
    workers, capacity, how = found
    assumptions = [how, "The requests are those that were measured, in kind, mix and size, on machines like those."]
    in_flight, pool = _in_flight(wanted, workers, measured, assumptions)
    database_pool = None
    if database_time is not None:
        held = duration(database_time, "database_time")
        database_pool = max(_LEAST_DATABASE_POOL, _pool(wanted / workers * held))
        assumptions.append(f"A request holds a database connection for {format_duration(held)}, at that rate too.")
        most = None if max_connections is None else whole_number(max_connections, "max_connections", least=1)
        if most is not None and database_pool * workers > most:
            return NoPlan(
                f"{workers} workers need {database_pool} database connections each, {database_pool * workers} in all, "
                f"and the database allows {most}",
                "the time with a pooler between them, or with fewer, larger pools",
                law,
            )
    replicas = None
    if replica_rate is not None:
        served = per_second(replica_rate, "replica_rate")
        if served == 0:
            raise MisuseError("replica_rate: expected more than 0 a second, got 0")
        replicas = math.ceil(wanted * reads / (served * (1 - spare)))
        assumptions.append(f"All {reads:g} reads of a request may go to replicas, and these share them evenly.")
    return Plan(
        rate=wanted,
        workers=workers,
        capacity=capacity,
        headroom=1 - wanted / capacity,
        in_flight=in_flight,
        pool=pool,
        database_pool=database_pool,
        database_connections=None if database_pool is None else database_pool * workers,
        replicas=replicas,
        assumptions=tuple(assumptions),
        law=law,
    )


def _workers(needed: float, measured: Sequence[Measured], law: USL | None) -> tuple[int, float, str] | NoPlan:
    """How many, what they can do, and on what that rests."""
    exact = [point for point in measured if not point.at_least]
    largest = max((point.workers for point in exact), default=1)
    enough = [point for point in measured if point.rate >= needed]
    if law is None or law.error > _WORST_FIT:
        if enough:
            point = min(enough, key=lambda one: (one.workers, -one.rate))
            many = "1 worker was" if point.workers == 1 else f"{point.workers} workers were"
            return point.workers, point.rate, f"{many} measured to do {point.rate:.0f}/s."
        more = "the breakpoint at three different numbers of workers at least, four are better"
        if law is None:
            counts = len({point.workers for point in exact})
            return NoPlan(
                f"{needed:.0f}/s is beyond what was measured, and the breakpoint is known for {counts} "
                f"number{'' if counts == 1 else 's'} of workers only",
                more,
            )
        return NoPlan(f"the scalability law misses a measured rate by {law.error:.0%}", more, law)
    most = min(largest * _REACH, math.floor(law.peak) if law.peak < math.inf else largest * _REACH)
    for workers in range(1, most + 1):
        if law.rate(workers) >= needed:
            return workers, law.rate(workers), _basis(law, workers, largest)
    if law.peak < largest * _REACH:
        best = law.rate(max(1, most))
        return NoPlan(
            f"no number of workers does {needed:.0f}/s: the most is {best:.0f}/s with {max(1, most)}, and more do less",
            "what the workers wait for each other for: a lock, a shared connection, one database",
            law,
        )
    return NoPlan(
        f"{needed:.0f}/s takes more than {most} workers, twice as many as were measured",
        f"the breakpoint with {most} workers",
        law,
    )


def _basis(law: USL, workers: int, largest: int) -> str:
    text = (
        f"Workers scale by the law that was fitted (σ = {law.contention:.4f}, κ = {law.coherence:.6f}, "
        f"misses by at most {law.error:.1%})"
    )
    return f"{text}, also beyond the {largest} that were measured." if workers > largest else f"{text}."


def _in_flight(
    wanted: float, workers: int, measured: Sequence[Measured], assumptions: list[str]
) -> tuple[float | None, int | None]:
    known = [point for point in measured if point.response_time is not None]
    if not known:
        return None, None
    nearest = min(known, key=lambda point: abs(point.workers - workers))
    seconds = float(nearest.response_time or 0)
    assumptions.append(f"A request takes {format_duration(seconds)}, as measured with {nearest.workers} workers.")
    return wanted * seconds, _pool(wanted / workers * seconds)


def _pool(load: float) -> int:
    return max(1, math.ceil(load + 2 * math.sqrt(load) - 1e-9))
