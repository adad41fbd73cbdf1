"""Orders cut by customer over several databases, while the stock stays on the primary. Nothing spans the two, so:

::

    primary  ─ goods off the shelves + reservation (id, key, lines), one transaction
    shard    ─ the order, under the reservation's id, one transaction
    primary  ─ the reservation goes, some time later, with others

A process may die after each line. After the first, the reservation tells whoever finds it what the order is, and the
order is written from it: by the next request with that key, or by any worker's settler a few seconds later. Writing it
again changes nothing, for the id is the same. After the second only the reservation is left over, and the settler finds
the order there. So every reservation ends in one order, whoever dies, and goods never leave the shelves without one.

A key is unique on its customer's shard alone. Where the shard has another order of the key (two requests at once, and
the cart filled anew between them) the reservation is undone: goods and cart are put back, once, by the statement that
deletes it. It is the saga of Garcia-Molina and Salem (1987) with one step each way.

Ids are Snowflakes: made by each worker under a number that it has leased, so that no database counts orders.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import asyncpg
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, and_, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import sql
from blackfriday.tuned.orders import Placed, Told, all_sold, short_of
from blackfriday.tuned.origin import Origin, Row, Rows
from blackfriday.tuned.replicated import named, values
from tenfold.db import DatabaseClusterError
from tenfold.db.shards import (
    ClockWentBack,
    LeaseLost,
    NoWorkerFree,
    ShardedCluster,
    ShardMap,
    SnowflakeIds,
    StaleMap,
)

_log: Final = logging.getLogger("blackfriday.orders")

PERIOD: Final = 0.5  # seconds between two looks at what is to be settled
GRACE: Final = 3.0  # seconds in which a reservation is its checkout's own
AT_ONCE: Final = 50
PATIENCE: Final = 5.0  # seconds for one transaction on a shard, a connection to it included
FAREWELL: Final = 2.0  # seconds for the last settling when a worker ends
UNSETTLED: Final = 10_000  # ids remembered; a settler finds those beyond by their reservations
AWAY: Final = (
    SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError,
    DatabaseClusterError, StaleMap, LeaseLost, NoWorkerFree, ClockWentBack,
)  # fmt: skip

_tables = MetaData()
_cut = {"shard_key": "customer_id"}
ORDERS: Final = Table(
    "orders", _tables, Column("id", BigInteger, primary_key=True), Column("customer_id", Integer),
    Column("idempotency_key", Text), Column("status", Text), Column("total_cents", BigInteger), info=_cut,
)  # fmt: skip
LINES: Final = Table(
    "order_line", _tables, Column("order_id", BigInteger), Column("customer_id", Integer),
    Column("product_id", Integer), Column("quantity", Integer), Column("price_cents", Integer), info=_cut,
)  # fmt: skip

_BY_KEY: Final = select(ORDERS.c.id.label("order_id"), ORDERS.c.status, ORDERS.c.total_cents).where(
    ORDERS.c.customer_id == bindparam("customer"), ORDERS.c.idempotency_key == bindparam("key")
)
_BY_ID: Final = (
    select(
        ORDERS.c.id.label("order_id"), ORDERS.c.status, ORDERS.c.total_cents,
        LINES.c.product_id, LINES.c.quantity, LINES.c.price_cents,
    )
    .join_from(ORDERS, LINES, and_(LINES.c.customer_id == ORDERS.c.customer_id, LINES.c.order_id == ORDERS.c.id))
    .where(ORDERS.c.customer_id == bindparam("customer"), ORDERS.c.id == bindparam("number"))
    .order_by(LINES.c.product_id)
)  # fmt: skip


def cluster(urls: tuple[str, ...]) -> ShardedCluster:
    """The shards by name: ``orders1``, ``orders2`` …"""
    shards = {f"orders{place}": url for place, url in enumerate(urls, start=1)}
    where = ShardMap.hash(list(shards))
    return ShardedCluster(shards, models=[_tables], map=where, deadline=PATIENCE, connect_timeout=PATIENCE)


class ShardedOrders:
    """`Orders` on shards. ``told`` is told of goods that a settler finds sold, and of those that were given back."""

    def __init__(self, origin: Origin, shards: tuple[str, ...], counters: Counters, told: Told) -> None:
        self.away: tuple[type[Exception], ...] = AWAY
        self._origin = origin
        self._shards = cluster(shards)
        self._counters = counters
        self._told = told
        self._stack = AsyncExitStack()
        self._settled: deque[int] = deque(maxlen=UNSETTLED)
        self._ids: SnowflakeIds | None = None
        self._numbering = asyncio.Lock()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._shards)
            stack.push_async_callback(self._give_number_back)
            await self._number()
            stack.push_async_callback(self._farewell)
            stack.push_async_callback(_ended, asyncio.create_task(self._work(), name="settler"))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # -- for the till

    async def place(self, customer: int, key: str) -> Placed | None:
        """See `Orders.place`: reserves. A key whose order is stored touches no goods."""
        try:
            if await self._stored(customer, key) is not None:
                return None
            number = await self._number()
            row = await self._origin.decide(sql.RESERVE, customer, key, number, good=all_sold)
        except AWAY as error:
            _log.warning("a checkout has to wait: %s: %s", type(error).__name__, error)
            contract.being_placed()
        if row is not None and all_sold(row):
            lines = row["products"], row["quantities"], row["prices"]
            return Placed(row["order_id"], row["total_cents"], row["sold"], row["reworded"] or (), lines)
        short = short_of(row)
        if short and await self.existing(customer, key) is None:
            contract.sold_out(short)
        return None

    async def store(self, customer: int, key: str, placed: Placed) -> bool:
        """See `Orders.store`. The reservation goes later: a checkout does not wait for that."""
        try:
            kept = await self._store(placed.order, customer, key, placed.total_cents, *placed.lines)
            if kept == placed.order:
                self._settled.append(placed.order)
                return True
            await self._undo(placed.order)
            await self._told(placed.sold, placed.sold)
        except AWAY as error:
            _log.warning("order %d has to wait for its shard: %s: %s", placed.order, type(error).__name__, error)
            contract.being_placed()
        return False

    async def existing(self, customer: int, key: str) -> Row | None:
        """See `Orders.existing`. A reservation of the key becomes its order first; without one, the shard's word is
        final, for a reservation goes after its order was stored.
        """
        try:
            rows = await self._origin.fetch(sql.RESERVED, customer, key)
            if rows and rows[0]["order_id"] is not None:
                await self._finish(rows[0])
            stored = await self._stored(customer, key)
        except AWAY as error:
            _log.warning("a checkout has to wait: %s: %s", type(error).__name__, error)
            contract.being_placed()
        if not rows:
            contract.no_customer(customer)
        return stored

    async def order(self, number: int, customer: int) -> Rows:
        """See `Orders.order`: the order from its shard, the names of its products from wherever the catalogue is."""
        found = await self._shards.execute(_BY_ID, {"customer": customer, "number": number})
        lines = found.mappings().all()
        known = await self._origin.read(sql.NAMES, customer, [line["product_id"] for line in lines])
        if not known:
            contract.no_customer(customer)
        names = {row["id"]: row["name"] for row in known}
        return [{**line, "name": names[line["product_id"]]} for line in lines]

    async def paid(self, order: int, customer: int, reference: str, total_cents: int) -> None:
        """See `Orders.paid`."""
        async with asyncio.timeout(PATIENCE), self._shards.session(shard_key=customer) as session:
            await session.execute(named(sql.PAID_ON_SHARD), values((order, customer, reference, total_cents)))
            await session.commit()

    async def pending(self, older: float, most: int) -> Rows:
        """See `Orders.pending`; without those of shards that are away."""
        found: list[Row] = []
        for shard in self._shards.map.names:
            try:
                async with asyncio.timeout(PATIENCE), self._shards.session(shard=shard) as session:
                    rows = await session.execute(named(sql.PENDING), values((older, most)))
                    found += rows.mappings().all()
            except AWAY as error:
                _log.warning("pending payments on %s have to wait: %s: %s", shard, type(error).__name__, error)
        return found

    # -- inside

    async def _number(self) -> int:
        """An id for an order; under another worker number if the lease of the last was lost (a machine slept)."""
        async with self._numbering:
            if self._ids is not None:
                try:
                    return await self._ids.next()
                except LeaseLost:
                    await self._give_number_back()
            home = self._shards.async_engine(self._shards.map.names[0])
            self._ids = await SnowflakeIds(home).__aenter__()
            return await self._ids.next()

    async def _give_number_back(self) -> None:
        ids, self._ids = self._ids, None
        if ids is not None:
            await ids.__aexit__(None, None, None)

    async def _stored(self, customer: int, key: str) -> Row | None:
        return (await self._shards.execute(_BY_KEY, {"customer": customer, "key": key})).mappings().first()

    async def _store(
        self, order: int, customer: int, key: str, total: int, products: Any, quantities: Any, prices: Any
    ) -> int:
        """Write the order if its key has none; the id of the order that the key has now."""
        told = values((order, customer, key, total, products, quantities, prices))
        async with asyncio.timeout(PATIENCE), self._shards.session(shard_key=customer) as session:
            kept: int | None = (await session.execute(named(sql.STORE), told)).scalar()
            if kept is None:
                kept = (await session.execute(named(sql.STORED), values((customer, key)))).scalar_one()
            await session.commit()
        assert kept is not None
        return kept

    async def _undo(self, order: int) -> None:
        row = await self._origin.decide(sql.UNDO, order, good=lambda row: True)
        if row is not None:
            self._counters.add("reservations_undone")

    async def _finish(self, found: Row) -> None:
        """Let a reservation end in its order, or in none if its key has another."""
        order, products = found["order_id"], found["products"]
        kept = await self._store(
            order, found["customer_id"], found["idempotency_key"], found["total_cents"],
            products, found["quantities"], found["prices"],
        )  # fmt: skip
        if kept != order:
            await self._undo(order)
        elif await self._origin.write(sql.SETTLED, [order]):
            self._counters.add("reservations_finished")
        await self._told(products, products)  # its checkout may have died before it said so

    # -- in the background

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self._forget_settled()
                while await self.settle():
                    pass
            except AWAY as error:
                _log.warning("reservations have to wait: %s: %s", type(error).__name__, error)

    async def settle(self) -> bool:
        """Finish some reservations that were left over; whether there may be more that can be finished now."""
        rows = await self._origin.fetch(sql.OPEN_RESERVATIONS, GRACE, AT_ONCE)
        away: set[str] = set()
        for row in rows:
            shard = self._shards.map.shard_of(row["customer_id"])
            if shard not in away:
                try:
                    await self._finish(row)
                except AWAY as error:
                    away.add(shard)
                    _log.warning("reservations for %s have to wait: %s: %s", shard, type(error).__name__, error)
        return len(rows) == AT_ONCE and not away

    async def _forget_settled(self) -> None:
        """Delete the reservations whose orders this worker has stored."""
        if self._settled:
            done = list(self._settled)
            await self._origin.write(sql.SETTLED, done)
            for _ in done:
                self._settled.popleft()

    async def _farewell(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL):
                await self._forget_settled()
        except AWAY as error:
            _log.warning("reservations are left to the others: %s: %s", type(error).__name__, error)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
