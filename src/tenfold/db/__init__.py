"""PostgreSQL with replicas, behind SQLAlchemy's own sessions. See `create_async_cluster`."""

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
from tenfold.db.router import RouteExplanation, Router
from tenfold.db.token import BadToken, Token, TokenKeys
from tenfold.db.transaction import RunOptions

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
    # routing
    "Catalogue",
    "RouteExplanation",
    "Router",
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
