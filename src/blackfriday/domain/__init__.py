"""What every variant of the shop shares: tables, seed data, the HTTP contract, and the audit of what was
promised.
"""

from blackfriday.domain.audit import Audit, audit, reset_orders
from blackfriday.domain.schema import (
    TUNED_INDEXES,
    apply_indexes,
    create_order_tables,
    drop_indexes,
    present_indexes,
)
from blackfriday.domain.seed import CATEGORIES, Scale, load

__all__ = [
    # data
    "CATEGORIES",
    "TUNED_INDEXES",
    # audit
    "Audit",
    "Scale",
    "apply_indexes",
    "audit",
    "create_order_tables",
    "drop_indexes",
    "load",
    "present_indexes",
    "reset_orders",
]
