"""The peers of `bench.db`, each set up and used as its own documentation shows for asyncio with asyncpg.

A library that is not installed is left out and named. What none of them has a part for it has no entry for.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from bench._db_causality import KEYS
from bench._db_cluster import PAIRS
from bench._db_routing import built
from tenfold.db import AsyncCluster, causality, create_async_cluster
from tenfold.db.route import decide
from tenfold.servers import Topology

NAMES = {"advanced-alchemy": "advanced_alchemy", "hasql": "hasql"}
Read = Callable[[int], Awaitable[Any]]


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name, module in NAMES.items() if importlib.util.find_spec(module) is None]


@dataclass(frozen=True, slots=True)
class Client:
    """``write`` a version and return a token, empty where there is none; ``seen`` brings it and reads the version."""

    write: Callable[[int, int], Awaitable[str]]
    seen: Callable[[int, str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Peers:
    """What each of them does, by its name: reads by primary key; a connection taken and given back; a client's writes
    and reads; the choice of a server for a statement; sessions that route, and a context that counts what they send to
    a replica.
    """

    cluster: AsyncCluster
    reads: dict[str, Read] = field(default_factory=dict)
    held: dict[str, Read] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    choices: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    sessions: dict[str, tuple[Callable[[], Any], AbstractContextManager[Callable[[], int]]]] = field(
        default_factory=dict
    )


async def contestants(topology: Topology, stack: AsyncExitStack, absent: list[str]) -> Peers:
    """All that are installed, connected to all servers until ``stack`` ends."""
    for name in ("hasql", "asyncpg"):  # they tell of each server that is away, with a traceback
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
    urls = [replica.url for replica in topology.replicas]
    cluster = await stack.enter_async_context(create_async_cluster(topology.primary.url, urls))
    peers = Peers(cluster)
    await _tenfold(peers)
    await _plain(peers, topology, stack)
    if "advanced-alchemy" not in absent:
        await _advanced_alchemy(peers, topology, stack)
    if "hasql" not in absent:
        await _hasql(peers, topology, stack)
    return peers


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://")


def _engine(stack: AsyncExitStack, url: str, **options: Any) -> AsyncEngine:
    engine = create_async_engine(url, **options)
    stack.push_async_callback(engine.dispose)
    return engine


async def _plain(peers: Peers, topology: Topology, stack: AsyncExitStack) -> None:
    url = topology.replicas[0].url
    plain = _engine(stack, _for_sqlalchemy(url))
    pool = await asyncpg.create_pool(url, min_size=1)
    stack.push_async_callback(pool.close)
    peers.reads["SQLAlchemy, engine.begin()"] = _executed(plain.begin)
    peers.reads["SQLAlchemy, session"] = _executed(async_sessionmaker(plain))
    autocommit = _engine(stack, _for_sqlalchemy(url), isolation_level="AUTOCOMMIT")
    peers.reads["SQLAlchemy, autocommit"] = _executed(autocommit.connect)
    peers.reads["asyncpg pool"], peers.held["asyncpg pool"] = _fetched(pool.acquire), _acquired(pool.acquire)


async def _tenfold(peers: Peers) -> None:
    cluster, router, sessions = peers.cluster, peers.cluster.router, peers.cluster.sessionmaker()
    await router.refresh()

    async def execute(number: int) -> None:
        (await cluster.execute(built(number))).all()

    def choice(statement: Any) -> None:
        decide(router.classifier(statement))
        next(router.readers(router.wanted(), been_there=False, pinned=None))

    peers.reads["tenfold, execute"] = execute
    peers.reads["tenfold, read-only connection"] = _executed(lambda: cluster.connect(read_only=True))
    peers.reads["tenfold, session"] = _executed(sessions)
    peers.clients["tenfold without tokens"] = _over_sessions(sessions, sessions)
    peers.clients["tenfold"] = _with_tokens(peers.clients["tenfold without tokens"])
    peers.choices["tenfold"] = choice
    peers.sessions["tenfold"] = sessions, nullcontext(lambda: router.reads_on_replicas + router.refused)


async def _advanced_alchemy(peers: Peers, topology: Topology, stack: AsyncExitStack) -> None:
    from advanced_alchemy.config import SQLAlchemyAsyncConfig
    from advanced_alchemy.config.routing import RoutingConfig
    from advanced_alchemy.routing import RoutingAsyncSession, dispose_session_maker_async

    # 1.12.0 sets this before `AsyncSession.__init__`; in SQLAlchemy 2.1 (its issue 13563) it is a property that needs
    # that to have run, so that no session can be made. Nothing else of the library is changed.
    RoutingAsyncSession.bind = None
    primary, *replicas = (_for_sqlalchemy(server.url) for server in (topology.primary, *topology.replicas))
    routing = RoutingConfig(primary_connection_string=primary, read_replicas=list(replicas))
    sessions: Any = SQLAlchemyAsyncConfig(routing_config=routing).create_session_maker()
    stack.push_async_callback(dispose_session_maker_async, sessions)

    @contextmanager
    def counted() -> Iterator[Callable[[], int]]:
        connections: list[Any] = []
        note, engines = connections.append, [engine.sync_engine for engine in sessions.replica_engines]
        for engine in engines:
            event.listen(engine, "engine_connect", note)
        try:
            yield lambda: len(connections)
        finally:
            for engine in engines:
                event.remove(engine, "engine_connect", note)

    deciding = await stack.enter_async_context(sessions())
    peers.reads["advanced-alchemy, session"] = _executed(sessions)
    peers.clients["advanced-alchemy"] = _over_sessions(sessions, sessions)
    peers.choices["advanced-alchemy"] = lambda statement: deciding.sync_session.get_bind(clause=statement)
    peers.sessions["advanced-alchemy"] = sessions, counted()


async def _hasql(peers: Peers, topology: Topology, stack: AsyncExitStack) -> None:
    from hasql.driver import asyncpg as bare
    from hasql.driver import asyncsqlalchemy as alchemy

    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (topology.primary, *topology.replicas))
    url = topology.primary.url.replace(f"127.0.0.1:{topology.primary.port}", hosts)
    pool = bare.PoolManager(url)
    stack.push_async_callback(pool.close)
    options = {"pool_size": 10, "max_overflow": 5}
    engines = alchemy.PoolManager(url, fallback_master=True, pool_factory_kwargs=options)
    stack.push_async_callback(engines.close)
    for one in (pool, engines):
        await one.ready(masters_count=1, replicas_count=2)
    writing, reading = (
        alchemy.async_sessionmaker(engines, acquire_kwargs={"read_only": only}) for only in (False, True)
    )

    async def write(number: int, version: int) -> str:
        async with pool.acquire_master() as connection:
            await connection.execute("UPDATE pairs SET version = $2 WHERE id = $1", number, version)
        return ""

    async def seen(number: int, _token: str) -> int:
        async with pool.acquire_replica() as connection:
            return int(await connection.fetchval("SELECT version FROM pairs WHERE id = $1", number))

    peers.reads["hasql, SQLAlchemy connection"] = _executed(engines.acquire_replica)
    peers.reads["hasql, SQLAlchemy session"] = _executed(reading)
    peers.reads["hasql, asyncpg"] = _fetched(pool.acquire_replica)
    peers.held["hasql"] = _acquired(pool.acquire_replica)
    peers.clients["hasql, SQLAlchemy"] = _over_sessions(writing, reading)
    peers.clients["hasql, asyncpg"] = Client(write, seen)


def all_hosts(peers: Peers, topology: Topology, stack: AsyncExitStack) -> None:
    """What the driver does by itself: one URL with all servers, and it connects to the one that is primary."""
    hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (topology.primary, *topology.replicas))
    url = f"postgresql+asyncpg://tenfold@/postgres?{hosts}&target_session_attrs=primary"
    sessions = async_sessionmaker(_engine(stack, url))
    peers.clients["SQLAlchemy, all hosts"] = _over_sessions(sessions, sessions)


def _over_sessions(writing: Callable[[], Any], reading: Callable[[], Any]) -> Client:
    async def write(number: int, version: int) -> str:
        async with writing() as session:
            await session.execute(update(PAIRS).where(PAIRS.c.id == number).values(version=version))
            await session.commit()
        return ""

    async def seen(number: int, _token: str) -> int:
        async with reading() as session:
            return int(await session.scalar(select(PAIRS.c.version).where(PAIRS.c.id == number)))

    return Client(write, seen)


def _with_tokens(client: Client) -> Client:
    async def write(number: int, version: int) -> str:
        with causality() as scope:
            await client.write(number, version)
            token = await scope.outgoing()
        return "" if token is None else KEYS.sign(token)

    async def seen(number: int, token: str) -> int:
        with causality(KEYS.read(token)):
            return await client.seen(number, "")

    return Client(write, seen)


def _executed(opened: Callable[[], Any]) -> Read:
    """Reads over what `opened` gives: a session, or a connection of SQLAlchemy."""

    async def read(number: int) -> None:
        async with opened() as one:
            (await one.execute(built(number))).all()

    return read


def _fetched(acquire: Callable[[], Any]) -> Read:
    async def read(number: int) -> None:
        async with acquire() as connection:
            await connection.fetch("SELECT name FROM bench_items WHERE id = $1", number)

    return read


def _acquired(acquire: Callable[[], Any]) -> Read:
    async def read(_: int) -> None:
        async with acquire():
            pass

    return read
