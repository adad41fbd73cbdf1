"""What was found out, in sentences that the console and the report share. Pure: a part of a story in, lines out."""

from __future__ import annotations

import math

from blackfriday.story import EdgeOutcome, Integrity, Outage, ScaleOutcome, TenTimes


def at_the_edge(found: EdgeOutcome) -> tuple[str, str, str]:
    """What the edge answered, what a request costs with and without it, and how old a price was."""
    direct, through, prices = found.direct, found.through, found.prices
    forgotten = prices.confirmed_within * 1e3
    if prices.late:
        old = f"{prices.late} of {prices.reads:,} reads after that had the old one, for {prices.longest:.2f} s at most"
    else:
        old = f"none of {prices.reads:,} reads after that had the old one"
    return (
        f"the edge answered {found.share:.1%} of {found.asked:,} requests for public pages without the shop",
        f"processor time a request at {found.rate:.0f}/s: workers {direct.workers * 1e6:.0f} µs alone; behind the "
        f"gateway workers {through.workers * 1e6:.0f} + gateway {through.gateway * 1e6:.0f} µs; p95 "
        f"{ms(direct.p95)} alone, {ms(through.p95)} behind it",
        f"{prices.changes} prices changed, forgotten everywhere {forgotten:.0f} ms after the commit at the latest; "
        f"{old} ({prices.promised:.0f} s promised)",
    )


def on_replicas(found: TenTimes) -> str:
    """Who answered the statements that a replica may answer."""
    return (
        f"replicas answered {found.replica_reads:,} statements, {found.token_reads:,} of them only once they showed "
        f"what the customer had written; the primary took over {found.primary_reads:,}"
    )


def over_shards(found: Integrity) -> str:
    """Where the orders lie."""
    return (
        f"orders by customer on {len(found.spread)} shards: {', '.join(f'{number:,}' for number in found.spread)}; "
        f"{found.leaked} reservations of goods without an order"
    )


def without_payments(found: Outage) -> str:
    """What customers noticed of the outage."""
    back = "no order" if found.paid_again is None else f"{found.paid_again:.1f} s later the next order"
    return (
        f"payments frozen for {found.seconds:.0f} s: {found.failed_browses} of {found.browsed:,} browses and "
        f"{found.failed_checkouts} checkouts failed, {found.pending} of {found.checkouts} orders pending; {back} "
        f"was paid at once, {found.never_paid} stayed unpaid"
    )


def under_serve(found: ScaleOutcome) -> list[str]:
    """When workers came, what became of the requests, and how it ended."""
    lines = [
        f"tenfold serve --workers 1..{found.most} --target-cpu {found.target_cpu:.0%} --target-inflight "
        f"{found.target_in_flight:g}, {found.low:.0f}/s to {found.high:.0f}/s in {found.seconds:.0f} s"
    ]
    for up in found.ups:
        then = "never all of them ready" if up.ready is None else f"ready at {up.ready:.1f} s"
        lines.append(f"{up.workers} workers wished at {up.at:.1f} s, {then}")
    if not found.ups:
        lines.append("no more workers were wished than one")
    lines.append(
        f"{found.errors} of {found.requests:,} requests failed, {found.refused} of them answered 503; "
        f"p95 {ms(found.p95)}"
    )
    if found.settled_from is not None:
        lines.append(
            f"from {found.settled_from:.0f} s on, with all of them settled: {found.settled_errors} of "
            f"{found.settled_requests:,} failed; p95 {ms(found.settled_p95)}"
        )
    cut = "no request was cut" if found.code == 0 else "requests were cut, or it did not end by itself"
    lines.append(f"drained with exit code {found.code}: {cut}")
    return lines


def ms(seconds: float) -> str:
    """Seconds as milliseconds; infinite ones say that too many requests failed."""
    return f"{seconds * 1e3:.1f} ms" if math.isfinite(seconds) else "none: failures"
