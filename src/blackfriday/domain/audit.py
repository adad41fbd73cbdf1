"""What was promised against what is stored: lost, duplicated and oversold orders; and the way back to a full
shop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of :func:`audit`; the shop kept its word if :attr:`clean`.

    acknowledged: distinct order ids that a client was told (201).
    stored: orders in the database. May exceed ``acknowledged``: an answer can be lost where the order is not.
    lost: acknowledged ids that are not stored, or are stored without lines.
    duplicates: order ids acknowledged for more than one distinct checkout, as counted by the caller's
    repeated ids.
    oversold: products of which more was sold than there was.
    miscounted: products whose stock is not what there was minus what was sold (a lost update).
    negative: products whose stock is below zero.
    """

    acknowledged: int
    stored: int
    lost: tuple[int, ...]
    duplicates: tuple[int, ...]
    oversold: tuple[int, ...]
    miscounted: tuple[int, ...]
    negative: tuple[int, ...]

    @property
    def clean(self) -> bool:
        """True if nothing was lost, duplicated, oversold or miscounted."""
        return not (self.lost or self.duplicates or self.oversold or self.miscounted or self.negative)


async def audit(connection: asyncpg.Connection, acknowledged: Iterable[int]) -> Audit:
    """Compare the ids of acknowledged orders (one entry for each 201 of a *new* checkout) with the database.

    Run it on the primary, when no checkout is in flight: it takes one snapshot and trusts it.
    """
    told = list(acknowledged)
    distinct = set(told)
    seen: set[int] = set()
    twice: set[int] = set()
    for order in told:
        (twice if order in seen else seen).add(order)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        stored = await connection.fetchval("SELECT count(*) FROM orders")
        lost = await connection.fetch(
            "SELECT a.id FROM unnest($1::bigint[]) AS a (id) LEFT JOIN orders o ON o.id = a.id "
            "WHERE o.id IS NULL OR NOT EXISTS (SELECT 1 FROM order_line l WHERE l.order_id = o.id) "
            "ORDER BY a.id",
            sorted(distinct),
        )
        stock = await connection.fetch(
            "SELECT p.id, coalesce(s.sold, 0) > p.initial_stock AS oversold, "
            "p.initial_stock - coalesce(s.sold, 0) <> p.stock AS miscounted, p.stock < 0 AS negative "
            "FROM product p "
            "LEFT JOIN (SELECT product_id, sum(quantity) AS sold FROM order_line GROUP BY 1) s "
            "ON s.product_id = p.id "
            "WHERE p.stock < 0 OR p.initial_stock - coalesce(s.sold, 0) <> p.stock "
            "OR coalesce(s.sold, 0) > p.initial_stock ORDER BY p.id"
        )

    def having(what: str) -> tuple[int, ...]:
        return tuple(row["id"] for row in stock if row[what])

    return Audit(
        acknowledged=len(distinct),
        stored=stored,
        lost=tuple(row["id"] for row in lost),
        duplicates=tuple(sorted(twice)),
        oversold=having("oversold"),
        miscounted=having("miscounted"),
        negative=having("negative"),
    )


async def reset_orders(connection: asyncpg.Connection) -> None:
    """Forget all carts, orders and payments, and fill the shelves again; order ids start from 1 again.

    Meant for between two rungs, with no shop running on the database: a running shop's cache would not hear
    of it.
    """
    async with connection.transaction():
        await connection.execute("TRUNCATE payment, order_line, orders, cart_item RESTART IDENTITY")
        await connection.execute("UPDATE product SET stock = initial_stock WHERE stock <> initial_stock")
    await connection.execute("VACUUM (ANALYZE) product")
