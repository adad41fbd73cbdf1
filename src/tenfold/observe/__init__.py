"""Readers of what the other packages count, for the systems that people watch.

Nothing here is on a hot path: features keep plain counters, and a reader looks at them when it is asked.
`PoliciesCollector`, `CachesCollector` and `BalancersCollector` show policies, caches and balancers to Prometheus,
`instrument_policies`, `instrument_caches` and `instrument_balancers` to OpenTelemetry; both from one table of metrics
(``pip install tenfold[observe]``).
"""

from __future__ import annotations

from tenfold.observe.otel import instrument_balancers, instrument_caches, instrument_policies
from tenfold.observe.prometheus import BalancersCollector, CachesCollector, PoliciesCollector

__all__ = [
    # Prometheus
    "BalancersCollector",
    "CachesCollector",
    "PoliciesCollector",
    # OpenTelemetry
    "instrument_balancers",
    "instrument_caches",
    "instrument_policies",
]
