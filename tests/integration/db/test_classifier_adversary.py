"""What was found by attacking the classifier and the routed sessions with a standby at hand, kept as cases.

A standby *accepts* most of the statements of `NOT_FOR_A_REPLICA`, and does or answers something wrong: no refusal would
have corrected a verdict of "read".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import ForeignKey, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.classify import Catalogue
from tenfold.db.classify.text import classify_text, parser
from tenfold.db.router import Router, routed
from tenfold.db.session import routed_sessionmaker

MODES = [pytest.param(True, marks=pytest.mark.skipif(parser() is None, reason="needs pglast")), False]

SCHEMA = """
DROP SCHEMA IF EXISTS adversary CASCADE;
CREATE SCHEMA adversary;
SET search_path = adversary;
CREATE SEQUENCE numbers;
SELECT nextval('numbers');
CREATE FUNCTION runs_text() RETURNS void LANGUAGE plpgsql STABLE AS
    $$ BEGIN EXECUTE 'SELECT pg_advisory_lock(1)'; END $$;
CREATE FUNCTION by_default(a text DEFAULT set_config('a.b', '1', false)) RETURNS text LANGUAGE sql STABLE AS 'SELECT a';
CREATE FUNCTION locks(int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT pg_try_advisory_lock($1)';
CREATE FUNCTION hides(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT adversary.locks($1)';
CREATE FUNCTION step(a bool, b int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT adversary.hides($2)';
CREATE AGGREGATE locking(int) (SFUNC = step, STYPE = bool);
CREATE OPERATOR ?# (RIGHTARG = int, FUNCTION = hides);
CREATE DOMAIN locked AS int CHECK (locks(VALUE));
CREATE DOMAIN on_locked AS locked;
CREATE DOMAIN harmless AS int CHECK (VALUE > -1);
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql VOLATILE AS 'SELECT ROW($1, $1)::adversary.pair';
CREATE CAST (int AS pair) WITH FUNCTION to_pair(int);
CREATE TYPE hidden_pair AS (a int, b int);
CREATE FUNCTION to_hidden_pair(int) RETURNS hidden_pair LANGUAGE sql STABLE AS
    'SELECT ROW($1, CASE WHEN adversary.locks($1) THEN 1 END)::adversary.hidden_pair';
CREATE CAST (int AS hidden_pair) WITH FUNCTION to_hidden_pair(int);
CREATE FUNCTION join(int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT pg_try_advisory_lock($1)';
CREATE FUNCTION is(int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT pg_try_advisory_lock($1)';
CREATE FUNCTION anything(int) RETURNS SETOF record LANGUAGE sql VOLATILE AS 'SELECT pg_try_advisory_lock($1)::int';
CREATE TABLE parts (id int, k int) PARTITION BY LIST (k);
CREATE UNLOGGED TABLE part_one PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE things (id int PRIMARY KEY, a int);
INSERT INTO things VALUES (1, 1), (2, 2), (3, 3);
CREATE TABLE links (id int PRIMARY KEY, thing int);
INSERT INTO links VALUES (1, 1), (2, 1), (3, 2);
CREATE FUNCTION draws(int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 1::bigint';
CREATE VIEW over_domain AS SELECT id::on_locked AS n FROM things;
CREATE VIEW over_sequence AS SELECT last_value FROM numbers;
"""

NOT_FOR_A_REPLICA = [
    "SELECT last_value FROM numbers",  # 33 on a standby, 1 on the primary
    "SELECT last_value FROM pg_sequences",
    "TABLE over_sequence",
    "SELECT runs_text()",
    "SELECT by_default()",
    "SELECT locking(id) FROM things",
    "SELECT ?# 5",
    "SELECT OPERATOR(adversary.?#) 5",
    "SELECT 1::locked",
    "SELECT CAST(id AS adversary.locked) FROM things",
    "SELECT locked '7'",
    "SELECT ARRAY[1]::on_locked[]",
    "SELECT * FROM over_domain",
    "SELECT 5::pair",
    "SELECT * FROM parts",
    "SELECT pg_walfile_name('0/1000000')",  # 55000
    "SELECT 5::hidden_pair",
    "SELECT E'a'\n'\\'' || pg_advisory_lock(1)::text || '' -- '",
    "SELECT join(1), is(1)",
    'SELECT * FROM things, anything(1) AS ("select" int)',
    # A replica tells of itself: nobody streams from it, and it has no transactions that are prepared.
    "SELECT count(*) FROM pg_stat_replication",
    "SELECT gid FROM pg_catalog.pg_prepared_xacts",
    "SELECT pid FROM pg_stat_activity",
    # Calls after what looks like an alias or a common table with columns.
    "SELECT DISTINCT ON (id) locks(id) FROM things",
    "SELECT 1 OPERATOR(pg_catalog.+) locks(1)::int",
    "WITH a AS (SELECT 1), b(x) AS (SELECT locks(1)) SELECT 1 FROM b",
    "EXPLAIN (ANALYZE on, COSTS off) SELECT locks(1)",
]

READS = [
    "WITH a AS (SELECT 1), b(y) AS (SELECT 2), c(z) AS NOT MATERIALIZED (SELECT 3) SELECT * FROM a, b, c",
    "SELECT * FROM (VALUES (1, 2)) v(a, b)",
    "SELECT * FROM (VALUES (1, 2)) AS v (a, b)",
    "SELECT * FROM unnest(ARRAY[1], ARRAY['a']) t(a, b)",
    "SELECT * FROM json_to_recordset('[]') AS x(a int)",
    "SELECT * FROM things TABLESAMPLE bernoulli (10) REPEATABLE (1)",
    "EXPLAIN (ANALYZE off) UPDATE things SET a = 1",
    "SELECT 1::harmless",
    "SELECT DISTINCT ON (id) lower('A') FROM things",
    "SELECT E'a' || 'b' || E'c' /* ' */ || E'\\''",
    "SELECT 1 FROM things a JOIN things b USING (id) WHERE a.a IS NOT NULL AND 'x' LIKE ('y')",
    "SELECT * FROM pg_stats",
]


@pytest.fixture(scope="module")
def schema(topology: Any) -> dict[str, bool]:
    return {}


@pytest.fixture
async def servers(topology: Any, schema: dict[str, bool]) -> Any:
    if not schema:
        connection = await asyncpg.connect(topology.primary.url)
        await connection.execute(SCHEMA)
        await connection.close()
        await topology.replicas[0].caught_up()
        schema["made"] = True
    return topology


@pytest.fixture
async def cluster(servers: Any) -> AsyncIterator[AsyncCluster]:
    async with create_async_cluster(servers.primary.url, [servers.replicas[0].url]) as cluster:
        async with asyncio.timeout(10):
            while cluster.nodes()[1].seen.lag_state != "fresh":  # noqa: ASYNC110 - its first probes
                await asyncio.sleep(0.01)
        yield cluster


@pytest.fixture
async def router(cluster: AsyncCluster) -> Router:
    router = routed(cluster, hub=Hub())
    await router.refresh()
    return router


async def catalogue_of(servers: Any) -> Catalogue:
    engine = create_async_engine(
        servers.replicas[0].url.replace("postgresql://", "postgresql+asyncpg://"),
        connect_args={"server_settings": {"search_path": "adversary"}},
    )
    try:
        async with engine.connect() as connection:
            return await Catalogue.load(connection)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("parsed", MODES)
async def test_verdicts(servers: Any, parsed: bool) -> None:
    catalogue = await catalogue_of(servers)
    wrong = [sql for sql in NOT_FOR_A_REPLICA if classify_text(sql, catalogue, parsed=parsed).is_read]
    assert wrong == []
    told = {sql: str(classify_text(sql, catalogue, parsed=parsed)) for sql in READS}
    assert {sql: verdict for sql, verdict in told.items() if verdict != "read"} == {}


async def test_a_replica_shows_a_sequence_ahead(servers: Any) -> None:
    found = []
    for server in (servers.primary, servers.replicas[0]):
        connection = await asyncpg.connect(server.url)
        found.append(await connection.fetchval("SELECT last_value FROM adversary.numbers"))
        await connection.close()
    assert found == [1, 33]


async def test_the_first_statements_wait_for_the_catalogue(servers: Any, cluster: AsyncCluster) -> None:
    drawn = text("SELECT last_value FROM adversary.numbers")
    assert cluster.router.classifier.catalogue is None
    found = await asyncio.gather(*[cluster.execute(drawn) for _ in range(5)])
    assert [one.scalar_one() for one in found] == [1] * 5


async def test_a_cancelled_reader_leaves_the_catalogue_to_the_next(cluster: AsyncCluster) -> None:
    router = routed(cluster, hub=Hub())
    first = asyncio.create_task(router.execute(text("SELECT 1")))
    while router._due < 0:  # noqa: ASYNC110 - it has begun to read it
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert router.classifier.catalogue is None
    await router.execute(text("SELECT 1"))
    assert router.classifier.catalogue is not None


# -- through sessions


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    __table_args__ = ({"schema": "adversary", "implicit_returning": False},)
    id: Mapped[int] = mapped_column(primary_key=True)
    a: Mapped[int]
    links: Mapped[list[Link]] = relationship(lazy="selectin", order_by=lambda: Link.id)


class Link(Base):
    __tablename__ = "links"
    __table_args__ = ({"schema": "adversary"},)
    id: Mapped[int] = mapped_column(primary_key=True)
    thing: Mapped[int] = mapped_column(ForeignKey(Thing.id))


async def test_a_function_run_by_itself_is_a_read(router: Router) -> None:
    async with routed_sessionmaker(router)() as session:
        await session.scalar(func.now())
    assert (router.reads_on_replicas, router.sent_to_primary) == (1, 0)


async def test_a_stream_with_eager_loads(router: Router) -> None:
    wanted = select(Thing).order_by(Thing.id)
    async with routed_sessionmaker(router)() as session:
        rows = await session.stream_scalars(wanted.execution_options(yield_per=2))
        assert [[link.id for link in thing.links] async for thing in rows] == [[1, 2], [3], []]
    assert router.sent_to_primary == 0
    for options in ({"yield_per": 2}, {"stream_results": True}):
        found = await router.execute(wanted.with_only_columns(Thing.id).execution_options(**options))
        assert found.scalars().all() == [1, 2, 3]


async def test_a_refused_stream_runs_on_the_primary(router: Router, cluster: AsyncCluster, servers: Any) -> None:
    drawn = text("SELECT adversary.draws(id) FROM adversary.things")
    assert router.classifier(drawn).is_read
    change = "CREATE OR REPLACE FUNCTION adversary.draws(int) RETURNS bigint LANGUAGE sql AS 'SELECT nextval({})'"
    async with cluster.begin() as connection:
        await connection.execute(text(change.format("''adversary.numbers''")))
    await servers.replicas[0].caught_up()
    async with routed_sessionmaker(router)() as session:
        await session.execute(text("SELECT 1"))
        rows = await session.stream(drawn)
        assert len([row async for row in rows]) == 3
    assert (router.refused, router.reads_on_replicas) == (1, 1)


async def test_a_statement_prepared_before_ddl_runs_again(router: Router, cluster: AsyncCluster, servers: Any) -> None:
    everything = text("SELECT * FROM adversary.changing")

    async def change(sql: str) -> None:
        async with cluster.begin() as connection:
            for one in sql.split(";"):
                await connection.execute(text(one))
        await servers.replicas[0].caught_up()

    await change("CREATE TABLE adversary.changing (a int); INSERT INTO adversary.changing VALUES (1)")
    session_of = routed_sessionmaker(router)
    async with session_of() as session:
        assert (await session.execute(everything)).all() == [(1,)]
    await change("ALTER TABLE adversary.changing ADD b int DEFAULT 2")
    async with session_of() as session:
        assert (await session.execute(everything)).all() == [(1, 2)]
    await change("ALTER TABLE adversary.changing ADD c int DEFAULT 3")
    found: Any = (await router.execute(everything)).all()
    assert found == [(1, 2, 3)]
    assert (router.reads_on_replicas, router.repeated, router.refused) == (3, 2, 0)
    # Where it cannot run again the error is SQLAlchemy's own, and a transaction that may be run again is.
    async with cluster.connect() as connection:
        await connection.execute(everything)
        await connection.commit()
        await change("ALTER TABLE adversary.changing DROP c")
        with pytest.raises(DBAPIError, match="cached statement plan is invalid"):
            await connection.execute(everything)
    tries = []

    async def reads(session: Any) -> Any:
        tries.append(1)
        return (await session.execute(everything)).all()

    assert await cluster.run(reads) == [(1, 2)]
    await change("ALTER TABLE adversary.changing DROP b")
    tries.clear()
    assert await cluster.run(reads) == [(1,)]
    assert len(tries) == 2


async def test_a_change_is_the_primary_s_with_all_it_reads_before(router: Router) -> None:
    async with routed_sessionmaker(router)() as session:
        change = update(Thing).where(Thing.a > 0).values(a=Thing.a + 1)
        await session.execute(change.execution_options(synchronize_session="fetch"))  # a SELECT comes first
        assert router.reads_on_replicas == 0
        await session.rollback()


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT pg_try_advisory_lock(1)", "advisory lock"),
        ("SELECT set_config('a.b', 'c', false)", "state of the session"),
        ("SET work_mem = '8MB'", "no query"),
        ("DELETE FROM adversary.things", "it is DELETE"),
    ],
)
async def test_a_read_only_session_takes_no_known_write(router: Router, sql: str, reason: str) -> None:
    async with routed_sessionmaker(router)(read_only=True) as session:
        with pytest.raises(MisuseError, match=f"read_only=True; expected a read, got .*{reason}"):
            await session.execute(text(sql))
        await session.execute(text("SELECT 1"))
