"""What a running gateway shows of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tenfold.gateway.engine.policies import limits_state

if TYPE_CHECKING:
    from tenfold.gateway.config import Address
    from tenfold.gateway.engine.site import Site


def state_of(site: Site, addresses: Iterable[Address]) -> dict[str, Any]:
    """Counters, pools, connections and the edge, as plain values ready for JSON."""
    pools = {
        name: {
            **pool.balancer.state(),
            "queued": pool.queued,
            "connections": {
                id: {"open": len(each.connections), "idle": len(each.idle)} for id, each in pool.upstreams.items()
            },
        }
        for name, pool in site.plan.pools.items()
    }
    edge = site.edge
    stats = None if edge is None else edge.stats()
    return {
        "listen": [str(address) for address in addresses],
        "draining": site.draining,
        "clients": len(site.clients),
        "counters": site.counters.state(),
        "pools": pools,
        "limits": limits_state(site.plan),
        "edge": None if stats is None else {name: getattr(stats, name) for name in stats.__slots__},
        "log": None if site.log is None else {"written": site.log.written, "dropped": site.log.dropped},
    }
