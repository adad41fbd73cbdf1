"""Real PostgreSQL and Valkey servers for tests, demos and workshops:

no Docker, no root, nothing left behind.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.servers.errors import (
        DiskFullError,
        MissingBinaryError,
        NotRunningError,
        PortLostError,
        ServerDiedError,
        ServersError,
        ServersTimeoutError,
        WrongArchitectureError,
    )
    from tenfold.servers.postgres import Postgres
    from tenfold.servers.topology import Topology
    from tenfold.servers.valkey import Valkey
    from tenfold.servers.valkey_cluster import ValkeyCluster
    from tenfold.servers.valkey_sentinel import ValkeySentinel

__all__ = [  # noqa: RUF022  (grouped: servers, errors)
    "Postgres",
    "Topology",
    "Valkey",
    "ValkeyCluster",
    "ValkeySentinel",
    "DiskFullError",
    "MissingBinaryError",
    "NotRunningError",
    "PortLostError",
    "ServerDiedError",
    "ServersError",
    "ServersTimeoutError",
    "WrongArchitectureError",
]


# Loaded when first asked for: the keeper, which is started with every run, needs two small modules of this
# package.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = {
        "Postgres": "postgres",
        "Topology": "topology",
        "Valkey": "valkey",
        "ValkeyCluster": "valkey_cluster",
        "ValkeySentinel": "valkey_sentinel",
    }
    return getattr(importlib.import_module(f"{__name__}.{places.get(name, 'errors')}"), name)
