"""Reads that say which state they need, on a primary and two replicas whose replay stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, AtLeast, CausalOptions, ReadsRefused, Stale, Token, TokenKeys, causality
from tenfold.db import create_async_cluster as created
from tenfold.db.seen import Seen
from tenfold.db.token import UNKNOWN
from tenfold.servers import Postgres, Topology

KEYS = TokenKeys([b"a secret of sixteen bytes or more"])
PORT = select(func.inet_server_port())


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


NAME = select(Item.name).where(Item.id == 1)
OLD, NEW = "item 1", "new"


def renamed(name: str = NEW) -> Any:
    return text("UPDATE items SET name = :name WHERE id = 1").bindparams(name=name)


@asynccontextmanager
async def paused(*replicas: Postgres) -> AsyncIterator[None]:
    for replica in replicas:
        await replica.pause_replay()
    try:
        yield
    finally:
        for replica in replicas:
            await replica.resume_replay()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def until_seen(cluster: AsyncCluster, holds: Callable[[Seen], bool], *names: str) -> None:
    """Until the watch has seen so much of each of these; of all replicas without names."""
    nodes = [node for node in cluster.nodes() if node.name in (names or ("replica 0", "replica 1"))]
    await until(lambda: all(holds(node.seen) for node in nodes))


def fresh(seen: Seen) -> bool:
    return seen.lag_state == "fresh"


def late(seen: Seen) -> bool:
    return (seen.lag or 0.0) > 0.2


def there(seen: Seen) -> bool:
    return seen.lag == 0.0


@pytest.fixture
async def cluster(items: Topology) -> AsyncIterator[AsyncCluster]:
    urls = [replica.url for replica in items.replicas]
    async with created(items.primary.url, urls, max_lag="30s", watch_period="20ms", spill=5) as cluster:
        await cluster.router.refresh()
        await until_seen(cluster, fresh)
        yield cluster


@pytest.fixture
async def still(items: Topology, cluster: AsyncCluster) -> AsyncIterator[None]:
    """No replica replays."""
    async with paused(*items.replicas):
        yield


async def ways(cluster: AsyncCluster, route: Any) -> dict[str, Any]:
    """What each way to ask for ``route`` reads."""
    session_of = cluster.sessionmaker()
    found: dict[str, Any] = {"execute": (await cluster.execute(NAME, route=route)).scalar_one()}
    found["options"] = (await cluster.execute(NAME.execution_options(route=route))).scalar_one()
    for read_only in (False, True):
        async with session_of(read_only=read_only) as session:
            found[f"scalar {read_only}"] = await session.scalar(NAME, execution_options={"route": route})
        async with session_of(read_only=read_only) as session:
            item = await session.scalar(select(Item).where(Item.id == 1).execution_options(route=route))
            found[f"entity {read_only}"] = item.name
        async with session_of(read_only=read_only, route=route) as session:
            found[f"session {read_only}"] = await session.scalar(NAME)
        async with session_of(read_only=read_only, route=route) as session:
            rows = await session.stream(NAME.execution_options(yield_per=1))
            found[f"stream {read_only}"] = (await rows.scalars().all())[0]
    async with session_of(read_only=True, route=route) as session:
        found["connection"] = (await (await session.connection()).execute(NAME)).scalar_one()
    return found


# -- at least


@pytest.mark.usefixtures("still")
async def test_a_read_shows_what_its_token_tells_of_and_others_need_not(cluster: AsyncCluster) -> None:
    await cluster.execute(renamed())
    header = KEYS.sign(await cluster.token())  # of what was committed so far, by whomever
    reads = cluster.router.reads_on_primary
    found = await ways(cluster, AtLeast(KEYS.read(header)))
    assert set(found.values()) == {NEW}, found
    assert cluster.router.reads_on_primary > reads
    assert (await cluster.execute(NAME)).scalar_one() == OLD
    assert set((await ways(cluster, AtLeast(Token()))).values()) == {OLD}
    assert set((await ways(cluster, AtLeast(UNKNOWN))).values()) == {NEW}


async def test_a_replica_that_shows_it_or_soon_does_serves_it(items: Topology) -> None:
    urls = [replica.url for replica in items.replicas]
    patient = CausalOptions(wait="20s", answer="10s")
    async with created(items.primary.url, urls, max_lag="30s", watch_period="20ms", causal=patient) as cluster:
        await cluster.router.refresh()
        await until_seen(cluster, fresh)
        async with paused(*items.replicas):
            await cluster.execute(renamed())
            token = await cluster.token()
            waiting = asyncio.create_task(ways(cluster, AtLeast(token)))
            await until(lambda: any(node.replayed.waits for node in cluster.nodes()))
            assert not waiting.done()
        found = await waiting
        assert set(found.values()) == {NEW}, found
        assert cluster.router.reads_on_primary == 0
        assert cluster.router.reads_on_replicas >= len(found) - 1


@pytest.mark.usefixtures("still")
async def test_what_the_scope_wants_counts_beside_the_token(cluster: AsyncCluster) -> None:
    before = await cluster.token()
    await cluster.execute(renamed("other's"))
    after = await cluster.token()
    with causality(after):  # the later one, from either side
        assert (await cluster.execute(NAME, route=AtLeast(before))).scalar_one() == "other's"
    with causality(before):
        assert (await cluster.execute(NAME, route=AtLeast(after))).scalar_one() == "other's"
        assert (await cluster.token()).positions[0].lsn >= after.positions[0].lsn
    with causality():
        await cluster.execute(renamed("mine"))
        assert (await cluster.execute(NAME, route=AtLeast(before))).scalar_one() == "mine"
    with causality() as scope:
        await cluster.execute(renamed("again"))
        token = await cluster.token()
        assert scope.captures == 0  # one round trip, and it covers what the scope has not asked for
    assert (await cluster.execute(NAME, route=AtLeast(token))).scalar_one() == "again"


@pytest.mark.usefixtures("still")
async def test_a_session_on_a_replica_leaves_it_for_a_read_that_needs_more(
    items: Topology, cluster: AsyncCluster
) -> None:
    await cluster.execute(renamed())
    needed = AtLeast(await cluster.token())
    for read_only in (False, True):
        async with cluster.session(read_only=read_only) as session, session.begin():
            assert await session.scalar(NAME) == OLD
            assert await session.scalar(NAME, execution_options={"route": needed}) == NEW
            assert await session.scalar(NAME) == NEW  # it does not go back
        async with cluster.session(read_only=read_only) as session:
            stream = await session.stream(select(Item.id).order_by(Item.id).execution_options(yield_per=2))
            assert (await anext(stream)).id == 1
            assert await session.scalar(NAME, execution_options={"route": needed}) == NEW
            assert [row.id async for row in stream] == list(range(2, 11))


# -- stale


@pytest.mark.usefixtures("still")
async def test_an_old_state_will_do_although_the_scope_has_written(cluster: AsyncCluster) -> None:
    with causality() as scope:
        await cluster.execute(renamed())
        found = await ways(cluster, Stale("25s"))
        assert set(found.values()) == {OLD}, found
        async with cluster.session() as session:
            await session.execute(renamed())
            await session.commit()
            assert await session.scalar(NAME, execution_options={"route": Stale("25s")}) == OLD
        assert scope.captures == 0  # nobody had to ask where the writes were
        assert (await cluster.execute(NAME)).scalar_one() == NEW
    async with cluster.session() as session:
        await session.execute(renamed())
        assert await session.scalar(NAME, execution_options={"route": Stale("25s")}) == NEW  # its own transaction
        await session.commit()
        assert await session.scalar(NAME, execution_options={"route": Stale("25s")}) == OLD
        assert await session.scalar(NAME) == NEW  # and back to where it has been


async def test_who_is_further_behind_than_the_read_may_be_is_passed_over(
    items: Topology, cluster: AsyncCluster
) -> None:
    behind, other = items.replicas
    async with paused(behind):
        await cluster.execute(renamed())
        await other.caught_up()
        await until_seen(cluster, late, "replica 0")
        await until_seen(cluster, there, "replica 1")
        for _ in range(8):
            assert (await cluster.execute(NAME, route=Stale("200ms"))).scalar_one() == NEW
        told = cluster.explain_route(NAME, route=Stale("200ms"))
        assert (told.to, told.needs) == ("replica", Stale("200ms"))
        assert told.why == "it is a read, and it may be 200 ms behind"
        assert [out.partition(" (")[0] for out in told.out] == ["replica 0"]
        assert "behind, 200 ms were asked for" in told.out[0]
        async with paused(other):
            await cluster.execute(renamed("newer"))
            await until_seen(cluster, late)
            found = await ways(cluster, Stale("200ms"))
            assert set(found.values()) == {"newer"}, found
            told = cluster.explain_route(NAME.execution_options(route=Stale("200ms")))
            assert (told.places, len(told.out)) == (("primary (the primary)",), 2)
            assert set((await ways(cluster, Stale("25s"))).values()) <= {OLD, NEW}


async def test_a_session_leaves_the_replica_that_is_too_far_behind_for_this_read(
    items: Topology, cluster: AsyncCluster
) -> None:
    quick = {"route": Stale("200ms")}
    for read_only in (False, True):
        async with paused(*items.replicas):
            await cluster.execute(renamed())
            async with cluster.session(read_only=read_only) as session, session.begin():
                assert await session.scalar(NAME) == OLD
                await until_seen(cluster, late)
                assert await session.scalar(NAME) == OLD
                assert await session.scalar(NAME, execution_options=quick) == NEW
                assert await session.scalar(NAME) == NEW
        await cluster.execute(renamed(OLD))
        for replica in items.replicas:
            await replica.caught_up()
        await until_seen(cluster, there)


async def test_what_one_read_tolerates_the_next_does_not(items: Topology) -> None:
    """A replica that was good enough for a `Stale` read is not kept for others that go by the cluster's max_lag."""
    urls = [replica.url for replica in items.replicas]
    async with created(items.primary.url, urls, max_lag="200ms", watch_period="20ms", spill=5) as cluster:
        await cluster.router.refresh()
        await until_seen(cluster, fresh)
        async with paused(*items.replicas):
            await cluster.execute(renamed())
            await until_seen(cluster, lambda seen: seen.lag_state == "stale")
            for read_only in (False, True):
                async with cluster.session(read_only=read_only) as session, session.begin():
                    for _ in range(2):
                        assert await session.scalar(NAME, execution_options={"route": Stale("25s")}) == OLD
                    assert await session.scalar(NAME) == NEW


async def test_reads_that_share_a_snapshot_do_not_change_it_in_silence(items: Topology, cluster: AsyncCluster) -> None:
    async with paused(*items.replicas), cluster.session(read_only=True) as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert await session.scalar(NAME) == OLD
        await cluster.execute(renamed())
        await until_seen(cluster, late)
        with pytest.raises(ReadsRefused, match=r"snapshot .* Run the whole transaction again"):
            await session.scalar(NAME, execution_options={"route": Stale("200ms")})
        await session.rollback()
        assert await session.scalar(NAME, execution_options={"route": Stale("200ms")}) == NEW


async def test_a_lag_that_nobody_knows_is_too_long(items: Topology, cluster: AsyncCluster) -> None:
    await items.primary.kill()
    try:
        await until_seen(cluster, lambda seen: seen.lag_state == "unknown")
        assert (await cluster.execute(NAME)).scalar_one() == OLD  # nobody else is left
        for _ in range(3):
            with pytest.raises(ReadsRefused, match="its lag is not known"):
                await cluster.execute(NAME, route=Stale("1h"))
    finally:
        await items.primary.start()


# -- neither forces anything


@pytest.mark.usefixtures("still")
async def test_what_is_no_read_is_the_primary_s(items: Topology, cluster: AsyncCluster) -> None:
    for route in (Stale("25s"), AtLeast(Token())):
        for statement in (renamed("w"), NAME.with_for_update(), select(func.nextval("nothing"))):
            told = cluster.explain_route(statement, route=route)
            assert (told.to, told.needs) == ("primary", None)
        assert (await cluster.execute(renamed("w"), route=route)).rowcount == 1
        async with cluster.session(route=route) as session:
            changed = await session.execute(
                text("UPDATE items SET name = name || '!' WHERE id = 1 RETURNING name"),
                execution_options={"route": route},
            )
            assert changed.scalar_one() == "w!"
            item = await session.get_one(Item, 2)
            item.name = "flushed"
            await session.flush()
            assert await session.scalar(PORT) == items.primary.port
            await session.rollback()
        async with cluster.session() as session, session.begin_nested():
            assert await session.scalar(PORT, execution_options={"route": route}) == items.primary.port


@pytest.mark.usefixtures("still")
async def test_a_bulk_update_finds_its_objects_on_the_primary(items: Topology, cluster: AsyncCluster) -> None:
    """What SQLAlchemy looks up for its sake must not be answered by an old state, whatever the session reads from."""
    await cluster.execute(renamed())
    change = update(Item).where(Item.name == NEW).values(name="done")
    for given in ({"route": Stale("25s")}, {}):
        async with cluster.session(route=Stale("25s")) as session:
            item = await session.get_one(Item, 1)
            assert item.name == OLD
            await session.execute(change, execution_options={"synchronize_session": "fetch", **given})
            assert item.name == "done"
            await session.rollback()


async def test_misuse_is_told_before_anything_is_sent(cluster: AsyncCluster) -> None:
    for wrong in ("5s", Token(), Stale):
        with pytest.raises(MisuseError, match="route: expected"):
            await cluster.execute(NAME, route=wrong)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="route: expected"):
            await cluster.execute(NAME.execution_options(route=wrong))
        with pytest.raises(MisuseError, match="route: expected"):
            cluster.explain_route(NAME, route=wrong)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="route: expected"):
            cluster.session(route=wrong)
        async with cluster.session() as session:
            with pytest.raises(MisuseError, match="route: expected"):
                await session.scalar(NAME, execution_options={"route": wrong})
    assert cluster.router.sent_to_primary == cluster.router.reads_on_replicas == 0
