"""The admin API of a gateway: look into it, change it while it runs, scrape it."""

from tenfold.gateway.admin.control import Control
from tenfold.gateway.admin.merge import merge_counters, merge_pools, merge_samples, merge_state
from tenfold.gateway.admin.names import METRICS, PREFIX, Metric, metrics_table
from tenfold.gateway.admin.samples import sample
from tenfold.gateway.admin.server import AdminServer
from tenfold.gateway.admin.workers import Here, Workers

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the server
    "AdminServer",
    # whom it speaks to
    "Control",
    "Here",
    "Workers",
    # what several say as one
    "merge_counters",
    "merge_pools",
    "merge_samples",
    "merge_state",
    # metrics
    "METRICS",
    "PREFIX",
    "Metric",
    "metrics_table",
    "sample",
]
