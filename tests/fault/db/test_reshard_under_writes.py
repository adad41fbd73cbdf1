"""Buckets move while the application writes, and tool or servers die: no row lost, none twice, all that was
acknowledged is there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tenfold
from tenfold._core.errors import TenfoldError
from tenfold.db.reshard import Phase, Progress, Resharding, ReshardOptions
from tenfold.db.shards import ShardedCluster, ShardMap
from tenfold.servers import Topology

BUCKETS = 16
KEYS = 64
STILL = 300
OPTIONS = ReshardOptions(batch=200, switch_rows=250, lock_wait="1s")


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "moving sales"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]
    twice: Mapped[int] = mapped_column(sa.Computed("total * 2"))


class Part(Base):
    __tablename__ = "moving_parts"
    __shard_key__ = "customer"
    customer: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    sale: Mapped[int] = mapped_column(sa.ForeignKey(Sale.id, ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True))
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    price: Mapped[Decimal | None]
    blob: Mapped[bytes]
    at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    tags: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.Text))


class Still(Base):
    """Rows that nobody writes: each count of them, at any time, must be exact."""

    __tablename__ = "still"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]


@pytest.fixture(scope="module")
def shards() -> Iterator[Topology]:
    with asyncio.Runner() as runner:
        topology = Topology(shards=3)
        runner.run(topology.start())
        try:
            yield topology
        finally:
            runner.run(topology.close())


def urls(shards: Topology, count: int = 2) -> dict[str, str]:
    return {f"s{number}": shard.url for number, shard in enumerate(shards.shards[:count])}


def tool(shards: Topology, count: int = 2, **options: Any) -> Resharding:
    return Resharding(urls(shards, count), models=[Base], options=OPTIONS, **options)


def sharded(shards: Topology, count: int = 2) -> ShardedCluster:
    return ShardedCluster(
        urls(shards, count), models=[Base], map=ShardMap.hash(["s0", "s1"], buckets=BUCKETS), deadline="20s"
    )


def part(customer: int, sale: int) -> Part:
    return Part(
        customer=customer,
        code=uuid.uuid4(),
        sale=sale,
        data={"ä": [1, None, "\t\\N\n"]},
        price=None if sale % 3 else Decimal("1.10"),
        blob=bytes(range(256)),
        at=dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
        tags=["a,b", '"', "\\", "NULL"],
    )


@pytest.fixture
async def cluster(shards: Topology) -> AsyncIterator[ShardedCluster]:
    """Three empty servers, two of them shards, with some rows on them."""
    await shards.revive()
    for shard in shards.shards:
        for statement in (
            "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenfold_%' "
            "LOOP EXECUTE 'DROP SCHEMA ' || s || ' CASCADE'; END LOOP; END $$",
            "DROP TABLE IF EXISTS tenfold_shard_epoch, tenfold_shard_map, tenfold_reshard",
        ):
            await shard.fetchval(statement)
    async with sharded(shards, 3) as cluster:
        for name in ("s0", "s1", "s2"):
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Still, [{"id": n, "customer": n % KEYS} for n in range(STILL)])
        await cluster.insert(Sale, [{"id": n, "customer": n % KEYS, "total": 0} for n in range(STILL)])
        yield cluster


class Application:
    """Writers and a reader. ``may[id]``: what the total of a sale can be, None for no row; one value if it is known."""

    def __init__(self, cluster: ShardedCluster, seed: int) -> None:
        self.cluster = cluster
        self.may: dict[int, set[int | None]] = {n: {0} for n in range(STILL)}
        self.parts: dict[int, int] = {}
        self.acknowledged = self.failed = self.counts = 0
        self._random = random.Random(seed)
        self._next = 1_000
        self._stop = False

    @asynccontextmanager
    async def at_work(self, writers: int = 4) -> AsyncIterator[None]:
        self._stop = False
        tasks = [asyncio.create_task(self._write(number, writers)) for number in range(writers)]
        tasks.append(asyncio.create_task(self._read()))
        try:
            yield
        finally:
            self._stop = True
            done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def more(self, count: int) -> None:
        """Wait for so many acknowledged writes more."""
        goal = self.acknowledged + count
        async with asyncio.timeout(60):
            while self.acknowledged < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _write(self, number: int, writers: int) -> None:
        while not self._stop:
            mine = [n for n in self.may if n % writers == number]
            kind = self._random.random()
            if kind < 0.4:
                self._next += 1
                id_ = self._next * writers + number
                value: int | None = 0
            else:
                id_ = self._random.choice(mine)
                value = None if kind > 0.85 else self._random.randrange(1, 10**6)
            customer = id_ % KEYS
            before = self.may.get(id_, {None})
            self.may[id_] = before | {value}
            try:
                if value is None:
                    await self.cluster.execute(sa.delete(Sale).where(Sale.customer == customer, Sale.id == id_))
                elif id_ in before or before != {None} or kind >= 0.4:
                    done: Any = await self.cluster.execute(
                        sa.update(Sale).where(Sale.customer == customer, Sale.id == id_).values(total=value)
                    )
                    if not done.rowcount:
                        assert None in before, f"sale {id_} is not there, of {before}"
                        self.may[id_] = {None}
                        continue
                else:
                    async with self.cluster.session(shard_key=customer) as session:
                        session.add(Sale(id=id_, customer=customer, total=0))
                        await session.flush()
                        session.add(part(customer, id_))
                        await session.commit()
            except (TenfoldError, SQLAlchemyError, OSError):
                self.failed += 1  # the outcome is unknown: it may have been done or not
                await asyncio.sleep(0.02)
            else:
                self.may[id_] = {value}
                self.acknowledged += 1

    async def _read(self) -> None:
        while not self._stop:
            try:
                found = (await self.cluster.execute(select(func.count()).select_from(Still))).scalar_one()
            except (TenfoldError, SQLAlchemyError, OSError):
                await asyncio.sleep(0.02)
                continue
            assert found == STILL
            self.counts += 1


async def rows_on(cluster: ShardedCluster, model: Any, *columns: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in cluster._urls:
        async with cluster.async_engine(name).connect() as connection:
            found += [(name, row) for row in (await connection.execute(select(*columns)))]
    return found


async def check(application: Application) -> None:
    """No row lost, none twice, each where the map has it and as it was acknowledged."""
    cluster = application.cluster
    await cluster.refresh()
    sales = await rows_on(cluster, Sale, Sale.id, Sale.customer, Sale.total, Sale.twice)
    totals: dict[int, int] = {}
    for name, (id_, customer, total, twice) in sales:
        assert id_ not in totals, f"sale {id_} is there twice"
        assert cluster.map.shard_of(customer) == name
        assert twice == total * 2
        totals[id_] = total
    for id_, may in application.may.items():
        assert totals.pop(id_, None) in may
    assert not totals
    parts = await rows_on(cluster, Part, Part.customer, Part.code, Part.sale, Part.data, Part.blob, Part.tags)
    ids = {row.id for _, row in sales}
    assert len({row.code for _, row in parts}) == len(parts)
    for name, row in parts:
        assert cluster.map.shard_of(row.customer) == name
        assert row.sale in ids
        expected = part(0, 1)
        assert (row.data, row.blob, row.tags) == (expected.data, expected.blob, expected.tags)
    assert {row.sale for _, row in parts} >= {id_ for id_ in ids if id_ >= 1_000 and len(application.may[id_]) == 1}
    assert (await cluster.execute(select(func.count()).select_from(Still))).scalar_one() == STILL


async def left_behind(shards: Topology) -> list[str]:
    found: list[str] = []
    for shard in shards.shards:
        found += await shard.fetchval("SELECT array_agg(nspname) FROM pg_namespace WHERE nspname LIKE 'tenfold_%'") or []
        found += await shard.fetchval("SELECT array_agg(tgname) FROM pg_trigger WHERE tgname LIKE 'tenfold_%'") or []
    return found


async def test_there_and_back_and_there_again_while_the_application_writes(
    shards: Topology, cluster: ShardedCluster
) -> None:
    application = Application(cluster, 1)
    buckets = [bucket for bucket in range(BUCKETS) if cluster.map.shards[bucket] == "s0"][:5]
    points: list[Progress] = []
    async with application.at_work():
        resharding = tool(shards, 3, on_progress=points.append)
        planned = await resharding.plan(to="s1", buckets=buckets)
        assert planned.legs[0].rows > 0
        moved = await resharding.run()
        assert moved is not None
        assert {leg.phase for leg in moved.legs} == {Phase.MOVED}
        await application.more(50)
        verified = await resharding.verify()
        assert (verified.misplaced, verified.uncompared) == ((), 0)
        assert verified.compared > 0
        await resharding.rollback()
        await cluster.refresh()
        assert {cluster.map.shards[bucket] for bucket in buckets} == {"s0"}
        await application.more(20)
        await resharding.plan(even=True)
        assert await resharding.run(finish=True) is None
        await application.more(20)
    await check(application)
    assert application.failed == 0
    assert sorted(cluster.map.shards.count(name) for name in cluster.map.names) == [5, 5, 6]
    assert await left_behind(shards) == []
    assert len([point for point in points if point.point == "taker committed"]) >= 4
