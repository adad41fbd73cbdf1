"""What databases show: the `state()` of clusters and sharded clusters as metrics.

A server has a series of its own, by the name under which it was declared ("primary", "replica 0", or a shard's): there
are few, they do not come and go, and which one it is matters. What a server *is* now says ``node_role``, for names do
not change with a promotion. Worth an alert::

    max by (database) (tenfold_database_node_primary) == 0            # nobody takes the writes
    tenfold_database_replica_state{state="fresh"} == 0                # a replica gets no readers
    rate(tenfold_database_pool_timeouts_total[5m]) > 0                # a pool is too small, or held for too long
    tenfold_database_connections{state="used"} / ignoring(state) tenfold_database_connections_max > 0.9
    increase(tenfold_database_connections_lost_total[1h]) > 0         # a leak
    increase(tenfold_database_commits_unknown_total[1h]) > 0          # somebody must look

Counters and opinions are those of one process. The share of reads that replicas take::

    sum(rate(tenfold_database_reads_total{server="replica"}[5m])) / sum(rate(tenfold_database_reads_total[5m]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from tenfold.observe.table import Family, Group, Read, Sample, at, each, group_of
from tenfold.resilience.breaker import State

_ROLES: Final = ("primary", "replica", "unknown")
_LAG_STATES: Final = ("fresh", "stale", "unknown")


def _of_nodes(values: Callable[[Mapping[str, Any]], Iterable[Sample]]) -> Read:
    """What ``values`` says of each server, under the server's name."""

    def read(state: Mapping[str, Any]) -> Iterable[Sample]:
        for name, node in state.get("nodes", {}).items():
            for labels, value in values(node):
                yield (name, *labels), value

    return read


def _number(key: str) -> Read:
    """A number of each server that has one; none where nobody knows it."""
    return _of_nodes(lambda node: [] if node.get(key) is None else [((), float(node[key]))])


def _one_of(key: str, values: Iterable[str]) -> Read:
    """One series for each possible value, of which one is 1."""
    known = tuple(values)
    return _of_nodes(lambda node: [((value,), float(value == node[key])) for value in known] if key in node else [])


def _of_replicas(key: str) -> Read:
    """As `_number`, of those that are replicas now."""
    return _of_nodes(
        lambda node: [] if node.get("role") != "replica" or node[key] is None else [((), float(node[key]))]
    )


def _lag_states(node: Mapping[str, Any]) -> Iterable[Sample]:
    if node.get("role") == "primary":
        return []
    return [((state,), float(state == node["lag_state"])) for state in _LAG_STATES if "lag_state" in node]


def _connections(node: Mapping[str, Any]) -> Iterable[Sample]:
    return [((use, part), float(pool[part])) for use, pool in node["connections"].items() for part in ("used", "idle")]


def _most(node: Mapping[str, Any]) -> Iterable[Sample]:
    return [((use,), float(pool["max"])) for use, pool in node["connections"].items()]


def _primaries(state: Mapping[str, Any]) -> Iterable[Sample]:
    if "primaries" in state:  # of shards; one without replicas has no choice
        return [
            ((name,), float(name == primary))
            for shard, primary in state["primaries"].items()
            for name in state["nodes"]
            if name.startswith(f"{shard}/")
        ]
    return [((name,), float(name == state["primary"])) for name in state["nodes"]] if "primary" in state else []


def _buckets(state: Mapping[str, Any]) -> Iterable[Sample]:
    return [((shard,), float(count)) for shard, count in state.get("shards", {}).get("buckets", {}).items()]


FAMILIES: Final = (
    Family(
        "tenfold.database.node_primary",
        "",
        "gauge",
        "1 for the server that takes the writes; 0 everywhere: there is none.",
        _primaries,
        ("node",),
    ),
    Family(
        "tenfold.database.node_role",
        "",
        "gauge",
        "What a server says it is: 1 for the role it is in. Unknown: it does not answer.",
        _one_of("role", _ROLES),
        ("node", "role"),
    ),
    Family(
        "tenfold.database.replica_lag",
        "s",
        "gauge",
        "How old the state is that a replica shows; none shown where nobody knows.",
        _of_replicas("lag"),
        ("node",),
    ),
    Family(
        "tenfold.database.replica_unreplayed",
        "By",
        "gauge",
        "Bytes of log that a replica has yet to replay; none shown where nobody knows.",
        _of_replicas("unreplayed"),
        ("node",),
    ),
    Family(
        "tenfold.database.replica_state",
        "",
        "gauge",
        "Whether a replica is fresh enough for readers: 1 for the state it is in.",
        _of_nodes(_lag_states),
        ("node", "state"),
    ),
    Family(
        "tenfold.database.node_breaker",
        "",
        "gauge",
        "The breaker of a server: 1 for the state it is in.",
        _one_of("breaker", [state.value for state in State]),
        ("node", "state"),
    ),
    Family(
        "tenfold.database.node_failures",
        "{failure}",
        "counter",
        "Times that a server did not answer.",
        _number("failures"),
        ("node",),
    ),
    Family(
        "tenfold.database.generations",
        "{generation}",
        "counter",
        "Times that all connections to a server were given up because it was no longer what it had been.",
        _number("generations"),
        ("node",),
    ),
    Family(
        "tenfold.database.readers_limit",
        "{reader}",
        "gauge",
        "Readers that a server's adaptive limit allows at once.",
        _number("reader_limit"),
        ("node",),
    ),
    Family(
        "tenfold.database.connections",
        "{connection}",
        "gauge",
        "Connections that there are, in use and idle.",
        _of_nodes(_connections),
        ("node", "use", "state"),
    ),
    Family(
        "tenfold.database.connections_max",
        "{connection}",
        "gauge",
        "Connections that there may be.",
        _of_nodes(_most),
        ("node", "use"),
    ),
    Family(
        "tenfold.database.checkouts",
        "{connection}",
        "counter",
        "Connections taken from the pools.",
        _number("checkouts"),
        ("node",),
    ),
    Family(
        "tenfold.database.pool_timeouts",
        "{timeout}",
        "counter",
        "Times that somebody waited in vain for a free connection.",
        _number("pool_timeouts"),
        ("node",),
    ),
    Family(
        "tenfold.database.connections_lost",
        "{connection}",
        "counter",
        "Connections that were never given back and that the garbage collector found.",
        _number("lost"),
        ("node",),
    ),
    Family(
        "tenfold.database.elections",
        "{election}",
        "counter",
        "Times that a server became the one that takes the writes; the first is no failover.",
        at("elections"),
    ),
    Family(
        "tenfold.database.writers_waiting",
        "{writer}",
        "gauge",
        "Writers that wait for a primary.",
        at("writers_waiting"),
    ),
    Family(
        "tenfold.database.reads",
        "{read}",
        "counter",
        "Routed reads, by the kind of server that answered.",
        each("reads", replica="replica", primary="primary"),
        ("server",),
    ),
    Family(
        "tenfold.database.sent_to_primary",
        "{statement}",
        "counter",
        "Writes, doubts, and what came after them in their transactions.",
        at("sent_to_primary"),
    ),
    Family(
        "tenfold.database.reads_refused",
        "{read}",
        "counter",
        "Statements taken for reads that a replica refused; the primary ran them.",
        at("reads_refused"),
    ),
    Family(
        "tenfold.database.reads_repeated",
        "{read}",
        "counter",
        "Reads run again on another server.",
        at("reads_repeated"),
    ),
    Family(
        "tenfold.database.token_checks",
        "{check}",
        "counter",
        "Readers with a token at replicas: known to be there at once, there when asked, behind, of a timeline or "
        "system that cannot tell, or without an answer.",
        each(
            "token_checks",
            at_once="at_once",
            there="there",
            behind="behind",
            unknown="unknown",
            foreign="foreign",
            failed="failed",
        ),
        ("outcome",),
    ),
    Family(
        "tenfold.database.transactions",
        "{transaction}",
        "counter",
        "Transactions begun by run().",
        at("run", "calls"),
    ),
    Family(
        "tenfold.database.transaction_retries",
        "{try}",
        "counter",
        "Times that run() ran a function again.",
        at("run", "retries"),
    ),
    Family(
        "tenfold.database.commits_resolved",
        "{commit}",
        "counter",
        "Commits whose answer was lost and whose fate was found out.",
        at("run", "commits_resolved"),
    ),
    Family(
        "tenfold.database.commits_unknown",
        "{commit}",
        "counter",
        "Commits whose fate nobody knows.",
        at("run", "commits_unknown"),
    ),
    Family(
        "tenfold.database.buckets",
        "{bucket}",
        "gauge",
        "Buckets of the shard map that lie on a shard.",
        _buckets,
        ("shard",),
    ),
    Family(
        "tenfold.database.map_epoch",
        "",
        "gauge",
        "The version of the shard map that this process goes by.",
        at("shards", "epoch"),
    ),
    Family(
        "tenfold.database.scattered_reads",
        "{read}",
        "counter",
        "Reads that went to several shards.",
        at("shards", "scattered"),
    ),
    Family(
        "tenfold.database.stale_maps",
        "{statement}",
        "counter",
        "Times that a statement met a shard under another version of the map, before it had done anything.",
        at("shards", "stale_map"),
    ),
)


class ShowsState(Protocol):
    """A cluster: it has a name and says what state it is in."""

    @property
    def name(self) -> str: ...

    def state(self) -> dict[str, Any]: ...


def database_group(databases: Iterable[ShowsState], reader: str) -> Group:
    """What there is to show of ``databases``, which may grow. Raises `MisuseError`, in the name of ``reader``."""
    return group_of(
        "database",
        FAMILIES,
        databases,
        lambda database: database.state(),
        reader,
        'give them names: create_async_cluster(…, name="orders"), ShardedCluster(…, name="orders")',
    )
