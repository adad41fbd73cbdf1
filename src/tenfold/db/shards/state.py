"""What a sharded cluster shows of itself, in the form of `tenfold.db.state`: of its shards, its map and its reads.

A shard that is an `AsyncCluster` shows its servers as "shard/server", with all that is known of each; one that is a
plain server shows its connections. Read from any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy.pool import QueuePool

from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.run import Runs
from tenfold.db.state import pool_state


def sharded_state(
    name: str, members: Iterable[Member], map: ShardMap, runs: Runs, *, scattered: int, stale: int
) -> dict[str, Any]:
    """A sharded cluster's numbers, ready for JSON. ``primaries``: of the shards that have replicas, by shard."""
    nodes: dict[str, Any] = {}
    primaries: dict[str, str | None] = {}
    for member in members:
        if member.cluster is None:
            nodes[member.name] = _plain(member)
            continue
        shown = member.cluster.state()
        nodes |= {f"{member.name}/{server}": node for server, node in shown["nodes"].items()}
        primaries[member.name] = None if shown["primary"] is None else f"{member.name}/{shown['primary']}"
    return {
        "name": name,
        "primaries": primaries,
        "nodes": nodes,
        "shards": {
            "epoch": map.epoch,
            "buckets": dict(Counter(map.shards)),
            "scattered": scattered,
            "stale_map": stale,
        },
        "run": {
            "calls": runs.calls,
            "retries": runs.retries,
            "commits_resolved": runs.resolved,
            "commits_unknown": runs.unknown,
        },
    }


def _plain(member: Member) -> dict[str, Any]:
    pool = member.engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return {"pooler": member.pooled, "connections": {"all": pool_state(member.engine, pool.size())}}
