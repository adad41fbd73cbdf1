"""Readers of what the other packages count, for the systems that people watch.

Nothing here is on a hot path: features keep plain counters, and a reader looks at them when it is asked.
`PoliciesCollector` and `CachesCollector` show policies and caches to Prometheus (``pip install tenfold[observe]``).
"""

from __future__ import annotations

from tenfold.observe.prometheus import CachesCollector, PoliciesCollector

__all__ = ["CachesCollector", "PoliciesCollector"]
