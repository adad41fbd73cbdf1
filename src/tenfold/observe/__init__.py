"""Readers of what the other packages count, for the systems that people watch.

Nothing here is on a hot path: features keep plain counters, and a reader looks at them when it is asked.
`PoliciesCollector` and `CachesCollector` show policies and caches to Prometheus, `instrument_policies` and
`instrument_caches` to OpenTelemetry; both from one table of metrics (``pip install tenfold[observe]``).
"""

from __future__ import annotations

from tenfold.observe.otel import instrument_caches, instrument_policies
from tenfold.observe.prometheus import CachesCollector, PoliciesCollector

__all__ = [
    # Prometheus
    "CachesCollector",
    "PoliciesCollector",
    # OpenTelemetry
    "instrument_caches",
    "instrument_policies",
]
