"""PostgreSQL with replicas, behind SQLAlchemy's own sessions. See `create_async_cluster`."""

from tenfold.db.cluster import AsyncCluster, create_async_cluster
from tenfold.db.node import Node

__all__ = [
    # the cluster
    "AsyncCluster",
    "Node",
    "create_async_cluster",
]
