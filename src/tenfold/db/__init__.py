"""PostgreSQL with replicas, behind SQLAlchemy's own sessions: `create_async_cluster`; and cut into shards:
`ShardedCluster`, with the rest of `tenfold.db.shards`.

The everyday tools are modules of their own: `tenfold.db.keyset`, `dataloader`, `bulk`, `hot_rows`, `advisory`,
`timeouts` and `tags`. Needs ``pip install tenfold[db]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import asyncpg  # noqa: F401 - see whether it is there
    import sqlalchemy.ext.asyncio  # noqa: F401 - it asks for greenlet
except ImportError as error:
    raise ModuleNotFoundError(
        "tenfold.db needs SQLAlchemy 2.1 and asyncpg; install them with `pip install 'tenfold[db]'` "
        f"({str(error).splitlines()[0]})",
        name=error.name,
    ) from error

from tenfold.db.causal_asgi import CausalityMiddleware, CookieOptions
from tenfold.db.causal_read import CausalOptions
from tenfold.db.causality import Causality, causality
from tenfold.db.choose import Choice, Want
from tenfold.db.classify import Catalogue, Verdict, classify
from tenfold.db.cluster import AsyncCluster
from tenfold.db.cluster_errors import (
    CommitUnknown,
    DatabaseClusterError,
    NoPrimary,
    PoolExhausted,
    ReadsRefused,
    RetriesExhausted,
)
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.create import create_async_cluster
from tenfold.db.happenings import GenerationDropped, LagChanged, PrimaryElected, PrimaryRefused, RoleChanged
from tenfold.db.idempotency import KeyReused, create_table, once, prune
from tenfold.db.node import Node
from tenfold.db.pool_size import connections_for
from tenfold.db.position import Position
from tenfold.db.refusals import ReplicaRefused
from tenfold.db.route import AtLeast, Stale
from tenfold.db.route_explanation import RouteExplanation
from tenfold.db.router import Router
from tenfold.db.token import BadToken, Token, TokenKeys
from tenfold.db.transaction import RunOptions

if TYPE_CHECKING:
    from tenfold.db.shards import ShardedCluster

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the cluster
    "AsyncCluster",
    "Choice",
    "ClusterOptions",
    "Node",
    "RunOptions",
    "Want",
    "connections_for",
    "create_async_cluster",
    # shards
    "ShardedCluster",
    # routing
    "AtLeast",
    "Catalogue",
    "RouteExplanation",
    "Router",
    "Stale",
    "Verdict",
    "classify",
    # read your writes
    "BadToken",
    "CausalOptions",
    "Causality",
    "CausalityMiddleware",
    "CookieOptions",
    "Position",
    "Token",
    "TokenKeys",
    "causality",
    # idempotency
    "KeyReused",
    "create_table",
    "once",
    "prune",
    # events
    "GenerationDropped",
    "LagChanged",
    "PrimaryElected",
    "PrimaryRefused",
    "ReplicaRefused",
    "RoleChanged",
    # errors
    "CommitUnknown",
    "DatabaseClusterError",
    "NoPrimary",
    "PoolExhausted",
    "ReadsRefused",
    "RetriesExhausted",
]


def __getattr__(name: str) -> Any:
    """`ShardedCluster` is loaded when asked for: who has no shards does not pay for them."""
    if name == "ShardedCluster":
        from tenfold.db.shards import ShardedCluster

        return ShardedCluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
