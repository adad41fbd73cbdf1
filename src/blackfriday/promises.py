"""The table at the end: what was promised, what was measured, kept or broken. Pure: a story in, rows out."""

from __future__ import annotations

from blackfriday.story import Promise, Story

HALF = 0.5
TEN = 10
HIT_RATE = 0.9
HELD_SECONDS = 30.0


def promises(story: Story) -> list[Promise]:
    """One row a promise. A row whose act was not reached, or whose part does not exist yet, says ``not measured``."""
    return [
        _response_time(story),
        _ten_times(story),
        _hit_rate(story),
        _scales(story),
        Promise(
            promise="everything measured",
            target="burn alerts fire and clear",
            measured="not measured: the SLO alerts are not built yet",
            kept=None,
        ),
        _nothing_lost(story),
    ]


def _response_time(story: Story) -> Promise:
    promise, target = "response time down by half or more", "p95 of browsing at the same rate, -50 % or more"
    found = story.same_rate
    if found is None:
        return Promise(promise, target, "not measured", None)
    measured = (
        f"{found.before * 1e3:.1f} ms to {found.after * 1e3:.1f} ms at {found.rate:.0f}/s: "
        f"{-found.reduction:+.0%} (95 % interval {found.interval})"
    )
    return Promise(promise, target, measured, None if found.too_few else found.high <= -HALF)


def _ten_times(story: Story) -> Promise:
    promise = "ten times the traffic without degradation"
    seconds = story.ten_times.seconds if story.ten_times else HELD_SECONDS
    target = f"{story.slo} for {seconds:.0f} s at 10 × the baseline's breakpoint"
    baseline, found = story.rung("baseline"), story.ten_times
    if found is None or baseline is None or not baseline.rate:
        return Promise(promise, target, "not measured", None)
    seen = f"p95 {found.p95 * 1e3:.1f} ms, errors {found.errors:.2%}"
    measured = f"{found.rate / baseline.rate:.1f} × {baseline.rate:.0f}/s = {found.rate:.0f}/s: {seen}"
    if found.invalid:
        return Promise(promise, target, f"not measured: {found.invalid[0]}", None)
    last = story.rung("edge") or story.rung("replicas")
    if last is not None and last.rate and last.rate / baseline.rate > TEN:
        measured += f"; breaks at {last.rate / baseline.rate:.1f} ×"
    return Promise(promise, target, measured, found.held)


def _hit_rate(story: Story) -> Promise:
    promise, target = (
        "hit rate above 90 %",
        f"1 - origin loads / reads, counted at the origin, Zipf {story.zipf:g}, warmed",
    )
    found = story.ten_times
    if found is None or not found.reads:
        return Promise(promise, target, "not measured", None)
    rate = 1 - found.loads / found.reads
    return Promise(promise, target, f"{rate:.1%} of {found.reads:,} reads", rate > HIT_RATE)


def _scales(story: Story) -> Promise:
    promise, target = "scales horizontally", "1 worker to the machine's limit in a ramp, errors < 0.1 % once settled"
    found = story.scale
    if found is None:
        return Promise(promise, target, "not measured in a quick run" if story.quick else "not measured", None)
    measured = f"1 to {found.reached} of {found.most} workers, {found.low:.0f}/s to {found.high:.0f}/s"
    if not found.complete:
        return Promise(promise, target, f"not measured: the run was cut short at {measured}", None)
    if found.settled_from is None:
        measured += "; too little time was left to judge them all"
    else:
        measured += (
            f"; {found.settled_errors} of {found.settled_requests:,} requests failed once settled, "
            f"p95 {found.settled_p95 * 1e3:.1f} ms"
        )
    cut = "none cut at the end" if found.code == 0 else f"its end was not clean: exit code {found.code}"
    return Promise(promise, target, f"{measured}; {cut}", found.kept)


def _nothing_lost(story: Story) -> Promise:
    promise, target = "nothing lost", "acknowledged = stored, none oversold, no stale own write"
    found = story.integrity.get("tuned")
    if found is None:
        return Promise(promise, target, "not measured", None)
    measured = (
        f"{found.lost} of {found.acknowledged:,} orders lost, {found.oversold} products oversold, "
        f"{found.stale_own_reads} of {found.own_reads:,} own reads stale"
    )
    if found.spread:
        measured += f"; orders on {len(found.spread)} shards, {found.leaked} reservations left over"
    bad = (
        found.lost
        + found.oversold
        + found.negative_stock
        + found.miscounted
        + found.duplicates
        + found.stale_own_reads
        + found.leaked
    )
    outage = story.outage
    if outage is not None:
        failed = outage.failed_browses + outage.failed_checkouts
        measured += (
            f"; {outage.seconds:.0f} s without payments: {failed} requests failed, {outage.pending} orders pending, "
            f"{outage.never_paid} never paid"
        )
        bad += not outage.survived
    edge = story.edge
    if edge is not None:
        prices = edge.prices
        measured += (
            f"; {prices.changes} prices changed: the edge had the old one for {prices.longest:.2f} s at most "
            f"({prices.promised:.0f} s promised)"
        )
        bad += not prices.kept
    measured += "; other faults during the peak not measured"
    return Promise(promise, target, measured, bad == 0 and found.acknowledged > 0)
