"""What other routers send to a replica and must not: every row of it, through a session and by `Router.execute`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import (
    DDL,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column
from sqlalchemy.schema import Sequence

from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.router import Router, routed
from tenfold.db.session import routed_sessionmaker

ITEMS = Table("items", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
PORT = select(func.inet_server_port())


class Base(DeclarativeBase):
    pass


class Numbered(Base):
    """Its SELECT draws from a sequence, and nothing in the statement shows it."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = column_property(func.nextval("item_numbers"))


@pytest.fixture
async def cluster(items: Any) -> AsyncIterator[AsyncCluster]:
    async with create_async_cluster(items.primary.url, [replica.url for replica in items.replicas]) as cluster:
        async with cluster.begin() as connection:
            await connection.execute(text("CREATE SEQUENCE IF NOT EXISTS item_numbers"))
        for replica in items.replicas:
            await replica.caught_up()
        yield cluster


@pytest.fixture
async def router(cluster: AsyncCluster) -> Router:
    router = routed(cluster)
    await router.refresh()
    return router


WRONG = {
    "text insert": text("INSERT INTO items VALUES (100, 'x')"),
    "text update": text("UPDATE items SET name = 'x' WHERE id = 1"),
    "text with a comment first": text("/* SELECT */ DELETE FROM items WHERE id = 5"),
    "select over an insert": select(insert(ITEMS).values(id=101, name="x").returning(ITEMS.c.id).cte("new").c.id),
    "select beside an insert": select(ITEMS.c.id).add_cte(insert(ITEMS).values(id=102, name="x").cte("new")),
    "nextval": select(func.nextval("item_numbers")),
    "nextval of a schema": select(func.public.nextval("item_numbers")),
    "a sequence": select(Sequence("item_numbers").next_value()),
    "a sequence in a literal": select(literal_column("nextval('item_numbers')")),
    "a sequence in a mapped column": select(Numbered),
    "a sequence in a prefix": select(ITEMS.c.id).prefix_with(text("(SELECT nextval('item_numbers')),")),
    "for update": select(ITEMS).with_for_update(),
    "for update in a subquery": select(select(ITEMS.c.id).with_for_update().subquery().c.id),
    "for share in a condition": select(1).where(select(ITEMS.c.id).with_for_update(read=True).exists()),
    "an advisory lock": select(func.pg_advisory_xact_lock(7)),
    "an advisory lock in text": text("SELECT pg_try_advisory_xact_lock(7)"),
    "ddl": DDL("CREATE TABLE IF NOT EXISTS other (id int)"),
    "ddl in text": text("CREATE TEMP TABLE mine (id int)"),
    "do": text("DO $$ BEGIN END $$"),
    "prepare": text("PREPARE adds AS INSERT INTO items VALUES (103, 'x')"),
    "copy to": text("COPY items TO '/dev/null'"),
    "listen": text("LISTEN news"),
    "set": text("SET LOCAL work_mem = '8MB'"),
    "explain analyze": text("EXPLAIN ANALYZE UPDATE items SET name = 'y'"),
    "several": text("SELECT 1; SELECT nextval('item_numbers')"),
    "insert": insert(ITEMS).values(id=104, name="x"),
    "update": update(ITEMS).values(name="z"),
    "delete": delete(ITEMS).where(ITEMS.c.id == 9),
    "not known": select(func.no_such_function(1)),
}


# The driver prepares one statement at a time, and the others exist in no database.
CANNOT_RUN = {"several", "not known", "a sequence in a prefix", "nextval of a schema"}


async def test_all_of_it_is_the_primary_s(router: Router, items: Any) -> None:
    session_of = routed_sessionmaker(router)
    for name, statement in WRONG.items():
        told = router.explain(statement)
        assert told.to == "primary", f"{name}: {told}"
        assert told.verdict.kind == "write", f"{name}: {told}"
        assert told.verdict.reasons, f"{name}: {told}"
        if name not in CANNOT_RUN:
            async with session_of() as session:
                await session.execute(statement)
                # one target for the transaction
                assert (await session.execute(PORT)).scalar_one() == items.primary.port, name
                await session.rollback()
    assert (router.refused, router.reads_on_replicas) == (0, 0)


READS = [
    select(ITEMS).where(ITEMS.c.id.in_([1, 2])).order_by(ITEMS.c.name).limit(5),
    select(func.count()).select_from(ITEMS),
    select(func.now(), func.random(), func.coalesce(ITEMS.c.name, "update")),
    select(select(ITEMS.c.id).cte("a").c.id),
    text("SELECT id FROM items WHERE name = :name").bindparams(name="for update"),
    text("WITH a(b) AS (SELECT 1) SELECT * FROM a"),
    text("EXPLAIN UPDATE items SET name = 'x'"),
    text("SHOW server_version"),
]


async def test_reads_are_a_replica_s(router: Router) -> None:
    for statement in READS:
        told = router.explain(statement)
        assert told.to == "replica", str(told)
        assert told.places[0].startswith("replica")
        assert told.places[-1].startswith("primary")
        await router.execute(statement)
    assert (router.reads_on_replicas, router.sent_to_primary, router.refused) == (len(READS), 0, 0)


async def test_the_read_after_commit_is_the_primary_s(router: Router, items: Any) -> None:
    async with routed_sessionmaker(router)() as session:
        await session.execute(PORT)
        await session.execute(insert(ITEMS).values(id=200, name="new"))
        await session.commit()
        assert (await session.execute(PORT)).scalar_one() == items.primary.port
        assert (await session.execute(select(ITEMS.c.name).where(ITEMS.c.id == 200))).scalar_one() == "new"


async def test_reads_of_one_session_do_not_alternate(router: Router, items: Any) -> None:
    ports = set()
    for _ in range(10):
        async with routed_sessionmaker(router)() as session:
            seen = set()
            for _ in range(4):
                seen.add((await session.execute(PORT)).scalar_one())
                await session.commit()
            assert len(seen) == 1
            ports |= seen
    assert ports == {replica.port for replica in items.replicas}
