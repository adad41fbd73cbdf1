"""`tenfold.db` on real servers: what routing costs, whether reads with a token are stale, how short a promotion is.

`_db_routing`: the decision for a cached statement, and a single-statement read against ``engine.begin()``.
`_db_cluster`: write-then-read pairs through a cluster's sessions while replay stops and goes at random, and the time
from the order to promote to the first write. `_db_peers`, `_db_everyday` and `_db_shards`: their own numbers, each
under its name.
"""

from __future__ import annotations

from typing import Any

from bench import _db_cluster, _db_everyday, _db_peers, _db_routing, _db_shards


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers, those with a target first."""
    found = {**_db_routing.measure(quick), **_db_cluster.measure(quick)}
    first = (
        "route_overhead_us",
        "read_vs_sqlalchemy_begin",
        "stale_reads_with_token",
        "reads_on_replicas",
        "promote_to_first_write_ms",
    )
    told: dict[str, Any] = {name: found[name] for name in first} | found
    told["peers"] = _db_peers.measure(quick=quick)
    told["everyday"] = _db_everyday.measure(quick=quick)
    told["shards"] = _db_shards.measure(quick=quick)
    return told
