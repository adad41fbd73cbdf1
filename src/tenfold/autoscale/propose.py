"""From one metric to a number of workers, as the Kubernetes Horizontal Pod Autoscaler (HPA) does it.

Theory (Kubernetes documentation, "Horizontal Pod Autoscaling: algorithm details", and the controller's replica
calculator). The wish is::

    ceil(workers × measured / target),   and the present number while measured / target lies within the tolerance

What is not known is taken for the worse: a worker without a sample counts as one at its target (for a share of the
request: at all of it) when the rest asks for fewer workers, and as idle when the rest asks for more; a worker that is
not ready yet counts as idle when the rest asks for more, and not at all otherwise. Where these guesses turn the
direction round, nothing changes. Workers that stop or have failed do not count.

The controller reckons in whole thousandths, and in whole percent for shares of a request, both rounded;
the same is done here, so that an exported policy decides the same at the edges too.

One deliberate difference: the controller counts a worker that is ready and stopping for metrics of the kind
``"value"``; the documentation says it does not, and here it does not.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from tenfold.autoscale.metrics import (
    PerWorker,
    Proposal,
    Readiness,
    Reading,
    Target,
    Tolerance,
    Total,
    Unavailable,
    Worker,
    thousandths,
)


def propose(
    target: Target,
    reading: Reading,
    workers: Collection[Worker],
    current: int,
    *,
    now: float,
    tolerance: Tolerance,
    readiness: Readiness,
) -> Proposal | Unavailable:
    """What ``target`` asks for, where ``current`` workers are wanted at present."""
    if isinstance(reading, Unavailable):
        return reading
    active = [worker for worker in workers if worker.phase in ("running", "pending")]
    if target.per_worker:
        if not isinstance(reading, PerWorker):
            return Unavailable("expected a value of each worker, got one for all")
        return _from_workers(target, reading, active, current, now, tolerance, readiness)
    if not isinstance(reading, Total):
        return Unavailable("expected one value for all workers, got one of each")
    if not math.isfinite(reading.value) or reading.value < 0:
        return Unavailable(f"measured {reading.value!r}, which is no amount")
    measured = thousandths(reading.value)
    if target.kind == "average":
        return _average(target, measured, len(active), tolerance)
    if not active:
        return Unavailable("there is no worker")
    ratio = measured / target.goal
    if tolerance.holds(ratio):
        return _kept(target, ratio, current)
    ready = sum(1 for worker in active if worker.phase == "running" and worker.ready)
    return Proposal(target.name, math.ceil(ratio * ready), ratio, _times(ratio, ready))


def _average(target: Target, measured: int, workers: int, tolerance: Tolerance) -> Proposal:
    ratio = measured / (target.goal * workers) if workers else math.inf
    if tolerance.holds(ratio):
        return _kept(target, ratio, workers)
    return Proposal(target.name, math.ceil(measured / target.goal), ratio, f"{measured / target.goal:.3g} × the target")


def _from_workers(
    target: Target,
    reading: PerWorker,
    active: Collection[Worker],
    current: int,
    now: float,
    tolerance: Tolerance,
    readiness: Readiness,
) -> Proposal | Unavailable:
    known: list[int] = []
    missing = unready = 0
    for worker in active:
        sample = reading.samples.get(worker.name)
        if worker.phase == "pending":
            unready += 1
        elif sample is None or not math.isfinite(sample.value) or sample.value < 0:
            missing += 1
        elif target.name == "cpu" and not readiness.counts(worker, sample, now):
            unready += 1
        else:
            known.append(thousandths(sample.value))
    if not known:
        return Unavailable("no worker that counts was measured" if active else "there is no worker")
    ratio = _ratio(target, known)
    idle = unready if ratio > 1.0 else 0
    if not idle and not missing:
        if tolerance.holds(ratio):
            return _kept(target, ratio, current)
        return Proposal(target.name, math.ceil(ratio * len(known)), ratio, _times(ratio, len(known)))
    if ratio < 1.0:
        known += [_full(target)] * missing
    elif ratio > 1.0:
        known += [0] * (missing + idle)
    guessed = _ratio(target, known)
    why = f"{ratio:.3g} × the target, {guessed:.3g} × with guesses for {missing} not measured and {idle} not ready"
    if tolerance.holds(guessed) or (guessed - 1.0) * (ratio - 1.0) < 0:
        return Proposal(target.name, current, guessed, f"{why}: no reason for a change")
    wished = math.ceil(guessed * len(known))
    if (guessed < 1.0 and wished > current) or (guessed > 1.0 and wished < current):
        return Proposal(target.name, current, guessed, f"{why}: no reason for a change")
    return Proposal(target.name, wished, guessed, why)


def _ratio(target: Target, known: Collection[int]) -> float:
    if target.kind == "utilization":
        return (sum(known) * 100 // (thousandths(float(target.request or 0)) * len(known))) / target.goal
    return (sum(known) // len(known)) / target.goal


def _full(target: Target) -> int:
    """What a worker that was not measured is taken to use when the others ask for fewer."""
    if target.kind == "utilization":
        return thousandths(float(target.request or 0)) * max(100, target.goal) // 100
    return target.goal


def _kept(target: Target, ratio: float, workers: int) -> Proposal:
    return Proposal(target.name, workers, ratio, f"{ratio:.3g} × the target, within the tolerance")


def _times(ratio: float, workers: int) -> str:
    return f"{ratio:.3g} × the target with {workers} workers"
