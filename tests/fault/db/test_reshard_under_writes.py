"""Buckets move while the application writes, and tool or servers die: no row lost, none twice, all that was
acknowledged is there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tenfold
from tenfold._core.errors import TenfoldError
from tenfold.db.reshard import Interrupted, Phase, Progress, Resharding, ReshardOptions
from tenfold.db.shards import ShardedCluster, ShardMap
from tenfold.servers import Postgres, Topology, process

# The last: a statement between a killed server's last word and the end of the connection; SQLAlchemy lets it through.
FAILS = (TenfoldError, SQLAlchemyError, OSError, asyncpg.InternalClientError)
BUCKETS = 16
KEYS = 64
STILL = 300
OPTIONS = ReshardOptions(batch=200, switch_rows=100, rest="50ms", lock_wait="1s")


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
def shards(plain: Callable[[int], Topology]) -> Topology:
    return plain(3)


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
async def cluster(
    shards: Topology, emptied: Callable[[Postgres], Awaitable[None]], remade: Callable[..., Awaitable[None]]
) -> AsyncIterator[ShardedCluster]:
    """Three empty servers, two of them shards, with some rows on them."""
    await shards.revive()
    for shard in shards.shards:
        await emptied(shard)
    async with sharded(shards, 3) as cluster:
        await remade(cluster, Base.metadata)
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
    async def at_work(self, writers: int = 3) -> AsyncIterator[None]:
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
            await asyncio.sleep(0.004)  # the point is interleaving; more load only makes the machine slow
            kind = self._random.choices(("insert", "update", "delete"), (4, 5, 2))[0]
            if kind == "insert":
                self._next += 1
                id_ = self._next * writers + number
            else:
                id_ = self._random.choice([n for n in self.may if n % writers == number])
            value = {"insert": 0, "update": self._random.randrange(1, 10**6), "delete": None}[kind]
            before = self.may.get(id_, {None})
            self.may[id_] = before | {value}
            try:
                found = await self._do(kind, id_, value)
            except FAILS:
                self.failed += 1  # it may have been done or not
                await asyncio.sleep(0.02)
                continue
            if kind == "update" and not found:
                assert None in before, f"sale {id_} was there ({before}) and is not"
                self.may[id_] = {None}
            else:
                self.may[id_] = {value}
            self.acknowledged += 1

    async def _do(self, kind: str, id_: int, value: int | None) -> int:
        customer = id_ % KEYS
        if kind == "insert":
            async with self.cluster.session(shard_key=customer) as session:
                session.add(Sale(id=id_, customer=customer, total=value))
                await session.flush()
                session.add(part(customer, id_))
                await session.commit()
            return 1
        one = (Sale.customer == customer, Sale.id == id_)
        statement: Any = (
            sa.delete(Sale).where(*one) if kind == "delete" else sa.update(Sale).where(*one).values(total=value)
        )
        done: Any = await self.cluster.execute(statement)
        return int(done.rowcount)

    async def _read(self) -> None:
        while not self._stop:
            try:
                found = (await self.cluster.execute(select(func.count()).select_from(Still))).scalar_one()
            except FAILS:
                await asyncio.sleep(0.02)
                continue
            assert found == STILL
            self.counts += 1
            await asyncio.sleep(0.004)


async def rows_on(cluster: ShardedCluster, model: Any, *columns: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in cluster.shards:
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
        for column, table in (("nspname", "pg_namespace"), ("tgname", "pg_trigger")):
            found += await shard.fetchval(f"SELECT array_agg({column}) FROM {table} WHERE {column} ~ '^tenfold_'") or []
    return found


def some(cluster: ShardedCluster, count: int = 5, shard: str = "s0") -> list[int]:
    return [bucket for bucket in range(BUCKETS) if cluster.map.shards[bucket] == shard][:count]


class Crash(Exception):
    pass


def crash_at(point: str, times: int = 1) -> Callable[[Progress], None]:
    """Ends the tool at the ``times``-th ``point``. What it has open is dropped, as when it is killed."""
    seen = 0

    def tell(progress: Progress) -> None:
        nonlocal seen
        if progress.point == point:
            seen += 1
            if seen == times:
                raise Crash

    return tell


async def test_there_and_back_while_the_application_writes_and_the_tool_crashes(
    shards: Topology, cluster: ShardedCluster
) -> None:
    application = Application(cluster, 1)
    buckets = some(cluster, 3)
    async with application.at_work(2):
        planned = await tool(shards).plan(to="s1", buckets=buckets)
        assert planned.legs[0].rows > 0
        for point in ("copied", "giver committed", "taker committed"):
            with pytest.raises(Crash):
                await tool(shards, on_progress=crash_at(point)).run()
        moved = await tool(shards).run()
        assert moved is not None
        assert {leg.phase for leg in moved.legs} == {Phase.MOVED}
        await application.more(20)
        verified = await tool(shards).verify()
        assert (verified.misplaced, verified.uncompared) == ((), 0)
        assert verified.compared > planned.legs[0].rows // 2
        with pytest.raises(Crash):
            await tool(shards, on_progress=crash_at("giver committed")).rollback()
        await tool(shards).rollback()
        await application.more(20)
    await check(application)
    assert {cluster.map.shards[bucket] for bucket in buckets} == {"s0"}
    assert application.counts > 5
    assert application.failed == 0
    assert await left_behind(shards) == []


@pytest.mark.slow
async def test_spread_evenly_over_a_new_shard_then_emptied(shards: Topology, cluster: ShardedCluster) -> None:
    application = Application(cluster, 2)
    async with application.at_work(2):
        resharding = tool(shards, 3)
        assert len((await resharding.plan(even=True)).legs) == 2
        assert await resharding.run(finish=True) is None
        await cluster.refresh()
        assert sorted(cluster.map.shards.count(name) for name in ("s0", "s1", "s2")) == [5, 5, 6]
        await application.more(20)
        await resharding.plan(empty="s1")
        assert await resharding.run(finish=True) is None
    await check(application)
    assert cluster.map.names == ("s0", "s2")
    assert application.failed == 0
    assert await left_behind(shards) == []


KILLED = """
import asyncio, os, signal, sys
from {module} import Base, OPTIONS, crash_at, Crash
from tenfold.db.reshard import Resharding

def tell(progress, crash=crash_at(sys.argv[2], int(sys.argv[3]))):
    try:
        crash(progress)
    except Crash:
        os.kill(os.getpid(), signal.SIGKILL)

urls = dict(one.split("=", 1) for one in sys.argv[4:])
tool = Resharding(urls, models=[Base], options=OPTIONS, on_progress=tell)
asyncio.run(getattr(tool, sys.argv[1])())
"""


async def killed(shards: Topology, verb: str, point: str, times: int = 1) -> None:
    """Run the tool in a process of its own, which dies by SIGKILL at ``point``."""
    here = Path(__file__)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED.format(module=here.stem), verb, point, str(times),
        *(f"{name}={url}" for name, url in urls(shards).items()),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(tenfold.__file__).parents[1]), str(here.parent)])},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == -signal.SIGKILL, said.decode()


NOT_YET_PUBLISHED = ("giver committed", "taker committed")
"""Where a kill leaves the epochs raised and the former map in force: writes are refused until somebody goes on."""
IN_A_SWITCH = ("intent", "fenced", "drained", "exchanged", "giver committed", "taker committed", "published")
FORTH = (("prepare", 1), ("copy", 1), ("copied", 2), ("switch", 1), ("compared", 1), *((p, 2) for p in IN_A_SWITCH))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("point", "times"), [*FORTH, ("mark moved", 1), ("rest", 1)])
async def test_killed_at_any_point_it_goes_on_or_back(
    shards: Topology, cluster: ShardedCluster, point: str, times: int
) -> None:
    application = Application(cluster, 3)
    goes_on = 0 if point in NOT_YET_PUBLISHED else 20
    buckets = some(cluster)
    async with application.at_work():
        await tool(shards).plan(to="s1", buckets=buckets)
        await killed(shards, "run", point, times)  # rolled back
        await application.more(goes_on)
        await tool(shards).rollback()
        await cluster.refresh()
        assert {cluster.map.shards[bucket] for bucket in buckets} == {"s0"}
        assert await left_behind(shards) == []
        await tool(shards).plan(to="s1", buckets=buckets)
        await killed(shards, "run", point, times)  # gone on with
        await application.more(goes_on)
        await tool(shards).run()
        await application.more(20)
        if point in (*IN_A_SWITCH, "switch", "compared"):
            await killed(shards, "rollback", point, min(times, 2))
            await application.more(goes_on)
            await tool(shards).rollback()
            assert await left_behind(shards) == []
        else:
            await killed(shards, "rollback", "clean")
            await tool(shards).rollback()
    await check(application)
    assert application.failed == 0 or point in NOT_YET_PUBLISHED
    assert {cluster.map.shards[bucket] for bucket in buckets} == {"s0"}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", ["copied", "drained", "exchanged", "giver committed", "taker committed", "published"])
@pytest.mark.parametrize("victim", [0, 1])
async def test_a_server_is_killed_at_any_point(
    shards: Topology, cluster: ShardedCluster, point: str, victim: int
) -> None:
    """Server 0 is the source and the home of the map, server 1 the target."""
    application = Application(cluster, 4)
    buckets = some(cluster)
    server = shards.shards[victim]

    crash = crash_at(point)

    def kill(progress: Progress) -> None:
        try:
            crash(progress)
        except Crash:
            process.signal_tree(server._identity(), signal.SIGKILL)

    async with application.at_work():
        await tool(shards).plan(to="s1", buckets=buckets)
        with pytest.raises(Interrupted):
            await tool(shards, on_progress=kill).run()
        await server.kill()
        await server.start()
        await application.more(0 if point in NOT_YET_PUBLISHED else 20)
        await tool(shards).run()
        await application.more(20)
    await check(application)
    assert {cluster.map.shards[bucket] for bucket in buckets} == {"s1"}
    async with application.at_work():
        await tool(shards).rollback()
    await check(application)
    assert await left_behind(shards) == []
