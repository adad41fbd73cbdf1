"""The reference shop: one domain, written as most teams first write it and as the peak needs it.

``baseline`` and ``tuned`` keep one HTTP contract over one database; ``draft`` is the baseline with lazy
loading. Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blackfriday.counters import hit_rate
    from blackfriday.domain import (
        Audit,
        Scale,
        apply_indexes,
        audit,
        create_order_tables,
        drop_indexes,
        load,
        reset_orders,
    )
    from blackfriday.payment import Behaviour
    from blackfriday.processes import NotReady
    from blackfriday.settings import RUNGS, VARIANTS, Settings
    from blackfriday.shop import PaymentProcess, Shop

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # running it
    "Shop",
    "PaymentProcess",
    "Behaviour",
    "NotReady",
    "Settings",
    "VARIANTS",
    "RUNGS",
    # its data
    "Scale",
    "load",
    "create_order_tables",
    "apply_indexes",
    "drop_indexes",
    "reset_orders",
    # judging it
    "Audit",
    "audit",
    "hit_rate",
]

_HOMES = {
    "Shop": "shop",
    "PaymentProcess": "shop",
    "Behaviour": "payment",
    "NotReady": "processes",
    "Settings": "settings",
    "VARIANTS": "settings",
    "RUNGS": "settings",
    "hit_rate": "counters",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'domain')}"), name)
