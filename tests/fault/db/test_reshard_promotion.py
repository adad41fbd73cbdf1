"""A shard with a replica gets another primary while buckets move: no row lost, none twice, whatever the former primary
had acknowledged and its replica never heard of.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import TenfoldError
from tenfold.db import create_async_cluster
from tenfold.db.reshard import Interrupted, Progress, ReshardError, Resharding, ReshardOptions
from tenfold.db.shards import ShardedCluster, ShardMap
from tenfold.servers import Postgres, Topology, process

FAILS = (TenfoldError, SQLAlchemyError, OSError, asyncpg.InternalClientError)
BUCKETS, KEYS, ROWS = 16, 64, 300
OPTIONS = ReshardOptions(batch=100, switch_rows=40, rest=0, lock_wait="1s", connect="20s")


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "sales"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]


@pytest.fixture(scope="module")
def servers() -> Iterator[Topology]:
    with asyncio.Runner() as runner:
        topology = Topology(replicas=1, shards=1)
        runner.run(topology.start())
        try:
            yield topology
        finally:
            runner.run(topology.close())


def postgres(servers: Topology) -> list[Postgres]:
    return [servers.primary, *servers.replicas, *servers.lost]


async def settings(server: Postgres, **values: str | None) -> None:
    for name, value in values.items():
        to = f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'"
        await server.fetchval(to)
    await server.fetchval("SELECT pg_reload_conf()")


async def until(server: Postgres, condition: str) -> None:
    async with asyncio.timeout(30):
        while not await server.fetchval(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def moving(servers: Topology, emptied: Callable[[Postgres], Awaitable[None]]) -> None:
    """The primary with a replica that has caught up, and nothing of another test."""
    await servers.revive()
    for server in [*postgres(servers), *servers.shards]:
        await settings(server, primary_conninfo=None, synchronous_standby_names=None)
    await until(servers.primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
    for server in (servers.primary, servers.shards[0]):
        await emptied(server)
    await servers.replicas[0].caught_up(within="30s")


class Scene:
    """Two shards: ``many`` has a replica, ``one`` has none. ``role``: what ``many`` is in the move."""

    def __init__(self, servers: Topology, role: str) -> None:
        self.servers = servers
        self.source, self.target = ("many", "one") if role == "source" else ("one", "many")
        self.urls = {
            "many": [server.url for server in postgres(servers)],
            "one": [servers.shards[0].url],
        }
        self.may: dict[int, set[int | None]] = {n: {0} for n in range(ROWS)}
        self.acknowledged = 0
        self._stop = False
        self._random = random.Random(5)
        self.cluster: ShardedCluster

    def tool(self, tell: Callable[[Progress], object] | None = None) -> Resharding:
        """The home of the map is the source, as for a first shard that is divided."""
        urls = {name: self.urls[name] for name in (self.source, self.target)}
        return Resharding(urls, models=[Base], options=OPTIONS, on_progress=tell)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        many = create_async_cluster(
            self.servers.primary.url,
            [replica.url for replica in self.servers.replicas],
            max_lag=None,
            watch_period="50ms",
            failover_wait="20s",
        )
        shards: dict[str, Any] = {"many": many, "one": self.servers.shards[0].url}
        self.cluster = ShardedCluster(
            {name: shards[name] for name in (self.source, self.target)},
            models=[Base],
            map=ShardMap.hash([self.source], buckets=BUCKETS),
            deadline="30s",
        )
        async with self.cluster as cluster:
            for name in cluster.shards:
                async with cluster.async_engine(name).begin() as connection:
                    await connection.run_sync(Base.metadata.create_all)
            await cluster.insert(Sale, [{"id": n, "customer": n % KEYS, "total": 0} for n in range(ROWS)])
            await self.servers.replicas[0].caught_up(within="30s")
            yield

    # -- the application

    @asynccontextmanager
    async def writing(self, writers: int = 2) -> AsyncIterator[None]:
        self._stop = False
        tasks = [asyncio.create_task(self._write(number, writers)) for number in range(writers)]
        try:
            yield
        finally:
            self._stop = True
            done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def _write(self, number: int, writers: int) -> None:
        while not self._stop:
            await asyncio.sleep(0.004)
            new = self._random.random() < 0.4
            id_ = (
                (max(self.may) // writers + 1) * writers + number
                if new
                else self._random.choice([n for n in self.may if n % writers == number])
            )
            customer, value, before = id_ % KEYS, self._random.randrange(10**6), self.may.get(id_, {None})
            statement: Any = (
                sa.insert(Sale).values(id=id_, customer=customer, total=value)
                if new
                else sa.update(Sale).where(Sale.customer == customer, Sale.id == id_).values(total=value)
            )
            self.may[id_] = before | {value}
            try:
                done: Any = await self.cluster.execute(statement)
            except FAILS:
                await asyncio.sleep(0.02)
                continue
            if done.rowcount:
                self.may[id_] = {value}
            else:
                assert None in before, f"sale {id_} was there ({before}) and is not"
                self.may[id_] = {None}
            self.acknowledged += 1

    async def more(self, count: int) -> None:
        goal = self.acknowledged + count
        async with asyncio.timeout(60):
            while self.acknowledged < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def check(self, *, on: str) -> None:
        """No row lost, none twice, each as it was acknowledged and where the map has it; all buckets ``on`` a shard."""
        cluster = self.cluster
        await cluster.refresh()
        assert cluster.map.names == (on,)
        totals: dict[int, int] = {}
        for name in cluster.shards:
            async with cluster.async_engine(name).connect() as connection:
                for id_, customer, total in await connection.execute(select(Sale.id, Sale.customer, Sale.total)):
                    assert id_ not in totals, f"sale {id_} is there twice"
                    assert cluster.map.shard_of(customer) == name
                    totals[id_] = total
        for id_, may in self.may.items():
            assert totals.pop(id_, None) in may, f"sale {id_} is not what was acknowledged"
        assert not totals
        whole = select(func.count()).select_from(Sale).execution_options(route="primary")
        assert (await cluster.execute(whole)).scalar_one() in range(ROWS, len(self.may) + 1)

    # -- the failure

    def at(self, **what: Callable[[], object]) -> Callable[[Progress], None]:
        """Calls ``what`` is due at a point, for the n-th time ``point_n``."""
        seen: dict[str, int] = {}

        def tell(progress: Progress) -> None:
            point = progress.point.replace(" ", "_")
            seen[point] = seen.get(point, 0) + 1
            call = what.get(f"{point}_{seen[point]}")
            if call is not None:
                call()

        return tell

    def cut(self) -> None:
        """From here on the replica hears nothing of what its primary acknowledges."""

        async def work() -> None:
            (replica,) = self.servers.replicas
            await replica.caught_up(within="30s")
            await settings(replica, primary_conninfo="host=127.0.0.1 port=1")
            await until(replica, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")

        aside(work())

    def kill(self) -> None:
        process.signal_tree(self.servers.primary._identity(), signal.SIGKILL)

    async def interrupted(self, tell: Callable[[Progress], object]) -> None:
        """Run the tool into the failure; once more where its last word came before it felt anything."""
        with pytest.raises(Interrupted, match=r"(?i)give the URLs of all"):  # noqa: PT012
            await self.tool(tell).run()
            await self.tool(tell).run()

    async def promote(self) -> None:
        await self.servers.primary.kill()
        await self.servers.promote(self.servers.replicas[0])
        await settings(self.servers.primary, primary_conninfo=None)  # or whoever rejoins copies it

    async def left_behind(self) -> list[str]:
        found: list[str] = []
        for server in (self.servers.primary, self.servers.shards[0]):
            for column, table in (("nspname", "pg_namespace"), ("tgname", "pg_trigger")):
                found += (
                    await server.fetchval(f"SELECT array_agg({column}::text) FROM {table} WHERE {column} ~ '^tenfold_'")
                    or []
                )
        return found


def aside(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end in another thread: the tool tells of its progress in a plain call."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 - raised again
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


POINTS = ("copied_2", "compared_1", "drained_2", "exchanged_2", "giver_committed_2", "taker_committed_2", "published_2")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["source", "target"])
@pytest.mark.parametrize("point", [*POINTS, "rest_1"])
@pytest.mark.timeout(200)
async def test_a_synchronous_replica_takes_over_at_any_point_under_writes(
    servers: Topology, moving: None, role: str, point: str
) -> None:
    """What was acknowledged is there, the tool's own words too: it goes on where it was, and back."""
    scene = Scene(servers, role)
    await settings(servers.primary, synchronous_standby_names="*")
    await until(servers.primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
    async with scene.open():
        async with scene.writing():
            await scene.tool().plan(to=scene.target, buckets=range(BUCKETS))
            tell = scene.at(**{point: scene.kill})
            await scene.interrupted(tell)
            await scene.promote()
            if point not in ("exchanged_2", "giver_committed_2", "taker_committed_2"):  # else refused until it goes on
                await scene.more(10)
            await scene.tool().run()
            await scene.more(10)
        await scene.check(on=scene.target)
        async with scene.writing():
            await scene.more(10)
            await scene.tool().rollback()
            await scene.more(10)
        await scene.check(on=scene.source)
    assert await scene.left_behind() == []


LOST = {
    # from … to …: what of the tool's work is lost
    "the logs": ("prepare_1", "copied_2"),
    "copied rows": ("copied_1", "compared_1"),
    "a giver's or taker's commit": ("drained_2", "giver_committed_2"),
    "a switch not yet published": ("drained_2", "taker_committed_2"),
    "a switch": ("drained_2", "published_2"),
    "switches": ("drained_1", "published_3"),
    "all of it": ("prepare_1", "rest_1"),
}


@pytest.mark.parametrize("role", ["source", pytest.param("target", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what == "a switch" else pytest.mark.slow) for what in LOST]
)
@pytest.mark.parametrize("course", ["run", pytest.param("rollback", marks=pytest.mark.slow)])
@pytest.mark.timeout(200)
async def test_an_asynchronous_replica_that_lost_the_tools_work_takes_over(
    servers: Topology, moving: None, role: str, what: str, course: str
) -> None:
    """The tool's words were lost and the application's none, for it wrote none meanwhile: all of them are there."""
    scene = Scene(servers, role)
    lost_from, lost_to = LOST[what]
    async with scene.open():
        async with scene.writing():
            await scene.tool().plan(to=scene.target, buckets=range(BUCKETS))
            await scene.more(10)
        await servers.replicas[0].caught_up(within="30s")
        tell = scene.at(**{lost_from: scene.cut, lost_to: scene.kill})
        await scene.interrupted(tell)
        await scene.promote()
        async with scene.writing():
            if what in ("the logs", "copied rows"):
                await scene.more(10)
            await (scene.tool().run() if course == "run" else scene.tool().rollback())
            await scene.more(10)
        await scene.check(on=scene.target if course == "run" else scene.source)
        if course == "run":
            async with scene.writing():
                await scene.tool().rollback()
                await scene.more(10)
            await scene.check(on=scene.source)
    assert await scene.left_behind() == []


@pytest.mark.slow
async def test_where_both_have_been_written_to_nobody_is_believed(servers: Topology, moving: None) -> None:
    """The promoted source has lost a switch and its fence; writers were on the target, then on the source."""
    scene = Scene(servers, "source")
    async with scene.open():
        await scene.tool().plan(to="one", buckets=range(BUCKETS))
        await scene.interrupted(scene.at(drained_2=scene.cut, published_2=scene.kill))
        one = servers.shards[0]
        last = "SELECT buckets FROM tenfold_reshard_0.mark ORDER BY number DESC LIMIT 1"
        buckets = await one.fetchval(last)
        written = next(n for n in range(ROWS) if scene.cluster.map.bucket_of(n % KEYS) in buckets)
        await one.fetchval("UPDATE sales SET total = 1 WHERE id = $1", written)
        await scene.promote()
        await servers.primary.fetchval("UPDATE sales SET total = 2 WHERE id = $1", written)
        bucket = scene.cluster.map.bucket_of(written % KEYS)
        for call in (scene.tool().run, scene.tool().rollback):
            with pytest.raises(ReshardError, match=rf"many and one have both been written to in buckets .*{bucket}"):
                await call()
        mine = [n for n in range(KEYS) if scene.cluster.map.bucket_of(n) == bucket]
        await servers.primary.fetchval("DELETE FROM sales WHERE customer = ANY($1)", mine)  # as it says
        await scene.tool().run()
        scene.may[written] = {1}
        await scene.check(on="one")


@pytest.mark.slow
async def test_a_replica_and_a_former_primary_are_told_from_the_primary(servers: Topology, moving: None) -> None:
    scene = Scene(servers, "target")
    async with scene.open():
        await scene.tool().plan(to="many", buckets=[0])
        (replica,), former = servers.replicas, servers.primary
        scene.urls["many"] = [replica.url]
        with pytest.raises(Interrupted, match=rf"shard many: none of its servers .*{replica.port} is a replica"):
            await scene.tool().run()
        scene.urls["many"] = [replica.url, former.url]
        await scene.tool().run()
        await servers.promote(replica)
        await scene.tool().run()
        await former.start()  # nobody told it
        try:
            await scene.tool().run()
            scene.urls["many"] = [former.url]
            with pytest.raises(ReshardError, match="is a former primary; give the URL of the present one"):
                await scene.tool().rollback()
        finally:
            await former.stop()
        scene.urls["many"] = [replica.url, former.url]
        await scene.tool().rollback()
        await scene.check(on="one")
