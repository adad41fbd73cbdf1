"""Servers for the tests of the database. They are started once, and each module gets them as if they were new: all of
them up, and nothing on them of the module before. So a module may kill, pause and promote them as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tenfold.db.shards import ShardedCluster
from tenfold.servers import Postgres, ServersError, Topology

# Autovacuum would take locks and cancel readers of replicas, once servers live for more than a minute.
SETTINGS = {"max_prepared_transactions": 50, "track_activity_query_size": 4096, "autovacuum": "off"}
BROKEN = (ServersError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
CLIENTS = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
DATABASES = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> current_database()"
EMPTY = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    FOR name IN SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user LOOP
        EXECUTE format('DROP OWNED BY %I', name);
        EXECUTE format('DROP ROLE %I', name);
    END LOOP;
END $$;
ALTER ROLE CURRENT_USER RESET ALL;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO public;
CREATE EXTENSION pg_stat_statements;
"""


async def left_alone(server: Postgres) -> None:
    """Running, with the settings that it began with, and without a client."""
    await server.resume()
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute("ALTER SYSTEM RESET ALL")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute(CLIENTS)
    finally:
        await connection.close()


async def empty(server: Postgres) -> None:
    """No transaction that is prepared, no other database, schema or role, and nothing in the public schema."""
    connection = await asyncpg.connect(server.url)
    try:
        for record in await connection.fetch("SELECT gid FROM pg_prepared_xacts"):
            await connection.execute(f"ROLLBACK PREPARED '{record['gid']}'")
        for record in await connection.fetch(DATABASES):
            await connection.execute(f'DROP DATABASE "{record["datname"]}" WITH (FORCE)')
        await connection.execute(EMPTY)
    finally:
        await connection.close()


class Plain(Topology):
    """Servers that are kept, as the shards of a topology that has no primary and neither starts nor ends them."""

    def __init__(self, shards: list[Postgres]) -> None:
        super().__init__(shards=len(shards))
        self.shards = shards

    async def revive(self) -> None:
        for shard in self.shards:
            if not shard.running:
                await shard.start()


class Kept:
    """Servers that one module after another uses. What cannot be put in order is replaced: a module that broke it is
    no reason for the next one to fail.
    """

    def __init__(self) -> None:
        self._topology = Topology(replicas=2, settings=SETTINGS)
        self._plain: list[Postgres] = []

    async def topology(self) -> Topology:
        topology = self._topology
        if topology.servers:
            try:
                await self._restore(topology)
            except BROKEN as error:
                print(f"replaced, because it could not be put in order: {topology}: {error!r}")
                await topology.close()
        if not topology.servers:
            await topology.start()
        return topology

    async def plain(self, count: int) -> Plain:
        while len(self._plain) < count:
            self._plain.append(Postgres(settings=SETTINGS))
        chosen = self._plain[:count]
        async with asyncio.TaskGroup() as group:
            for server in chosen:
                group.create_task(self._ready(server))
        return Plain(chosen)

    async def close(self) -> None:
        async with AsyncExitStack() as stack:
            for each in (self._topology, *self._plain):
                stack.push_async_callback(each.close)

    async def _restore(self, topology: Topology) -> None:
        await topology.revive()
        for server in (topology.primary, *topology.replicas):
            await left_alone(server)
        for replica in topology.replicas:
            await replica.resume_replay()
        await empty(topology.primary)
        for replica in topology.replicas:
            await replica.caught_up(within="20s")

    async def _ready(self, server: Postgres) -> None:
        if server.port:
            try:
                if not server.running:
                    await server.start()
                await left_alone(server)
                await empty(server)
            except BROKEN as error:
                print(f"replaced, because it could not be put in order: {server}: {error!r}")
                await server.close()
        if not server.port:
            await server.start()


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    kept = Kept()
    try:
        yield kept
    finally:
        asyncio.run(kept.close())


@pytest.fixture(scope="module")
def topology(kept: Kept) -> Topology:
    """One primary and two streaming replicas, for this module alone."""
    return asyncio.run(kept.topology())


@pytest.fixture(scope="module")
def plain(kept: Kept) -> Callable[[int], Topology]:
    """A function that gives a module so many shards. For fixtures that are not ``async``."""
    return lambda count: asyncio.run(kept.plain(count))


@pytest.fixture(scope="module")
def server(plain: Callable[[int], Topology]) -> Postgres:
    """One without replicas, for this module alone."""
    return plain(1).shards[0]


@pytest.fixture
async def engine(server: Postgres) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(server.url.replace("://", "+asyncpg://"), pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def unheard_commits() -> Callable[[Postgres], AbstractAsyncContextManager[None]]:
    """``async with unheard_commits(server):`` each COMMIT of a change waits for ever: it is committed, and the server
    cannot say so.
    """

    @asynccontextmanager
    async def unheard(server: Postgres) -> AsyncIterator[None]:
        for setting in ("synchronous_standby_names = 'nobody'", "synchronous_commit = 'on'"):
            await server.fetchval(f"ALTER SYSTEM SET {setting}")
        await server.fetchval("SELECT pg_reload_conf()")
        try:
            await commits_wait(server)
            yield
        finally:
            for setting in ("synchronous_standby_names", "synchronous_commit"):
                await server.fetchval(f"ALTER SYSTEM RESET {setting}")
            await server.fetchval("SELECT pg_reload_conf()")

    return unheard


async def commits_wait(server: Postgres) -> None:
    """Return when the server's processes have read that commits are to wait."""
    connection = await asyncpg.connect(server.url)
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await connection.execute("SELECT pg_logical_emit_message(true, '', '')", timeout=0.1)
                except TimeoutError:
                    return
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def emptied() -> Callable[[Postgres], Awaitable[None]]:
    """A function that leaves nothing on a server."""
    return empty


@pytest.fixture(scope="session")
def remade() -> Callable[[ShardedCluster, MetaData], Awaitable[None]]:
    """A function that makes the tables anew on every shard."""

    async def on(engine: AsyncEngine, tables: MetaData) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(tables.drop_all)
            await connection.run_sync(tables.create_all)

    async def remade(cluster: ShardedCluster, tables: MetaData) -> None:
        async with asyncio.TaskGroup() as group:
            for name in cluster.shards:
                group.create_task(on(cluster.async_engine(name), tables))

    return remade


@pytest.fixture
async def items(topology: Topology) -> Topology:
    """All servers up, and a table of ten items that all of them have."""
    await topology.revive()
    connection = await asyncpg.connect(topology.primary.url)
    await connection.execute("DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)")
    await connection.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 10) n")
    written = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
    await connection.close()
    await asyncio.gather(*[replica.caught_up(written) for replica in topology.replicas])
    return topology
