"""The limits of a whole plan: what they say of themselves, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.gateway.engine.plan import Plan


def limits_state(plan: Plan) -> dict[str, Any]:
    """Rate limits by route, adaptive limits by pool, sticky cookies set by pool: plain values, ready for JSON."""
    adaptive: dict[str, list[Any]] = {}
    for (pool, _), places in plan.concurrency.of.items():
        adaptive.setdefault(pool, []).append(places.state())
    return {
        "rate": {name: each.limit.state() for name, each in plan.routes.items() if each.limit is not None},
        "adaptive": adaptive,
        "sticky": {name: each.sticky.renewed for name, each in plan.pools.items() if each.sticky is not None},
    }


async def close_limits(old: Plan, new: Plan | None = None) -> None:
    """Close the connections to stores of rate limits that ``new`` has not taken over."""
    kept = set() if new is None else {id(each.limit.meter) for each in new.routes.values() if each.limit is not None}
    for each in old.routes.values():
        if each.limit is not None and id(each.limit.meter) not in kept:
            await each.limit.aclose()
