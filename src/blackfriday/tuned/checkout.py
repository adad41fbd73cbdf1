"""Carts, checkout and orders of the tuned shop: a customer's own data, one statement each where one database has it."""

from __future__ import annotations

from blackfriday.charge import Payments
from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import documents, sql
from blackfriday.tuned.orders import Orders, Told
from blackfriday.tuned.origin import Origin


class Till:
    """What a customer does with a cart."""

    def __init__(
        self,
        origin: Origin,
        orders: Orders,
        payments: Payments,
        counters: Counters,
        told: Told,
    ) -> None:
        self.origin = origin
        self.orders = orders
        self.payments = payments
        self.counters = counters
        self.told = told

    async def add(self, customer: int, product: int, quantity: int) -> bytes:
        """Put a product into the cart; 401, 404."""
        rows = await self.origin.write(sql.CART_ADD, customer, product, quantity)
        if rows[0]["buyer"] is None:
            contract.no_customer(customer)
        if rows[0]["known"] is None:
            contract.no_product(product)
        return documents.cart(rows)

    async def cart(self, customer: int) -> bytes:
        """The cart; 401."""
        rows = await self.origin.read(sql.CART, customer)
        if not rows:
            contract.no_customer(customer)
        return documents.cart(rows)

    async def order(self, number: int, customer: int) -> bytes:
        """One of the customer's orders; 401, 404."""
        rows = await self.orders.order(number, customer)
        if not rows:
            contract.no_order(number)
        return documents.order(rows)

    async def checkout(self, customer: int, key: str) -> bytes:
        """Turn the cart into an order and ask for the money; 401, 409, 503.

        The stock figures are out of the caches before the answer leaves, so the customer's next page shows
        the sale.
        """
        placed = await self.orders.place(customer, key)
        if placed is None:
            return await self._replay(customer, key)
        await self.told(placed.sold, placed.reworded)
        if not await self.orders.store(customer, key, placed):
            return await self._replay(customer, key)
        order, total = placed.order, placed.total_cents
        reference = await self.payments.charge(f"{customer}-{key}", total)
        self.counters.add("checkouts")
        if reference is None:
            self.counters.add("payment_failures")
            return documents.receipt(order, "payment_pending", total)
        await self.orders.paid(order, customer, reference, total)
        return documents.receipt(order, "paid", total)

    async def _replay(self, customer: int, key: str) -> bytes:
        row = await self.orders.existing(customer, key)
        if row is None:
            contract.empty_cart()
        return documents.receipt(row["order_id"], row["status"], row["total_cents"])
