"""Read your writes through a cluster's own sessions and connections, on real servers whose replay stops and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text, update

from bench._db_causality import KEYS, prepare, shaken
from bench._db_cluster import PAIRS, pairs
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.causal_asgi import CausalityMiddleware
from tenfold.db.causal_read import CausalOptions
from tenfold.db.causality import CAUSALITY, causality
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.refusals import is_gone
from tenfold.db.token import NOWHERE, UNKNOWN, Token
from tenfold.servers import Topology

PORT = text("SELECT inet_server_port()")
VERSION = select(PAIRS.c.version).where(PAIRS.c.id == 1)


def raised(version: int) -> Any:
    return update(PAIRS).where(PAIRS.c.id == 1).values(version=version)


@pytest.fixture
async def cluster(topology: Topology) -> AsyncIterator[AsyncCluster]:
    await topology.revive()
    await prepare(topology)
    async with create_async_cluster(topology.primary.url, [replica.url for replica in topology.replicas]) as cluster:
        await cluster.router.refresh()
        yield cluster


@pytest.fixture
async def still(topology: Topology, cluster: AsyncCluster) -> AsyncIterator[None]:
    """No replica replays."""
    for replica in topology.replicas:
        await replica.pause_replay()
    try:
        yield
    finally:
        for replica in topology.replicas:
            await replica.resume_replay()


@pytest.mark.timeout(60)
async def test_two_thousand_pairs_are_never_stale_and_replicas_serve_most(
    topology: Topology, cluster: AsyncCluster
) -> None:
    async with shaken(topology.replicas, seed=31):
        found = await pairs(cluster, 2000)
    router, counters = cluster.router, cluster.causal.counters
    assert (found.reads, found.stale, found.failed) == (2000, 0, 0)
    assert router.reads_on_replicas + router.reads_on_primary == 2000
    assert router.reads_on_replicas >= 1200, (router, counters)
    assert counters.at_once > 0, counters
    assert counters.behind > 0, counters


async def test_without_tokens_the_same_reads_are_stale(topology: Topology, cluster: AsyncCluster) -> None:
    """The control: else the test above could not fail."""
    async with shaken(topology.replicas, seed=32):
        found = await pairs(cluster, 800, tokens=False)
    assert found.stale >= 20, found


@pytest.mark.usefixtures("still")
async def test_every_way_to_write_counts_in_the_scope_and_every_way_to_read_asks(cluster: AsyncCluster) -> None:
    session_of = cluster.sessionmaker()

    async def by_session(version: int) -> None:
        async with session_of.begin() as session:
            await session.execute(raised(version))

    async def by_begin(version: int) -> None:
        async with cluster.begin() as connection:
            await connection.execute(raised(version))

    async def by_connect(version: int) -> None:
        async with cluster.connect() as connection:
            await connection.execute(raised(version))
            await connection.commit()

    async def by_run(version: int) -> None:
        await cluster.run(lambda session: session.execute(raised(version)))

    async def by_execute(version: int) -> None:
        await cluster.execute(raised(version))

    for version, write in enumerate((by_session, by_begin, by_connect, by_run, by_execute), 1):
        with causality() as scope:
            await write(version)
            assert scope.wrote, write
            assert (await cluster.execute(VERSION)).scalar_one() == version
            assert scope.captures == 1
            async with session_of() as session:
                assert await session.scalar(VERSION) == version
            async with session_of(read_only=True) as session:
                assert (await (await session.connection()).execute(VERSION)).scalar_one() == version
            async with cluster.connect(read_only=True) as connection:
                assert (await connection.execute(VERSION)).scalar_one() == version
            assert scope.captures == 1
        assert (await cluster.execute(VERSION)).scalar_one() == 0  # outside of the scope a replica's state will do


@pytest.mark.usefixtures("still")
async def test_a_session_that_is_on_a_replica_leaves_it_for_what_its_scope_wrote(cluster: AsyncCluster) -> None:
    session_of = cluster.sessionmaker()
    with causality():
        async with session_of() as session:
            assert await session.scalar(VERSION) == 0
            await cluster.execute(raised(5))
            assert await session.scalar(VERSION) == 5
        async with session_of(read_only=True) as session, session.begin():
            assert await session.scalar(VERSION) == 5


async def test_unknown_is_the_primary_s_and_a_scope_that_only_reads_asks_nobody(
    topology: Topology, cluster: AsyncCluster
) -> None:
    with causality(UNKNOWN):
        assert (await cluster.execute(PORT)).scalar_one() == topology.primary.port
        async with cluster.session() as session:
            assert await session.scalar(PORT) == topology.primary.port
    with causality() as scope:
        for _ in range(5):
            assert (await cluster.execute(PORT)).scalar_one() != topology.primary.port
    assert scope.captures == 0
    counters = cluster.causal.counters
    assert counters.at_once + counters.there + counters.behind == 0


@pytest.mark.usefixtures("still")
async def test_without_a_primary_a_read_is_refused_rather_than_stale(topology: Topology, cluster: AsyncCluster) -> None:
    token: Token | None = None
    with causality() as scope:
        await cluster.execute(raised(9))
        token = await scope.outgoing()
    await topology.primary.kill()
    try:
        with causality(token):
            for _ in range(3):
                with pytest.raises(ReadsRefused):
                    await cluster.execute(VERSION)
            with pytest.raises(ReadsRefused):
                async with cluster.session(read_only=True) as session:
                    await session.scalar(VERSION)
            with pytest.raises(ReadsRefused):
                async with cluster.connect(read_only=True) as connection:
                    await connection.execute(VERSION)
    finally:
        await topology.primary.start()


@pytest.mark.parametrize("shown", [True, False])
async def test_a_read_that_the_primary_loses_runs_again_where_it_may_and_else_says_why(
    topology: Topology, cluster: AsyncCluster, shown: bool
) -> None:
    """In the middle of a session: each read ran alone, so it may run again on a replica that shows what is wanted."""
    for replica in topology.replicas:
        await replica.pause_replay()
    try:
        with causality():
            await cluster.execute(raised(3))
            async with cluster.session() as session:
                assert (await session.execute(VERSION)).scalar_one() == 3
                assert cluster.router.reads_on_primary == 1
                if shown:
                    for replica in topology.replicas:
                        await replica.resume_replay()
                        await replica.caught_up()
                await topology.primary.kill()
                if shown:
                    assert (await session.execute(VERSION)).scalar_one() == 3
                    assert cluster.router.reads_on_replicas == 1
                else:
                    with pytest.raises(ReadsRefused) as caught:
                        await session.execute(VERSION)
                    assert caught.value.__cause__ is not None
                    assert is_gone(caught.value.__cause__)
                assert cluster.router.repeated >= 1
    finally:
        for replica in topology.replicas:
            await replica.resume_replay()
        await topology.revive()


@pytest.mark.usefixtures("still")
async def test_the_middleware_carries_the_token_to_cluster_sessions(cluster: AsyncCluster) -> None:
    session_of = cluster.sessionmaker()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            async with session_of.begin() as session:
                await session.execute(raised(42))
        async with session_of() as session:
            body = str(await session.scalar(VERSION)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    middleware = CausalityMiddleware(app, keys=KEYS)

    async def ask(method: str, *headers: tuple[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await middleware({"type": "http", "method": method, "headers": headers}, None, send)  # type: ignore[arg-type]
        return sent[1]["body"], dict(sent[0]["headers"])

    body, answered = await ask("POST")
    assert body == b"42"
    cookie = answered[b"set-cookie"].split(b";")[0]
    assert await ask("GET", (b"cookie", cookie)) == (b"42", {})
    assert (await ask("GET"))[0] == b"0"


async def steps_back(topology: Topology, *, monotonic: bool, how: str, rounds: int = 200) -> int:
    """One scope reads a row that somebody else raises all the time; how often does it see an older version than
    before?
    """
    await topology.revive()
    await prepare(topology)
    urls = [replica.url for replica in topology.replicas]
    options = CausalOptions(monotonic=monotonic, wait="50ms")
    back = newest = version = 0
    async with (
        create_async_cluster(topology.primary.url, urls, causal=options) as cluster,
        shaken(topology.replicas, seed=33),
    ):

        async def read() -> int:
            if how == "execute":
                return int((await cluster.execute(VERSION)).scalar_one())
            if how == "connect":
                async with cluster.connect(read_only=True) as connection:
                    return int((await connection.execute(VERSION)).scalar_one())
            async with cluster.session() as session:
                return int((await session.execute(VERSION)).scalar_one())

        await cluster.router.refresh()
        with causality() as scope:
            for _ in range(rounds):
                version += 1
                reset = CAUSALITY.set(None)
                await cluster.execute(raised(version))
                CAUSALITY.reset(reset)
                seen = await read()
                back += seen < newest
                newest = max(newest, seen)
            assert scope.superseded == 0
    return back


@pytest.mark.parametrize("how", ["session", "execute", "connect"])
async def test_monotonic_reads_never_go_back(topology: Topology, how: str) -> None:
    assert await steps_back(topology, monotonic=True, how=how) == 0


async def test_without_it_the_same_reads_go_back(topology: Topology) -> None:
    """The control."""
    assert await steps_back(topology, monotonic=False, how="session") > 0


async def test_a_monotonic_session_that_read_the_primary_does_not_go_back_to_a_replica(
    topology: Topology, still: None
) -> None:
    urls = [replica.url for replica in topology.replicas]
    async with create_async_cluster(topology.primary.url, urls, causal=CausalOptions(monotonic=True)) as cluster:
        await cluster.router.refresh()
        async with asyncio.timeout(10):
            while any(node.seen.lag_state != "fresh" for node in cluster.nodes()[1:]):  # noqa: ASYNC110 - first probes
                await asyncio.sleep(0.01)
        await cluster.execute(raised(7))
        with causality() as scope:
            async with cluster.session() as session:
                assert (await session.execute(VERSION)).scalar_one() == 0
            async with cluster.session(route="primary") as session:
                assert (await session.execute(VERSION)).scalar_one() == 7
                await session.rollback()
            assert scope.unsettled
            async with cluster.session() as session:
                assert (await session.execute(VERSION)).scalar_one() == 7


async def answered(app: Any, token: str | None = None) -> tuple[Any, Token | None, str | None]:
    """What a request with ``token`` put into its answer, the token that came with it, and its text."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads")

    given = [] if token is None else [(b"tenfold-causality", token.encode())]
    await CausalityMiddleware(app, keys=KEYS, cookie=None)({"type": "http", "headers": given}, receive, send)
    handed = dict(sent[0]["headers"]).get(b"tenfold-causality")
    text = None if handed is None else handed.decode()
    return sent[1]["body"], None if text is None else KEYS.read(text), text


async def said(send: Any, body: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("way", ["session", "flush", "core"])
async def test_a_commit_after_the_answer_makes_its_token_unknown_and_the_next_answer_heals_it(
    cluster: AsyncCluster, way: str
) -> None:
    """As FastAPI runs what stands after ``yield`` in a dependency: when the answer has been sent."""
    session_of = cluster.sessionmaker()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        if way == "core":
            async with cluster.begin() as connection:
                await connection.execute(raised(7))
                await said(send, None)
        else:
            async with session_of.begin() as session:
                if way == "flush":
                    await session.connection()
                    await session.flush()
                await session.execute(raised(7))
                await said(send, None)

    async def read(scope: Any, receive: Any, send: Any) -> None:
        async with session_of() as session:
            await said(send, await session.scalar(VERSION))

    await cluster.watch.settle()
    system = cluster.system
    assert system is not None
    _, token, text = await answered(late)
    assert token is not None
    assert token.on(system) is NOWHERE
    body, token, text = await answered(read, text)
    assert body == 7  # from the primary: no replica has replayed it
    assert token is not None
    assert token.on(system) not in (None, NOWHERE)  # whoever was sent to the primary comes back with a position
    body, token, _ = await answered(read, text)
    assert (body, token) == (7, None)


async def test_reading_on_the_primary_after_a_commit_keeps_the_token(cluster: AsyncCluster) -> None:
    session_of = cluster.sessionmaker()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with session_of(route="primary") as session:
            await session.execute(raised(8))
            await session.commit()
            found = await session.scalar(VERSION)  # begins a transaction, which is open when the answer is sent
            await said(send, found)

    await cluster.watch.settle()
    body, token, _ = await answered(app)
    assert body == 8
    assert token is not None
    assert cluster.system is not None
    assert token.on(cluster.system) not in (None, NOWHERE)
