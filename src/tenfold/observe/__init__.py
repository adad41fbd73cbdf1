"""Readers of what the other packages count, for the systems that people watch.

Nothing here is on a hot path: features keep plain counters, and a reader looks at them when it is asked.
`PoliciesCollector`, `CachesCollector`, `BalancersCollector`, `DatabasesCollector` and `OutboxesCollector` show
policies, caches, balancers, databases and outboxes to Prometheus; `instrument_policies`, `instrument_caches`,
`instrument_balancers`, `instrument_databases` and `instrument_outboxes` show them to OpenTelemetry; both from one table
of metrics (``pip install tenfold[observe]``).
"""

from __future__ import annotations

from tenfold.observe.otel import (
    instrument_balancers,
    instrument_caches,
    instrument_databases,
    instrument_outboxes,
    instrument_policies,
)
from tenfold.observe.prometheus import (
    BalancersCollector,
    CachesCollector,
    DatabasesCollector,
    OutboxesCollector,
    PoliciesCollector,
)

__all__ = [
    # Prometheus
    "BalancersCollector",
    "CachesCollector",
    "DatabasesCollector",
    "OutboxesCollector",
    "PoliciesCollector",
    # OpenTelemetry
    "instrument_balancers",
    "instrument_caches",
    "instrument_databases",
    "instrument_outboxes",
    "instrument_policies",
]
