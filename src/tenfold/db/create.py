"""How a cluster is made: `create_async_cluster`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy.engine import URL

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration
from tenfold.db.causal_read import CausalOptions
from tenfold.db.cluster import AsyncCluster
from tenfold.db.cluster_options import ClusterOptions, Pooler
from tenfold.db.urls import asyncpg_url


def create_async_cluster(
    primary: str | URL,
    replicas: Sequence[str | URL] = (),
    *,
    name: str = "database",
    pool_size: int | Literal["auto"] = 10,
    rate: str | float | None = None,
    held: Duration | None = None,
    pool_timeout: Duration = "5s",
    connect_timeout: Duration = "1s",
    statement_timeout: Duration = "30s",
    release_timeout: Duration = "2s",
    max_lag: Duration | None = "10s",
    failover_wait: Duration = "5s",
    held_writers: int = 1000,
    watch_period: Duration = "250ms",
    spill: int | None = None,
    pooler: Pooler = "auto",
    causal: CausalOptions | None = None,
    hub: Hub = EVENTS,
) -> AsyncCluster:
    """A cluster of one ``primary`` and any number of streaming ``replicas``, given by URL. Connects when
    first used; which of them is the primary is seen from then on, and may change.

    ``pool_size`` (10) connections at most in each of a server's two pools (writes, and reads); ``"auto"`` computes it
    by Little's law from ``rate`` (operations a second, ``"500/s"``) and ``held`` (how long one holds a connection,
    ``"4ms"``): ⌈λW + 2√(λW)⌉, see `connections_for`. ``pool_timeout`` (5 s) bounds the wait for a free one,
    ``connect_timeout`` (1 s) the making of one and each probe, ``statement_timeout`` (30 s) one statement,
    ``release_timeout`` (2 s) giving one back.

    ``max_lag`` (10 s): a replica further behind gets no readers until it is within half of that; None: whatever the
    lag. ``spill`` (half of ``pool_size``): how many readers at a time the primary takes over from replicas that are
    dead or too late; further ones get `ReadsRefused`.

    ``failover_wait`` (5 s): how long writers wait for a primary; ``held_writers`` (1000) of them at a time.
    ``watch_period`` (250 ms): how often each server is asked for its role and position.

    ``pooler``: ``"auto"`` finds out whether PgBouncer or its like stands in between, ``"none"`` and ``"transaction"``
    say so. Behind one, no named prepared statements are used. ``causal``: how long a reader
    with a token waits for a replica (`CausalOptions`). ``name`` ("database") is what its metrics are told apart by;
    ``hub`` gets the events (`tenfold.resilience.EVENTS` by default): `PrimaryElected`, `LagChanged` …

    Raises `MisuseError` for URLs that are not PostgreSQL's and for numbers that make no sense. Statements raise what
    SQLAlchemy raises.
    """
    if isinstance(replicas, str):
        raise MisuseError('replicas: expected a list of URLs such as ["postgresql://…"], got one text')
    options = ClusterOptions(
        pool_size=pool_size,
        rate=rate,
        held=held,
        pool_timeout=pool_timeout,
        connect_timeout=connect_timeout,
        statement_timeout=statement_timeout,
        release_timeout=release_timeout,
        max_lag=max_lag,
        failover_wait=failover_wait,
        held_writers=held_writers,
        watch_period=watch_period,
        spill=spill,
        pooler=pooler,
    )
    return AsyncCluster(
        asyncpg_url(primary, "primary"),
        [asyncpg_url(url, f"replicas[{number}]") for number, url in enumerate(replicas)],
        options,
        name=name,
        causal=causal,
        hub=hub,
    )
