"""Carts, checkout and orders of the tuned shop: own data, always on the primary, one statement each."""

from __future__ import annotations

import asyncpg

from blackfriday.charge import Payments
from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import documents, sql
from blackfriday.tuned.catalogue import Catalogue
from blackfriday.tuned.edge import Edge
from blackfriday.tuned.origin import Origin

ATTEMPTS = 3  # of a checkout that PostgreSQL chose as the victim of a deadlock


class Till:
    """What a customer does with a cart."""

    def __init__(
        self, origin: Origin, catalogue: Catalogue, payments: Payments, counters: Counters, edge: Edge | None = None
    ) -> None:
        self.origin = origin
        self.catalogue = catalogue
        self.payments = payments
        self.counters = counters
        self.edge = edge

    async def add(self, customer: int, product: int, quantity: int) -> bytes:
        """Put a product into the cart; 401, 404."""
        rows = await self.origin.fetch(sql.CART_ADD, customer, product, quantity)
        if rows[0]["buyer"] is None:
            contract.no_customer(customer)
        if rows[0]["known"] is None:
            contract.no_product(product)
        return documents.cart(rows)

    async def cart(self, customer: int) -> bytes:
        """The cart; 401."""
        rows = await self.origin.fetch(sql.CART, customer)
        if not rows:
            contract.no_customer(customer)
        return documents.cart(rows)

    async def order(self, number: int, customer: int) -> bytes:
        """One of the customer's orders; 401, 404."""
        rows = await self.origin.fetch(sql.ORDER, number, customer)
        if not rows:
            contract.no_customer(customer)
        if rows[0]["order_id"] is None:
            contract.no_order(number)
        return documents.order(rows)

    async def checkout(self, customer: int, key: str) -> bytes:
        """Turn the cart into an order and ask for the money; 401, 409.

        The stock figures are out of the caches before the answer leaves, so the customer's next page shows
        the sale.
        """
        row = await self._place(customer, key)
        if row is None:
            return await self._replay(customer, key)
        await self.catalogue.sold(row["sold"])
        if self.edge is not None:
            await self.edge.sold(row["sold"], row["reworded"] or ())
        self.counters.add("checkouts")
        order, total = row["order_id"], row["total_cents"]
        reference = await self.payments.charge(f"{customer}-{key}", total)
        if reference is None:
            self.counters.add("payment_failures")
            return documents.receipt(order, "payment_pending", total)
        await self.origin.pool.execute(sql.PAID, order, reference, total)
        return documents.receipt(order, "paid", total)

    async def _place(self, customer: int, key: str) -> asyncpg.Record | None:
        """The row of a placed order; None if there is an order of this key, or nothing to order. 409 if sold
        out.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self.origin.pool.acquire() as connection:
                    transaction = connection.transaction()
                    await transaction.start()
                    row = None
                    try:
                        row = await connection.fetchrow(sql.CHECKOUT, customer, key)
                    finally:
                        placed = row is not None and row["order_id"] is not None and row["wanted"] == row["sold"]
                        await (transaction.commit() if placed else transaction.rollback())
            except asyncpg.DeadlockDetectedError:
                if attempt == ATTEMPTS:
                    raise
                continue
            if placed:
                return row
            break
        short = set(row["wanted"] or ()) - set(row["sold"] or ()) if row is not None else None
        if short and await self._existing(customer, key) is None:
            contract.sold_out(min(short))
        return None

    async def _existing(self, customer: int, key: str) -> asyncpg.Record | None:
        rows = await self.origin.fetch(sql.EXISTING, customer, key)
        if not rows:
            contract.no_customer(customer)
        return rows[0] if rows[0]["order_id"] is not None else None

    async def _replay(self, customer: int, key: str) -> bytes:
        row = await self._existing(customer, key)
        if row is None:
            contract.empty_cart()
        return documents.receipt(row["order_id"], row["status"], row["total_cents"])
