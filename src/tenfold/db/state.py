"""What a cluster shows of itself: plain numbers, for a person, a dashboard or `tenfold.observe`.

Read from any thread, also while a loop works: single integers and references, so that numbers of one look may lie a
few microseconds apart. A process that uses a cluster from several event loops has servers in each; connections and
what is counted are summed, and what is *seen* (role, lag) is that of the loop that looked last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from tenfold.db.causal_read import CausalCounters
from tenfold.db.node import Node
from tenfold.db.router import Router
from tenfold.db.transaction import Runner
from tenfold.db.watch import Watch

_SUMMED: Final = ("checkouts", "pool_timeouts", "lost", "failures", "generations")


def cluster_state(
    name: str,
    loops: Sequence[tuple[Sequence[Node], Watch]],
    router: Router,
    tokens: CausalCounters,
    runner: Runner,
) -> dict[str, Any]:
    """A cluster's numbers, ready for JSON; ``loops``: what each event loop has of it."""
    newest = max(loops, key=lambda one: max(node.seen.at for node in one[0]), default=None)
    latest = None if newest is None else newest[1]
    return {
        "name": name,
        "primary": None if latest is None else latest.election.winner,
        "elections": 0 if latest is None else latest.elections,
        "writers_waiting": sum(watch.waiting for _, watch in loops),
        "nodes": _nodes(nodes for nodes, _ in loops),
        "reads": {"replica": router.reads_on_replicas, "primary": router.reads_on_primary},
        "sent_to_primary": router.sent_to_primary,
        "reads_refused": router.refused,
        "reads_repeated": router.repeated,
        "catalogue_error": router.catalogue_error,
        "token_checks": asdict(tokens),
        "run": {
            "calls": runner.runs,
            "retries": runner.retries,
            "commits_resolved": runner.resolved,
            "commits_unknown": runner.unknown,
        },
    }


def pool_state(engine: AsyncEngine | None, size: int) -> dict[str, int]:
    """Connections of one pool: in use, idle, and how many there may be. An engine that is not made yet has none."""
    if engine is None:
        return {"used": 0, "idle": 0, "max": size}
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return {"used": pool.checkedout(), "idle": max(0, pool.checkedin()), "max": size}


def node_state(node: Node) -> dict[str, Any]:
    """One server as one event loop sees it. ``lag`` in seconds and ``unreplayed`` in bytes: None where nobody knows;
    ``shown`` in words.
    """
    seen, account = node.seen, node.account
    size = int(node.options.pool_size)
    return {
        "role": seen.role,
        "refused": node.refused,
        "stranger": bool(node.stranger),
        "lag": seen.lag,
        "lag_state": seen.lag_state,
        "unreplayed": seen.lag_bytes,
        "shown": None if node.shown is None else str(node.shown),
        "breaker": node.circuit.current.value,
        "reader_limit": node.places,
        "pooler": node.pooled,
        "connections": {
            "write": pool_state(node.made(write=True), size),
            "read": pool_state(node.made(write=False), size),
        },
        "checkouts": account.checkouts,
        "pool_timeouts": account.timeouts,
        "lost": account.lost,
        "failures": node.failures,
        "generations": node.generation,
        "last_error": node.last_error,
    }


def _nodes(loops: Iterable[Sequence[Node]]) -> dict[str, dict[str, Any]]:
    """All servers by name, over all loops."""
    found: dict[str, dict[str, Any]] = {}
    newest: dict[str, float] = {}
    for nodes in loops:
        for node in nodes:
            state = node_state(node)
            known = found.get(node.name)
            if known is None:
                found[node.name], newest[node.name] = state, node.seen.at
                continue
            if node.seen.at >= newest[node.name]:
                found[node.name], newest[node.name] = _joined(state, known), node.seen.at
            else:
                found[node.name] = _joined(known, state)
    return found


def _joined(seen: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What is seen as in the first, what is counted as in both."""
    pools = {
        use: {part: number + other["connections"][use][part] for part, number in pool.items()}
        for use, pool in seen["connections"].items()
    }
    return seen | {name: seen[name] + other[name] for name in _SUMMED} | {"connections": pools}
