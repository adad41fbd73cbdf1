"""What was promised against what is stored: lost, duplicated and oversold orders; and the way back to a full
shop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of :func:`audit`; the shop kept its word if :attr:`clean`.

    acknowledged: distinct order ids that a client was told (201).
    stored: orders in the databases. May exceed ``acknowledged``: an answer can be lost where the order is not.
    lost: acknowledged ids that are not stored, or are stored without lines.
    duplicates: order ids acknowledged for more than one distinct checkout, as counted by the caller's
    repeated ids; and orders or keys that are stored in two places.
    oversold: products of which more was sold than there was.
    miscounted: products whose stock is not what there was minus what was sold (a lost update).
    negative: products whose stock is below zero.
    leaked: reservations of goods for which no order was written and which were not given back.
    spread: how many of the stored orders lie on each shard.
    """

    acknowledged: int
    stored: int
    lost: tuple[int, ...]
    duplicates: tuple[int, ...]
    oversold: tuple[int, ...]
    miscounted: tuple[int, ...]
    negative: tuple[int, ...]
    leaked: int = 0
    spread: tuple[int, ...] = ()

    @property
    def clean(self) -> bool:
        """True if nothing was lost, duplicated, oversold, miscounted or leaked."""
        bad = self.lost or self.duplicates or self.oversold or self.miscounted or self.negative or self.leaked
        return not bad


_ORDERS = (
    "SELECT o.id, o.customer_id, o.idempotency_key, "
    "EXISTS (SELECT 1 FROM order_line l WHERE l.order_id = o.id) AS whole FROM orders o"
)
_SOLD = "SELECT product_id, sum(quantity)::bigint AS sold FROM order_line GROUP BY 1"
_STOCK = """
SELECT p.id, coalesce(s.sold, 0) > p.initial_stock AS oversold,
    p.initial_stock - coalesce(s.sold, 0) <> p.stock AS miscounted, p.stock < 0 AS negative
FROM product p LEFT JOIN unnest($1::integer[], $2::bigint[]) AS s (product_id, sold) ON s.product_id = p.id
WHERE p.stock < 0 OR p.initial_stock - coalesce(s.sold, 0) <> p.stock OR coalesce(s.sold, 0) > p.initial_stock
ORDER BY p.id"""


async def audit(
    connection: asyncpg.Connection, acknowledged: Iterable[int | str], shards: Sequence[asyncpg.Connection] = ()
) -> Audit:
    """Compare the ids of acknowledged orders (one entry for each 201 of a *new* checkout) with the databases: the
    primary, and the ``shards`` that hold orders.

    Run it when no checkout is in flight and no reservation is waiting: it takes one snapshot of each database, one
    after the other, and trusts them.
    """
    told = Counter(map(int, acknowledged))
    whole: set[int] = set()
    ids: Counter[int] = Counter()
    keys: Counter[tuple[int, str]] = Counter()
    owner: dict[tuple[int, str], int] = {}
    sold: Counter[int] = Counter()
    spread = []
    for place in (*shards, connection):
        async with place.transaction(isolation="repeatable_read", readonly=True):
            rows = await place.fetch(_ORDERS)
            for row in rows:
                key = row["customer_id"], row["idempotency_key"]
                ids[row["id"]] += 1
                keys[key] += 1
                owner[key] = row["id"]
                if row["whole"]:
                    whole.add(row["id"])
            for row in await place.fetch(_SOLD):
                sold[row["product_id"]] += row["sold"]
            spread.append(len(rows))
            if place is connection:
                leaked = await place.fetchval("SELECT count(*) FROM reservation")
                stock = await place.fetch(_STOCK, list(sold), list(sold.values()))

    def having(what: str) -> tuple[int, ...]:
        return tuple(row["id"] for row in stock if row[what])

    twice = {order for counted in (told, ids) for order, times in counted.items() if times > 1}
    twice |= {owner[key] for key, times in keys.items() if times > 1}
    return Audit(
        acknowledged=len(told),
        stored=sum(spread),
        lost=tuple(sorted(told.keys() - whole)),
        duplicates=tuple(sorted(twice)),
        oversold=having("oversold"),
        miscounted=having("miscounted"),
        negative=having("negative"),
        leaked=leaked,
        spread=tuple(spread[:-1]),
    )


async def reset_orders(connection: asyncpg.Connection, shards: Sequence[asyncpg.Connection] = ()) -> None:
    """Forget all carts, orders and payments, and fill the shelves again; order ids of the primary start from 1 again.

    Meant for between two rungs, with no shop running on the databases: a running shop's cache would not hear
    of it.
    """
    async with connection.transaction():
        await connection.execute("TRUNCATE reservation, payment, order_line, orders, cart_item RESTART IDENTITY")
        await connection.execute("UPDATE product SET stock = initial_stock WHERE stock <> initial_stock")
    for shard in shards:
        await shard.execute("TRUNCATE payment, order_line, orders")
    await connection.execute("VACUUM (ANALYZE) product")
