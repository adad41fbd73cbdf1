"""One token for several shards that have replicas: each read waits for what was written on its own shard, and on which
shard a key lives is never taken from a map that is older than the token.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import await_only

from bench._db_causality import shaken
from tenfold.db import AsyncCluster, CausalOptions, TokenKeys, causality, create_async_cluster
from tenfold.db.shards import ShardedCluster, ShardMap
from tenfold.db.token import UNKNOWN, Token
from tenfold.servers import Postgres, Topology

KEYS = TokenKeys([b"k" * 16])
NAMES = ("a", "b")


class Base(DeclarativeBase):
    pass


class Basket(Base):
    __tablename__ = "baskets"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]


Shards = dict[str, Topology]


@pytest.fixture(scope="module")
def servers() -> Iterator[Shards]:
    """Two primaries with a replica each."""
    with asyncio.Runner() as runner:
        shards = {name: Topology(replicas=1) for name in NAMES}

        async def each(call: str) -> None:
            await asyncio.gather(*(getattr(one, call)() for one in shards.values()))

        runner.run(each("start"))
        try:
            yield shards
        finally:
            runner.run(each("close"))


@asynccontextmanager
async def process(servers: Shards, **options: Any) -> AsyncIterator[tuple[ShardedCluster, dict[str, AsyncCluster]]]:
    """A cluster as a process has it, with a map of its own."""
    async with AsyncExitStack() as stack:
        shards = {
            name: await stack.enter_async_context(
                create_async_cluster(
                    one.primary.url, [replica.url for replica in one.replicas],
                    max_lag=None, watch_period="50ms", failover_wait="20s", **options,
                )
            )
            for name, one in servers.items()
        }  # fmt: skip
        first = ShardMap.hash(list(NAMES))
        cluster = await stack.enter_async_context(ShardedCluster(shards, models=[Base], map=first))
        for shard in shards.values():
            await shard.watch.settle()
            await shard.router.refresh()
        yield cluster, shards


@pytest.fixture
async def ready(servers: Shards, remade: Callable[..., Awaitable[None]]) -> Shards:
    """All up and replaying, the same rows on each: what a reader gets tells which shard and state it is of."""
    for one in servers.values():
        await one.revive()
        for replica in one.replicas:
            await replica.resume_replay()
    async with process(servers) as (cluster, _):
        await cluster.install(cluster.map.moved([], "a"))
        await remade(cluster, Base.metadata)
        await cluster.insert(Basket, [{"id": n, "customer": n, "total": 0} for n in range(100)])
    for one in servers.values():
        for replica in one.replicas:
            await replica.caught_up()
    return servers


@asynccontextmanager
async def still(servers: Shards, *names: str) -> AsyncIterator[None]:
    """These shards' replicas do not replay."""
    for name in names:
        await servers[name].replicas[0].pause_replay()
    try:
        yield
    finally:
        for name in names:
            await servers[name].replicas[0].resume_replay()


def key_on(cluster: ShardedCluster, name: str) -> int:
    return next(key for key in range(100) if cluster.map.shard_of(key) == name)


def raised(key: int, total: int) -> sa.Update:
    return update(Basket).where(Basket.customer == key).values(total=total)


async def seen(cluster: ShardedCluster, key: int) -> tuple[int, int]:
    """The total, and the port of who said so."""
    statement = select(Basket.total, func.inet_server_port()).where(Basket.customer == key)
    total, port = (await cluster.execute(statement)).one()
    return total, port


def carried(token: Token | None) -> Token:
    """Through a client: signed, and read again."""
    assert token is not None
    return KEYS.read(KEYS.sign(token))


async def test_each_read_waits_for_its_own_shard(ready: Shards) -> None:
    async with process(ready, causal=CausalOptions(wait="20ms")) as (cluster, shards):
        keys = {name: key_on(cluster, name) for name in NAMES}
        replicas = {name: ready[name].replicas[0].port for name in NAMES}
        primaries = {name: ready[name].primary.port for name in NAMES}
        token: Token | None = None
        for version in range(1, 11):
            late = NAMES[version % 2]
            other = NAMES[(version + 1) % 2]
            async with still(ready, late):
                with causality(token) as scope:
                    for key in keys.values():
                        await cluster.execute(raised(key, version))
                    token = carried(await scope.outgoing())
                assert len(token.positions) == 3  # two shards and the map
                assert not token.others_unknown
                assert not token.unknown
                await ready[other].replicas[0].caught_up()
                with causality(token):
                    assert await seen(cluster, keys[late]) == (version, primaries[late])
                    assert await seen(cluster, keys[other]) == (version, replicas[other])
                    assert (await cluster.execute(select(func.max(Basket.total)))).scalar_one() == version
                    async with cluster.stream(select(Basket.total).order_by(Basket.total.desc()).limit(2)) as rows:
                        assert [row.total async for row in rows] == [version, version]
                assert (await seen(cluster, keys[late]))[0] == version - 1  # the control: nobody asked for more
            await ready[late].replicas[0].caught_up()
            with causality(token):
                for name in NAMES:
                    assert await seen(cluster, keys[name]) == (version, replicas[name])
        counters = [shard.causal.counters for shard in shards.values()]
        assert sum(one.behind for one in counters) >= 1
        assert sum(one.foreign for one in counters) == 0


async def test_clients_of_two_shards_never_see_less_than_they_wrote(ready: Shards) -> None:
    """Four clients, each with a key on either shard and one token, while both replicas stop and go at random."""
    ports = {ready[name].replicas[0].port for name in NAMES}
    by_replica: Counter[bool] = Counter()

    async def client(cluster: ShardedCluster, number: int) -> None:
        random = Random(number)
        keys = [[key for key in range(100) if cluster.map.shard_of(key) == name][number] for name in NAMES]
        written = dict.fromkeys(keys, 0)
        token: Token | None = None
        for version in range(1, 26):
            with causality(token) as scope:
                for key in random.choice([keys, keys[:1], keys[1:]]):
                    await cluster.execute(raised(key, version))
                    written[key] = version
                token = carried(await scope.outgoing())
            with causality(token):
                for key in keys:
                    total, port = await seen(cluster, key)
                    assert total == written[key], (key, token)
                    by_replica[port in ports] += 1

    replicas = [ready[name].replicas[0] for name in NAMES]
    async with process(ready) as (cluster, shards), shaken(replicas, seed=41):
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(client(cluster, number))
        counters = [shard.causal.counters for shard in shards.values()]
    assert by_replica[True] + by_replica[False] == 200
    assert by_replica[True] >= 50, (by_replica, counters)


async def test_a_shard_that_the_token_does_not_name_has_nothing_to_wait_for(ready: Shards) -> None:
    async with process(ready) as (cluster, shards), still(ready, "b"):
        with causality() as scope:
            await cluster.execute(raised(key_on(cluster, "a"), 1))
            assert (await seen(cluster, key_on(cluster, "b")))[1] == ready["b"].replicas[0].port
            assert scope.captures == 0  # the other shard's commit is not asked about
            token = carried(await scope.outgoing())
        with causality(token) as later:
            asked = shards["b"].causal.counters.there
            assert (await seen(cluster, key_on(cluster, "b")))[1] == ready["b"].replicas[0].port
            assert shards["b"].causal.counters.there == asked
            assert later.captures == 0
        with causality(Token(*token.positions, unknown=[shards["b"].system or 0])):
            assert (await seen(cluster, key_on(cluster, "b")))[1] == ready["b"].primary.port
        with causality(UNKNOWN):
            assert (await seen(cluster, key_on(cluster, "b")))[1] == ready["b"].primary.port


async def test_one_shard_fails_over_and_the_other_does_not_notice(ready: Shards) -> None:
    """The token of before is good on both; the failed shard's replica is its primary now."""
    async with process(ready) as (cluster, _):
        keys = {name: key_on(cluster, name) for name in NAMES}
        with causality() as scope:
            for key in keys.values():
                await cluster.execute(raised(key, 5))
            before = carried(await scope.outgoing())
        for one in ready.values():
            await one.replicas[0].caught_up()
        former = ready["a"].primary
        await ready["a"].promote(ready["a"].replicas[0])
        with causality(before) as scope:
            assert await seen(cluster, keys["b"]) == (5, ready["b"].replicas[0].port)
            await cluster.execute(raised(keys["a"], 6))
            assert (await seen(cluster, keys["a"]))[0] == 6
            assert scope.superseded == 0
            after = carried(await scope.outgoing())
        timelines = [{at.system: at.timeline for at in token.positions} for token in (before, after)]
        changed = [system for system in timelines[0] if timelines[0][system] != timelines[1][system]]
        assert len(changed) == 1
        await ready["a"].rejoin(former)
        await ready["a"].replicas[0].caught_up()
        with causality(after):
            assert (await seen(cluster, keys["a"]))[0] == 6
            assert await seen(cluster, keys["b"]) == (5, ready["b"].replicas[0].port)


async def moved(cluster: ShardedCluster, key: int, total: int) -> None:
    """What a reshard's flip does on the new shard, in one transaction: the rows, and the epoch above the old map's."""
    home = cluster.map.shard_of(key)
    target = next(name for name in NAMES if name != home)
    new = cluster.map.moved([cluster.map.bucket_of(key)], target)
    async with cluster.async_engine(target).begin() as connection:
        await connection.execute(insert(Basket).values(id=key, customer=key, total=total))
        await connection.execute(sa.text("UPDATE tenfold_shard_epoch SET epoch = :epoch"), {"epoch": new.epoch})
    async with cluster.async_engine(home).begin() as connection:
        await connection.execute(sa.delete(Basket).where(Basket.customer == key))
        await connection.execute(sa.text("UPDATE tenfold_shard_epoch SET epoch = :epoch"), {"epoch": new.epoch})
    async with cluster.async_engine(cluster.home).begin() as connection:
        await connection.execute(
            sa.text("UPDATE tenfold_shard_map SET epoch = :epoch, map = :map"),
            {"epoch": new.epoch, "map": new.dumps()},
        )
    await cluster.refresh()


async def test_what_was_written_before_a_flip_is_seen_on_the_new_shard(ready: Shards) -> None:
    """Its replica has not heard of the flip, and the token names the old shard only: the epoch passes it over."""
    async with process(ready) as (cluster, _):
        key = key_on(cluster, "a")
        with causality() as scope:
            await cluster.execute(raised(key, 3))
            token = carried(await scope.outgoing())
        async with still(ready, "b"):
            await moved(cluster, key, 3)
            with causality(token):
                assert await seen(cluster, key) == (3, ready["b"].primary.port)
        await ready["b"].replicas[0].caught_up()
        with causality(token):
            assert await seen(cluster, key) == (3, ready["b"].replicas[0].port)


async def test_what_was_written_after_a_flip_is_seen_by_a_process_that_has_not_heard_of_it(ready: Shards) -> None:
    async with process(ready) as (old, _), process(ready) as (new, _):
        key = key_on(old, "a")
        async with still(ready, "a"):
            await moved(new, key, 0)
            with causality() as scope:
                await new.execute(raised(key, 9))
                token = carried(await scope.outgoing())
            assert await seen(old, key) == (0, ready["a"].replicas[0].port)  # the control: it goes by the old map
            assert old.map.epoch < new.map.epoch
            with causality(token):
                assert (await seen(old, key))[0] == 9
            assert old.map.epoch == new.map.epoch


async def test_no_rows_under_the_old_epoch_are_not_an_answer_under_the_new_one(ready: Shards) -> None:
    """A replica that replays the flip between a read that found nothing and the question for its epoch."""
    async with process(ready) as (cluster, shards):
        key, replica = key_on(cluster, "a"), ready["b"].replicas[0]
        async with still(ready, "b"):
            await moved(cluster, key, 4)
            asked: list[str] = []

            def after(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
                asked.append(statement)
                if len(asked) == 1:
                    await_only(replica.resume_replay())
                    await_only(replica.caught_up())

            reads = next(node for node in shards["b"].nodes() if node.url.port == replica.port).reads.sync_engine
            event.listen(reads, "after_cursor_execute", after)
            assert await seen(cluster, key) == (4, replica.port)
            assert len(asked) == 3  # nothing, the epoch, and again


async def test_a_session_reads_behind_no_write_of_its_own_under_an_older_token(ready: Shards) -> None:
    """The token knows what its scope has done, and not what the session did outside of it or in another."""
    most = select(func.max(Basket.total))
    async with process(ready) as (cluster, _):
        older = carried(await cluster.token())
        key = key_on(cluster, "a")
        async with (
            still(ready, *NAMES),
            cluster.session() as outside,
            cluster.session() as elsewhere,
            cluster.session() as inside,
        ):
            await outside.execute(raised(key, 1))
            await outside.commit()
            with causality():
                await elsewhere.execute(raised(key, 2))
                await elsewhere.commit()
            with causality(older):
                assert (await cluster.execute(most)).scalar_one() == 0  # the control: the token does not tell
                assert await outside.scalar(most) == 2
                assert await elsewhere.scalar(most) == 2
                await inside.execute(raised(key, 3))
                await inside.commit()
                assert await inside.scalar(most) == 3


async def test_a_commit_whose_answer_was_lost_counts_in_the_scope_of_a_sharded_session(
    ready: Shards, unheard_commits: Callable[[Postgres], AbstractAsyncContextManager[None]]
) -> None:
    primary = ready["a"].primary
    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with process(ready) as (cluster, _), still(ready, "a"):
        key = key_on(cluster, "a")

        async def write() -> None:
            async with cluster.session() as session:
                await session.execute(raised(key, 7))
                try:
                    await session.commit()
                finally:  # the session is not closed yet
                    assert (await seen(cluster, key))[0] == 7

        async with unheard_commits(primary):
            with causality():
                writing = asyncio.create_task(write())
                async with asyncio.timeout(10):
                    while not await primary.fetchval(cut):  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                with pytest.raises(DBAPIError):
                    await writing
