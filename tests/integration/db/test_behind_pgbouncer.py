"""A cluster behind a real PgBouncer in transaction mode, with fewer connections to the servers than it has clients."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import await_only

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, CommitUnknown, DatabaseClusterError, causality, create_async_cluster
from tenfold.db.advisory import advisory_lock, lock_in_transaction
from tenfold.db.reshard.errors import CannotMove
from tenfold.db.reshard.links import connected
from tenfold.db.shards import Dispatcher, Outbox, ShardedCluster, SnowflakeIds
from tenfold.db.shards.coordinator import Coordinator
from tenfold.db.timeouts import statement_deadline
from tenfold.servers.ports import free_port


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "pooled_orders"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NAME = text("SELECT name FROM items WHERE id = :id")
RENAME = text("UPDATE items SET name = :name WHERE id = :id")

if PGBOUNCER is None:
    pytest.skip("pgbouncer is not installed (Debian: pgbouncer), so nobody has tried it", allow_module_level=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tenfold-pgbouncer-") as folder:
        Path(folder).chmod(0o755)  # as root it runs as somebody else
        yield Path(folder)


@asynccontextmanager
async def pooler(folder: Path, topology: Any) -> AsyncIterator[tuple[str, Callable[[Any], None]]]:
    """A pooler before the primary and the first replica, as databases of these names: its URL without a name, and what
    puts another server in the replica's place while the clients stay connected.
    """
    port, at = free_port(), "host=127.0.0.1 user=tenfold dbname=postgres"
    configuration = folder / "pgbouncer.ini"

    def configure(replica: Any) -> None:
        configuration.write_text(
            f"[databases]\n"
            f"primary = {at} port={topology.primary.port}\n"
            f"replica = {at} port={replica.port}\n"
            f"* = host=127.0.0.1 user=tenfold port={topology.primary.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nserver_login_retry = 0.05\n"
        )

    def point(replica: Any) -> None:
        configure(replica)
        process.send_signal(signal.SIGHUP)

    configure(topology.replicas[0])
    nobody: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        nobody = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(PGBOUNCER), str(configuration), stdout=output, stderr=output, **nobody
        )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    await (await asyncpg.connect(f"postgresql://tenfold@127.0.0.1:{port}/primary")).close()
                    break
                except OSError:
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
        yield f"postgresql://tenfold@127.0.0.1:{port}", point
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def pgbouncer(folder: Path, topology: Any) -> AsyncIterator[str]:
    """Only the URL."""
    async with pooler(folder, topology) as (url, _):
        yield url


@pytest.fixture
async def cluster(items: Any, folder: Path) -> AsyncIterator[AsyncCluster]:
    async with (
        pgbouncer(folder, items) as url,
        create_async_cluster(f"{url}/primary", [f"{url}/replica"], pool_size=20) as cluster,
    ):
        statement_deadline(cluster, longest="7s")
        await cluster.watch.settle()
        yield cluster


async def test_it_is_noticed_and_everybody_is_served(cluster: AsyncCluster, items: Any) -> None:
    """Forty clients, two times three servers: each writes, and reads what it wrote, mostly from the replica."""
    await cluster.execute(text("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(11, 40) n"))

    async def one(number: int) -> int:
        with causality():
            async with cluster.session() as session:
                await session.execute(RENAME, {"id": number, "name": f"new {number}"})
                await session.commit()
            async with cluster.session(read_only=True) as session:
                port: int = (await session.execute(text("SELECT inet_server_port()"))).scalar_one()
                assert (await session.execute(NAME, {"id": number})).scalar_one() == f"new {number}"
                await session.execute(text("SELECT count(*) FROM items WHERE id > :id"), {"id": 3})
                return port

    ports = await asyncio.gather(*[one(number) for number in range(1, 41)])
    assert items.replicas[0].port in ports
    state = cluster.state()
    assert {node["pooler"] for node in state["nodes"].values()} == {True}
    assert state["nodes"]["primary"]["connections"]["write"]["idle"] > 3  # clients share the servers
    assert state["reads_refused"] == 0


async def test_single_statements_and_read_only_connections(cluster: AsyncCluster) -> None:
    for number in range(1, 6):
        await cluster.execute(RENAME, {"id": number, "name": f"new {number}"})
    with causality():
        await cluster.execute(RENAME, {"id": 1, "name": "newest"})
        assert (await cluster.execute(NAME, {"id": 1})).scalar_one() == "newest"
    async with cluster.begin() as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "7s"
    async with cluster.connect(read_only=True) as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "7s"
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await connection.execute(RENAME, {"id": 1, "name": "never"})


async def test_nothing_is_remembered_of_a_server_that_may_have_restarted(cluster: AsyncCluster) -> None:
    """Without a pooler the second read would be answered from memory."""
    with causality():
        await cluster.execute(RENAME, {"id": 2, "name": "seen"})
        for _ in range(3):
            assert (await cluster.execute(NAME, {"id": 2})).scalar_one() == "seen"
    checks = cluster.state()["token_checks"]
    assert checks["at_once"] == 0
    assert checks["there"] + checks["behind"] >= 3


async def test_the_server_restarts_and_the_pooler_does_not(cluster: AsyncCluster, items: Any) -> None:
    async def rename(session: AsyncSession) -> None:
        await session.execute(RENAME, {"id": 3, "name": "after"})

    await cluster.run(rename)
    await items.primary.kill()
    await items.primary.start()
    async with asyncio.timeout(20):
        while True:
            try:
                await cluster.run(rename)
                break
            except (DBAPIError, DatabaseClusterError):
                await asyncio.sleep(0.05)
    async with cluster.session(read_only=True) as session:
        assert (await session.execute(NAME, {"id": 3})).scalar_one() in ("after", "item 3")


async def test_a_commit_without_an_answer_is_of_unknown_fate(cluster: AsyncCluster, items: Any) -> None:
    """The id of a transaction is believed only while the server is known not to have restarted."""

    async def rename(session: AsyncSession) -> None:
        await session.execute(text("SET LOCAL synchronous_commit = on"))
        await session.execute(RENAME, {"id": 4, "name": "unheard"})

    await items.primary.fetchval("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await items.primary.fetchval("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(20):
            while True:  # the server takes the setting in when it comes to it
                try:
                    await cluster.run(rename, deadline="500ms")
                except CommitUnknown:
                    break
    finally:
        await items.primary.fetchval("ALTER SYSTEM RESET synchronous_standby_names")
        await items.primary.fetchval("SELECT pg_reload_conf()")


async def nobody(session: AsyncSession, message: Any) -> None:
    raise AssertionError("nothing is delivered here")


@pytest.mark.parametrize("replicated", [False, True])
async def test_what_needs_a_session_of_its_own_refuses_a_pooler(items: Any, folder: Path, replicated: bool) -> None:
    between = "a pooler stands between"
    async with pgbouncer(folder, items) as url:
        shard = create_async_cluster(f"{url}/primary") if replicated else f"{url}/primary"
        async with ShardedCluster({"s0": shard}, models=[Base], pool_size=2) as cluster:
            await Outbox(cluster).create_tables()
            with pytest.raises(MisuseError, match=f"Dispatcher: shard s0: {between}"):
                await Dispatcher(cluster, {"topic": nobody}).__aenter__()
            with pytest.raises(MisuseError, match=f"TwoPhase: the home shard: {between}"):
                await Coordinator(cluster).ensure()  # what TwoPhase begins with, where servers can prepare
            with pytest.raises(MisuseError, match=f"advisory_lock: {between}.*lock_in_transaction"):
                await advisory_lock(cluster.async_engine("s0"), "job").__aenter__()
            async with cluster.async_engine("s0").begin() as connection:
                await lock_in_transaction(connection, "job")
            async with SnowflakeIds(cluster.async_engine("s0")) as ids:  # its lease is a row, so this is no harm
                assert await ids.next() != await ids.next()
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert await items.primary.fetchval(locks) == 0


async def test_an_engine_of_one_s_own_is_asked_and_a_direct_one_is_not_refused(items: Any, folder: Path) -> None:
    direct = create_async_engine(make_url(items.primary.url).set(drivername="postgresql+asyncpg"))
    async with pgbouncer(folder, items) as url:
        pooled = create_async_engine(make_url(f"{url}/primary").set(drivername="postgresql+asyncpg"))
        try:
            with pytest.raises(MisuseError, match="a pooler stands between"):
                await advisory_lock(pooled, "job").__aenter__()
            async with advisory_lock(pooled.execution_options(pooler="none"), "job"):
                pass  # whoever says so knows better
            async with advisory_lock(direct, "job") as held:
                await held.check()
        finally:
            await pooled.dispose()
            await direct.dispose()


async def test_resharding_refuses_a_pooler(items: Any, folder: Path) -> None:
    async with pgbouncer(folder, items) as url:
        with pytest.raises(CannotMove, match="shard s0: a pooler stands between"):
            async with connected({"s0": [make_url(f"{url}/primary")]}, timeout=10.0, within=10.0):
                pass
    async with connected({"s0": [make_url(items.primary.url)]}, timeout=10.0, within=10.0) as links:
        assert list(links.shards) == ["s0"]


async def test_shards_behind_it(items: Any, folder: Path) -> None:
    for name in ("shard0", "shard1"):
        await items.primary.fetchval(f"CREATE DATABASE {name}")
    async with (
        pgbouncer(folder, items) as url,
        ShardedCluster([f"{url}/shard0", f"{url}/shard1"], models=[Base]) as cluster,
    ):
        for name in cluster.shards:
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Order, [{"id": number, "customer": number} for number in range(100)])
        statement = select(Order.id).order_by(Order.id).limit(50)
        answers = await asyncio.gather(*[cluster.execute(statement) for _ in range(20)])
        assert [answer.scalars().all() for answer in answers] == [list(range(50))] * 20
        async with cluster.stream(select(Order.id).order_by(Order.id)) as rows:
            assert [row.id async for row in rows] == list(range(100))


async def test_what_another_server_showed_does_not_count_for_this_one(items: Any, folder: Path) -> None:
    """A row comes to a shard with a change of the map. A replica that replays both between the read and the question
    for its epoch has found nothing under the old map, whatever was shown by the one that the pooler led to before.
    """
    ready, late = items.replicas
    await items.primary.fetchval("CREATE DATABASE other")
    await items.primary.fetchval("DROP TABLE IF EXISTS tenfold_shard_map, tenfold_shard_epoch")  # of another cluster
    async with (
        pooler(folder, items) as (url, point),
        create_async_cluster(f"{url}/primary", [f"{url}/replica"], max_lag=None, connect_timeout="10s") as many,
        ShardedCluster({"many": many, "other": f"{url}/other"}, models=[Base]) as cluster,
    ):
        try:
            for name in cluster.shards:
                async with cluster.async_engine(name).begin() as connection:
                    await connection.run_sync(Base.metadata.create_all)
            for replica in items.replicas:
                await replica.caught_up()
            await late.pause_replay()
            async with cluster.async_engine("many").connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(insert(Order), {"id": 7, "customer": 7})
            await cluster.install(cluster.map.moved([cluster.map.bucket_of(7)], "many"))
            await ready.caught_up()
            await fresh(many)
            assert await found(cluster, 8) == []  # and the new epoch was shown
            point(late)
            async with asyncio.timeout(20):
                while await port_of_reads(many) != late.port:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            asked: list[str] = []

            def catch_up(own: Any, cursor: Any, statement: str, *rest: Any) -> None:
                if not asked:
                    await_only(late.resume_replay())
                    await_only(late.caught_up())
                asked.append(statement)

            event.listen(many.nodes()[1].reads.sync_engine, "after_cursor_execute", catch_up)
            assert await found(cluster, 7) == [7]
            assert len(asked) == 3  # the read, the epoch, the read again
        finally:
            await late.resume_replay()


async def found(cluster: ShardedCluster, number: int) -> list[int]:
    return list((await cluster.execute(select(Order.id).where(Order.id == number))).scalars())


async def fresh(cluster: AsyncCluster) -> None:
    async with asyncio.timeout(20):
        while cluster.nodes()[1].seen.lag_state != "fresh":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def port_of_reads(cluster: AsyncCluster) -> int:
    async with cluster.connect(read_only=True) as connection:
        port: int = (await connection.execute(text("SELECT inet_server_port()"))).scalar_one()
    return port
