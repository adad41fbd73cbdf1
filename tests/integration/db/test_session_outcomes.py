"""What a session and a single statement do to the scope that they run in, however they end; and what users may say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState

from bench._db_causality import prepare
from bench._db_cluster import PAIRS
from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, AtLeast, create_async_cluster
from tenfold.db.causality import causality
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.route import level_of
from tenfold.db.token import Token
from tenfold.servers import Postgres, Topology

PORT = text("SELECT inet_server_port()")
VERSION = select(PAIRS.c.version).where(PAIRS.c.id == 1)
AUTOCOMMIT = {"isolation_level": "autocommit"}


def raised(version: int) -> Any:
    return update(PAIRS).where(PAIRS.c.id == 1).values(version=version)


@pytest.fixture
async def cluster(topology: Topology) -> AsyncIterator[AsyncCluster]:
    """Its replicas show version 0 of every pair, and go on doing so."""
    await topology.revive()
    await prepare(topology)
    async with create_async_cluster(topology.primary.url, [replica.url for replica in topology.replicas]) as cluster:
        await cluster.router.refresh()
        for replica in topology.replicas:
            await replica.pause_replay()
        try:
            yield cluster
        finally:
            for replica in topology.replicas:
                await replica.resume_replay()


@pytest.fixture
async def unheard(
    topology: Topology, unheard_commits: Callable[[Postgres], AbstractAsyncContextManager[None]]
) -> AsyncIterator[None]:
    async with unheard_commits(topology.primary):
        yield


@pytest.mark.parametrize("way", ["session", "begin", "execute"])
async def test_a_commit_whose_answer_was_lost_counts_in_the_scope(
    topology: Topology, cluster: AsyncCluster, unheard: None, way: str
) -> None:
    async def write() -> None:
        if way == "execute":
            await cluster.execute(raised(1))
        elif way == "begin":
            async with cluster.sessionmaker().begin() as session:
                await session.execute(raised(1))
        else:
            async with cluster.session() as session:
                await session.execute(raised(1))
                try:
                    await session.commit()
                finally:  # the session is not closed yet
                    assert (await cluster.execute(VERSION)).scalar_one() == 1

    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with causality() as scope:
        writing = asyncio.create_task(write())
        async with asyncio.timeout(10):
            while not await topology.primary.fetchval(cut):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        with pytest.raises(DBAPIError):
            await writing
        assert scope.wrote
        assert (await cluster.execute(VERSION)).scalar_one() == 1


async def test_what_failed_before_commit_does_not_count(cluster: AsyncCluster) -> None:
    with causality() as scope:
        with pytest.raises(DBAPIError):
            await cluster.execute(text("UPDATE pairs SET version = 1 / 0"))
        async with cluster.session() as session:
            await session.execute(raised(1))
            await session.rollback()
        assert not scope.writes


async def test_a_session_in_autocommit_counts_without_a_commit(cluster: AsyncCluster) -> None:
    with causality() as scope:
        async with cluster.session(execution_options=AUTOCOMMIT) as session:
            await session.execute(raised(1))
            assert (await cluster.execute(VERSION)).scalar_one() == 1
            connection = await session.connection()
            await connection.execute(raised(2))
        assert (await cluster.execute(VERSION)).scalar_one() == 2
        assert scope.wrote


async def test_a_session_that_wrote_outside_of_a_scope_stays_on_the_primary_in_it(cluster: AsyncCluster) -> None:
    position = (await cluster.token()).positions[0]
    token = Token(replace(position, lsn=1))  # which every replica shows
    async with cluster.session() as session:
        await session.execute(raised(1))
        await session.commit()
        with causality(token):
            assert (await cluster.execute(VERSION)).scalar_one() == 0  # which is all that the token asks for
            assert await session.scalar(VERSION) == 1
    with causality(token):
        async with cluster.session() as session:
            await session.execute(raised(2))
            await session.commit()
            with causality(token):
                assert await session.scalar(VERSION) == 2


async def test_reads_that_share_a_snapshot_do_not_leave_it_for_what_the_scope_writes(cluster: AsyncCluster) -> None:
    with causality():
        async with cluster.session(read_only=True) as session:
            await session.connection(execution_options={"isolation_level": "repeatable_read"})
            first = (await session.execute(PORT)).scalar_one(), await session.scalar(VERSION)
            await cluster.execute(raised(1))
            assert ((await session.execute(PORT)).scalar_one(), await session.scalar(VERSION)) == first
            with pytest.raises(ReadsRefused, match=r"holds the snapshot .* may not show what this one asks for"):
                await session.scalar(VERSION.execution_options(route=AtLeast(await cluster.token())))
            await session.rollback()
            assert await session.scalar(VERSION) == 1


@pytest.mark.parametrize("level", ["REPEATABLE READ", "repeatable_read", "Serializable"])
async def test_a_level_is_known_in_each_spelling_that_sqlalchemy_takes(
    topology: Topology, cluster: AsyncCluster, level: str
) -> None:
    assert level_of({"isolation_level": level}) in ("REPEATABLE READ", "SERIALIZABLE")
    async with cluster.session(execution_options={"isolation_level": level}) as session:
        assert await session.scalar(PORT) == topology.primary.port


async def test_the_database_s_own_level_holds_for_sessions_that_name_none(
    topology: Topology, cluster: AsyncCluster
) -> None:
    settings = "SET default_transaction_isolation = 'repeatable read'", "RESET default_transaction_isolation"
    try:
        await topology.primary.fetchval(f"ALTER SYSTEM {settings[0]}")
        await topology.primary.fetchval("SELECT pg_reload_conf()")
        async with create_async_cluster(topology.primary.url, [topology.replicas[0].url]) as strict:
            await strict.router.refresh()
            async with strict.session() as session:
                assert await session.scalar(PORT) == topology.primary.port
            async with strict.session(execution_options={"isolation_level": "READ COMMITTED"}) as session:
                await session.scalar(PORT)
            assert strict.router.sent_to_primary == 1
            assert strict.explain_route(PORT).to == "primary"
    finally:
        await topology.primary.fetchval(f"ALTER SYSTEM {settings[1]}")
        await topology.primary.fetchval("SELECT pg_reload_conf()")


async def test_a_route_among_the_options_of_a_session_or_from_a_hook(topology: Topology, cluster: AsyncCluster) -> None:
    async with cluster.session(execution_options={"route": "primary"}) as session:
        assert await session.scalar(PORT) == topology.primary.port
    with pytest.raises(MisuseError, match="nearest"):
        cluster.session(execution_options={"route": "nearest"})

    def to_the_primary(state: ORMExecuteState) -> None:
        state.update_execution_options(route="primary")

    def another(state: ORMExecuteState) -> None:
        state.statement = text("SELECT pg_advisory_xact_lock(1), inet_server_port()")

    for hook in (to_the_primary, another):
        async with cluster.session() as session:
            assert await session.scalar(PORT) != topology.primary.port
        async with cluster.session() as session:
            event.listen(session.sync_session, "do_orm_execute", hook)
            assert (await session.execute(PORT)).one()[-1] == topology.primary.port


async def test_what_is_no_statement_and_no_token_is_refused(cluster: AsyncCluster) -> None:
    what: Any = "SELECT 1"
    with pytest.raises(MisuseError, match=r"such as select\(…\) or text\(…\), got 'SELECT 1'"):
        await cluster.execute(what)
    with pytest.raises(MisuseError, match="expected a Token"), causality(what):
        pass
    with causality(Token()) as scope:
        assert scope.wanted_on(1) is None
