"""What would become of a request: its route, its pool, the endpoints in the order of preference, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.admin.asked import head_of
from tenfold.gateway.config import choose
from tenfold.gateway.engine.users import cookie, select

if TYPE_CHECKING:
    from tenfold.gateway.engine.plan import Plan
    from tenfold.gateway.engine.pool_plan import PoolPlan
    from tenfold.gateway.engine.route_plan import RoutePlan
    from tenfold.gateway.framing import RequestHead

_CLIENT: Final = "127.0.0.1"


def explain(
    plan: Plan, method: str, url: str, headers: Mapping[str, Any] | None = None, client: str = _CLIENT
) -> dict[str, Any]:
    """What ``plan`` would do. Nothing is sent, and nothing is counted. A canary by chance is told by its weight.

    Raises `MisuseError` for what is no request.
    """
    head = head_of(method, url, headers)
    asked = {"method": method, "host": (head.host or b"").decode("latin-1"), "target": head.target.decode("latin-1")}
    if plan.dotted(head):
        return {**asked, "route": None, "answer": 400, "because": "the path has dot segments"}
    route = plan.match(head)
    if route is None:
        return {**asked, "route": None, "answer": 404, "because": "no route is for this request"}
    options = route.route
    told: dict[str, Any] = {**asked, "route": options.name}
    if route.pool is None:
        if options.redirect is not None:
            return {**told, "answer": options.redirect.status, "because": f"redirects to {options.redirect.to}"}
        return {**told, "answer": options.respond.status if options.respond else 0, "because": "answers itself"}
    route.change(head)
    pool, why = _pool(route, head, client)
    ranking = [
        {"endpoint": each.id, "score": each.score if math.isfinite(each.score) else None, "because": each.because}
        for each in pool.balancer.explain(pool.request(head, client))
    ]
    return {
        **told,
        "pool": pool.options.name,
        "because": why,
        "sent_as": head.target.decode("latin-1"),
        "edge": options.edge is not None,
        "attempts": route.attempts,
        "deadline": route.deadline,
        "pick": pool.balancer.state()["pick"],
        "endpoints": ranking,
    }


def _pool(route: RoutePlan, head: RequestHead, client: str) -> tuple[PoolPlan, str]:
    canary, pool = route.canary, route.pool
    assert pool is not None
    if canary is None or route.canary_pool is None:
        return pool, "the route's pool"
    header = None if canary.header is None else head.get(canary.header.lower().encode())
    user = None if canary.by is None else select(canary.by, head, client)
    mark = None if canary.cookie is None else cookie(head, canary.cookie)
    asked = None if header is None else header.decode("latin-1")
    choice = choose(canary, pool.options.name, 1.0 - 1e-9, header=asked, user=user, cookie=mark)
    if choice.why == "chance" or choice.mark:
        return pool, f"by chance: a share of {canary.weight:.3g} goes to the canary {canary.pool}"
    return (route.canary_pool if choice.canary else pool), f"canary by {choice.why}"
