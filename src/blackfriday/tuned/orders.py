"""Orders on the primary: the whole checkout is one statement there. `sharded` keeps them elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from blackfriday.domain import contract
from blackfriday.tuned import sql
from blackfriday.tuned.origin import Origin, Row, Rows

Lines = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Products, quantities, prices."""
Told = Callable[[Sequence[int], Sequence[int]], Awaitable[None]]
"""To be told of every committed change of stock: of which products, and on which of them the word in lists changes."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What a checkout has taken from the shelves: ``sold`` and ``reworded`` as `Told` takes them."""

    order: int
    total_cents: int
    sold: Sequence[int]
    reworded: Sequence[int] = ()
    lines: Lines = ((), (), ())


class Orders(Protocol):
    """Where orders are kept. Used as ``async with``: there may be work in the background."""

    away: tuple[type[Exception], ...]
    """What is raised when a server is away."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def place(self, customer: int, key: str) -> Placed | None:
        """Take the cart's goods from the shelves; None if there is an order of this key, or nothing to order. 409 if
        sold out.
        """
        ...

    async def store(self, customer: int, key: str, placed: Placed) -> bool:
        """See that the order is stored. False: this key had another already, and what was taken is back. 503 if it
        cannot be stored now.
        """
        ...

    async def existing(self, customer: int, key: str) -> Row | None:
        """The order of this key (``order_id``, ``status``, ``total_cents``); 401."""
        ...

    async def order(self, number: int, customer: int) -> Rows:
        """An order's lines, with the order on each; none if there is no such order of this customer. 401."""
        ...

    async def paid(self, order: int, customer: int, reference: str, total_cents: int) -> None:
        """The money is there: once, whoever comes first."""
        ...

    async def pending(self, older: float, most: int) -> Rows:
        """Orders without their money (``id``, ``customer_id``, ``idempotency_key``, ``total_cents``)."""
        ...


def all_sold(row: Row) -> bool:
    """Whether an order came about and everything in the cart was there."""
    return row["order_id"] is not None and row["wanted"] == row["sold"]


def short_of(row: Row | None) -> int | None:
    """The first product of the cart that the shelves could not serve."""
    short = set(row["wanted"] or ()) - set(row["sold"] or ()) if row is not None else None
    return min(short) if short else None


class PrimaryOrders:
    """One database for all: what was placed is stored."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.away = origin.away

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    async def place(self, customer: int, key: str) -> Placed | None:
        """See `Orders.place`."""
        row = await self.origin.decide(sql.CHECKOUT, customer, key, good=all_sold)
        if row is not None and all_sold(row):
            return Placed(row["order_id"], row["total_cents"], row["sold"], row["reworded"] or ())
        short = short_of(row)
        if short and await self.existing(customer, key) is None:
            contract.sold_out(short)
        return None

    async def store(self, customer: int, key: str, placed: Placed) -> bool:
        """See `Orders.store`."""
        return True

    async def existing(self, customer: int, key: str) -> Row | None:
        """See `Orders.existing`. The primary's word: another's checkout of the same key counts too."""
        rows = await self.origin.fetch(sql.EXISTING, customer, key)
        if not rows:
            contract.no_customer(customer)
        return rows[0] if rows[0]["order_id"] is not None else None

    async def order(self, number: int, customer: int) -> Rows:
        """See `Orders.order`."""
        rows = await self.origin.read(sql.ORDER, number, customer)
        if not rows:
            contract.no_customer(customer)
        return rows if rows[0]["order_id"] is not None else ()

    async def paid(self, order: int, customer: int, reference: str, total_cents: int) -> None:
        """See `Orders.paid`."""
        await self.origin.write(sql.PAID, order, reference, total_cents)

    async def pending(self, older: float, most: int) -> Rows:
        """See `Orders.pending`."""
        return await self.origin.fetch(sql.PENDING, older, most)
