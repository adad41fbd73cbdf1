"""Hot rows: a counter that everybody changes, spread over buckets so that they do not wait for each other.

A row can be locked by one transaction at a time, and until that one commits (a round trip or two and a flush of the
log), everybody else waits: one row allows a fixed number of commits a second, however many clients there are. So the
amount lies in n rows, "buckets", and whoever takes some uses one that nobody holds (``FOR UPDATE SKIP LOCKED``,
PostgreSQL 9.5).

*Skipped is not empty.* No row found may mean that the buckets which had enough were locked, or that no single bucket
has enough. So nobody is refused on that evidence; two further looks decide:

1. the committed sum, without a lock. Amounts that others have taken and not committed are still in it, amounts that
   they have put and not committed are not; so a sum below n is proof that n cannot be had now.
2. all buckets of the key, locked in the order of their numbers, waiting for those in use. What is in them then is the
   truth, and is gathered from as many as it needs.

*A look that found nothing leaves no lock.* Where a row has changed since the statement's snapshot, PostgreSQL locks its
newest version first and only then asks whether it still has n (EvalPlanQual); if not, another row is taken and *that
one stays locked* until the end of the transaction, or of a subtransaction. Two buyers with such locks out of turn, both
waiting for all buckets, would wait for each other. Hence a SAVEPOINT before the first look, and a ROLLBACK TO it if
that found nothing. It is sent before anything is locked, so that no lock is held for longer, and it is not released,
which would cost a round trip and change nothing.

*So there is no deadlock* among those who take of each key once and in one order of the keys (`take_many`): whoever
waits for a bucket holds only buckets before it, in the order of (key, number), so no circle closes. `put` asks nothing
of the amount, so what it locks it changes, and it does not wait after a take of that key, since the bucket taken from
is free to it. Whoever keeps no order may wait in a circle, as with any locks; then the server chooses one, which gets
`HotRowBusy`, and the others go on.

One window is the server's own: when a lock that it was about to skip is given up in that instant, and the row's next
version is locked already, it waits for that one (``heap_lock_updated_tuple`` knows no SKIP). Should that ever close a
circle, a first look chosen to end it counts as one that found nothing, and one who waits for all gets `HotRowBusy`.

Below zero is impossible three times over: by the condition, under the lock, and by a CHECK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, SmallInteger, String, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.types import TypeEngine

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import Duration, duration, format_duration, whole_number
from tenfold.db.hot_rows_sql import RESET_LOCK_TIMEOUT, ROLLBACK, SAVEPOINT, SET_LOCK_TIMEOUT, Statements
from tenfold.db.schemas import schema_of
from tenfold.db.timeouts import LONGEST_WAIT
from tenfold.resilience.deadline import remaining

BUCKETS: Final = 16
_SCHEMAS: Final = 1000
_DEADLOCK: Final = "40P01"
_LOCK_NOT_AVAILABLE: Final = "55P03"
_NO_TRANSACTION: Final = "25P01"
Connection = AsyncConnection | AsyncSession


class HotRowBusy(TenfoldError, TimeoutError):
    """Others held a bucket for all of ``wait``, or waited for this transaction: neither taken nor refused.

    Nothing of the call is left in the transaction. Roll back; it may be tried again.
    """


class UnknownHotRow(TenfoldError, LookupError):
    """There are no buckets for that key: `HotRows.open` it first."""


def hot_rows_table(name: str, metadata: MetaData, key: TypeEngine[Any] | type[TypeEngine[Any]] = String) -> Table:
    """The table of the buckets, for your migrations: ``(key, bucket, amount)``.

    Half-full pages (``fillfactor`` 50), so that new versions find a place beside the old ones and need no new entry in
    the index (HOT updates).
    """
    return Table(
        name,
        metadata,
        Column("key", key, primary_key=True),
        Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
        Column("amount", BigInteger, CheckConstraint("amount >= 0"), nullable=False),
        postgresql_with={"fillfactor": "50"},
    )


class HotRows:
    """Counters in a table of `hot_rows_table`'s form. All methods run in the caller's transaction::

        stock = HotRows(stock_buckets)
        async with engine.begin() as connection:
            if not await stock.take(connection, "sku-7", 2):
                raise SoldOut

    ``buckets`` (16): as many as transactions change one key at a time; more cost reads. ``wait`` (2 s, or what the
    deadline leaves, if that is less) bounds the wait for each bucket in use. ``random`` spreads the takers.

    Take of a key once in a transaction, and of several keys by `take_many`, which goes in the order of the keys: then
    there is no deadlock (a `put` of a key of which nothing was taken counts as a take). Otherwise two transactions may
    want what the other has taken, and one gets `HotRowBusy`.

    Use READ COMMITTED, the default: at higher levels a bucket that changed meanwhile is a serialization failure
    (40001).
    """

    __slots__ = ("_random", "_schemas", "_table", "buckets", "name", "wait")

    def __init__(
        self, table: Table, *, buckets: int = BUCKETS, wait: Duration = "2s", random: Random | None = None
    ) -> None:
        self.buckets: Final = whole_number(buckets, "buckets", least=1)
        if buckets > 1000:
            raise MisuseError(f"buckets: expected 1000 at most (16 suffice for most), got {buckets}")
        if not {"key", "bucket", "amount"} <= set(table.c.keys()):
            raise MisuseError(f"table: expected one of hot_rows_table(), got {table.name} with {table.c.keys()}")
        self.wait: Final = min(duration(wait, "wait"), LONGEST_WAIT)
        self.name: Final = table.name
        self._random = random or Random()
        self._table = table
        self._schemas: dict[str | None, Statements] = {}

    async def open(self, connection: Connection, key: Any, amount: int) -> None:
        """Make the buckets of ``key`` with ``amount`` spread over them.

        An integrity error of SQLAlchemy's, if it has some.
        """
        base, rest = divmod(whole_number(amount, "amount"), self.buckets)
        await connection.execute(
            self._sql(connection).open, {"key": key, "base": base, "rest": rest, "buckets": self.buckets}
        )

    async def take(self, connection: Connection, key: Any, n: int = 1) -> bool:
        """Take ``n``; False when there are fewer, which is certain then.

        A savepoint and one statement as long as some free bucket has ``n``. Raises `UnknownHotRow`, and `HotRowBusy`
        after ``wait``.
        """
        whole_number(n, "n", least=1)
        await self._savepoint(connection)
        if await self._taken(connection, key, n):
            return True
        await connection.execute(ROLLBACK)
        if await self.total(connection, key) < n:
            return False
        held = await self._lock(connection, key)
        if sum(amount for _, amount in held) < n:
            await connection.execute(ROLLBACK)
            return False
        await self._write(connection, key, _gathered(held, n))
        return True

    async def take_many(self, connection: Connection, wanted: Mapping[Any, int]) -> list[Any]:
        """Take of several keys, in sorted order, so that two such transactions cannot deadlock.

        The keys of which there was too little; if it is not empty, others may have been taken: roll back.
        """
        return [key for key in sorted(wanted) if not await self.take(connection, key, wanted[key])]

    async def put(self, connection: Connection, key: Any, n: int = 1) -> None:
        """Put ``n`` back, into the emptiest bucket that nobody holds; if all are held, wait. Raises as `take`."""
        whole_number(n, "n", least=1)
        if (await connection.execute(self._sql(connection).add, {"key": key, "n": n})).first() is not None:
            return
        await self._savepoint(connection)
        held = await self._lock(connection, key)
        bucket, amount = min(held, key=lambda one: one[1])
        await self._write(connection, key, [(bucket, amount + n)])

    async def total(self, connection: Connection, key: Any) -> int:
        """The committed sum (and what this transaction has changed), without a lock. Raises `UnknownHotRow`."""
        found = (await connection.execute(self._sql(connection).sum, {"key": key})).scalar_one()
        if found is None:
            raise self._unknown(key)
        return int(found)

    async def rebalance(self, connection: Connection, key: Any) -> int:
        """Spread what is there evenly, and say how much that is. Waits for all buckets; commit soon after.

        Worth it when amounts per take differ much, so that some buckets have too little for a take. Raises as `take`.
        """
        await self._savepoint(connection)
        held = await self._lock(connection, key)
        total = sum(amount for _, amount in held)
        await self._write(connection, key, spread(held, total))
        return total

    def _sql(self, connection: Connection) -> Statements:
        schema = schema_of(connection, self._table)
        found = self._schemas.get(schema)
        if found is None:
            if len(self._schemas) >= _SCHEMAS:
                self._schemas.clear()
            found = self._schemas[schema] = Statements(self._table, schema)
        return found

    async def _savepoint(self, connection: Connection) -> None:
        try:
            await connection.execute(SAVEPOINT)
        except DBAPIError as error:
            if _state(error) == _NO_TRANSACTION:
                raise MisuseError(
                    "hot rows: expected a transaction, got a connection in autocommit; use `async with engine.begin()`"
                ) from error
            raise

    async def _taken(self, connection: Connection, key: Any, n: int) -> bool:
        """The first look. If it found nothing, locks may be left of it: roll it back."""
        start = self._random.randrange(self.buckets)
        try:
            found = await connection.execute(self._sql(connection).take, {"key": key, "n": n, "start": start})
        except DBAPIError as error:
            if _state(error) != _DEADLOCK:
                raise
            return False
        return found.first() is not None

    async def _lock(self, connection: Connection, key: Any) -> list[tuple[int, int]]:
        """All buckets and what is in them. Waits; to be run behind the savepoint, with nothing locked since."""
        left = remaining()
        wait = self.wait if left is None else min(self.wait, left)
        old = (await connection.execute(SET_LOCK_TIMEOUT, {"new": f"{max(1, int(wait * 1000))}ms"})).scalar_one()
        try:
            rows = (await connection.execute(self._sql(connection).lock, {"key": key})).all()
        except DBAPIError as error:
            why = {
                _LOCK_NOT_AVAILABLE: f"were in use for {format_duration(wait)}",
                _DEADLOCK: "were in use by a transaction that waited for this one",
            }.get(_state(error))
            if why is None:
                raise
            await connection.execute(ROLLBACK)
            raise HotRowBusy(f"{self.name}: the buckets of {key!r} {why}; roll back and try again") from error
        await connection.execute(RESET_LOCK_TIMEOUT, {"old": old})
        if not rows:
            raise self._unknown(key)
        return [(bucket, amount) for bucket, amount in rows]

    def _unknown(self, key: Any) -> UnknownHotRow:
        return UnknownHotRow(f"{self.name}: no buckets for {key!r}; open() it first")

    async def _write(self, connection: Connection, key: Any, amounts: Sequence[tuple[int, int]]) -> None:
        numbers, new = [number for number, _ in amounts], [amount for _, amount in amounts]
        await connection.execute(self._sql(connection).keep, {"key": key, "numbers": numbers, "amounts": new})

    def __repr__(self) -> str:
        return f"<HotRows {self.name} buckets={self.buckets} wait={format_duration(self.wait)}>"


def _state(error: DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)


def _gathered(held: Sequence[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """The new amounts of the buckets that ``n`` is taken from: the fullest first, so that few are written."""
    changed = []
    for bucket, amount in sorted(held, key=lambda one: -one[1]):
        part = min(amount, n)
        changed.append((bucket, amount - part))
        n -= part
        if n == 0:
            break
    return changed


def spread(held: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """``total`` over the buckets of ``held``, as evenly as whole numbers allow."""
    base, rest = divmod(total, len(held))
    return [(bucket, base + (1 if at < rest else 0)) for at, (bucket, _) in enumerate(held)]
