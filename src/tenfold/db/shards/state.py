"""What a sharded cluster shows of itself, in the form of `tenfold.db.state`: of its shards, its map and its reads.

A shard that is an `AsyncCluster` shows its servers as "shard/server", with all that is known of each; one that is a
plain server shows its connections. Read from any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.run import Runs


def sharded_state(
    name: str, members: Iterable[Member], map: ShardMap, runs: Runs, *, scattered: int, stale: int
) -> dict[str, Any]:
    """A sharded cluster's numbers, ready for JSON. ``primaries``: of the shards that have replicas, by shard."""
    nodes: dict[str, Any] = {}
    primaries: dict[str, str | None] = {}
    for member in members:
        shown = member.state()
        nodes |= shown["nodes"]
        if "primary" in shown:
            primaries[member.name] = shown["primary"]
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
