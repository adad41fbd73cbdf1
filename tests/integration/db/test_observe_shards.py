"""What Prometheus and OpenTelemetry are shown of real shards and outboxes, and `run` on the shard of a key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.db import create_async_cluster
from tenfold.db.cluster_errors import CommitUnknown
from tenfold.db.shards import (
    CannotAnswer,
    CrossShard,
    Dispatcher,
    MapChanged,
    Message,
    Outbox,
    OutboxOptions,
    ShardedCluster,
)
from tenfold.db.transaction import RunOptions
from tenfold.observe import DatabasesCollector, OutboxesCollector, instrument_databases, instrument_outboxes, outboxes
from tenfold.observe.databases import FAMILIES
from tenfold.servers import Postgres, Topology

prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")

PID = text("SELECT pg_backend_pid()")
Found = dict[tuple[str, ...], float]


class Base(DeclarativeBase):
    pass


class Wallet(Base):
    __tablename__ = "observed_wallets"
    __shard_key__ = "customer"
    customer: Mapped[int] = mapped_column(primary_key=True)
    money: Mapped[int]


@pytest.fixture(scope="module")
def shards(plain: Callable[[int], Topology]) -> list[Postgres]:
    return plain(2).shards


def three(topology: Topology, shards: list[Postgres]) -> dict[str, Any]:
    """Two plain shards, and one with a replica."""
    replicated = create_async_cluster(topology.primary.url, [topology.replicas[0].url])
    return {"a": shards[0].url, "b": shards[1].url, "c": replicated}


@pytest.fixture
async def cluster(
    topology: Topology, shards: list[Postgres], remade: Callable[..., Awaitable[None]]
) -> AsyncIterator[ShardedCluster]:
    await topology.revive()
    async with ShardedCluster(three(topology, shards), models=[Base], pool_size=4, name="orders", hub=Hub()) as cluster:
        await remade(cluster, Base.metadata)
        await cluster.insert(Wallet, [{"customer": key, "money": 100} for key in range(12)])
        yield cluster


def scraped(collector: Any) -> Found:
    from prometheus_client.parser import text_string_to_metric_families

    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    return {
        (
            sample.name,
            *[value for label, value in sorted(sample.labels.items()) if label not in ("database", "outbox")],
        ): (sample.value)
        for family in text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
        for sample in family.samples
    }


def exported(instrument: Any, owner: Any) -> dict[str, set[tuple[str, ...]]]:
    """The labels of each metric's series at OpenTelemetry."""
    metrics = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")
    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])
    try:
        instrument([owner], meter_provider=provider)
        return {
            metric.name: {
                tuple(value for label, value in sorted(point.attributes.items()) if label not in ("database", "outbox"))
                for point in metric.data.data_points
            }
            for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        }
    finally:
        provider.shutdown()


def labels(found: Found, family: Any) -> set[tuple[str, ...]]:
    series = family.prometheus + ("_total" if family.kind == "counter" else "")
    return {key[1:] for key in found if key[0] == series}


def key_on(cluster: ShardedCluster, shard: str) -> int:
    return next(key for key in range(12) if cluster.map.shard_of(key) == shard)


async def pay(session: AsyncSession, customer: int, amount: int = 1) -> None:
    change = sa.update(Wallet).where(Wallet.customer == customer).values(money=Wallet.money + amount)
    await session.execute(change)


async def money(cluster: ShardedCluster, customer: int) -> int:
    statement = select(Wallet.money).where(Wallet.customer == customer).execution_options(route="primary")
    return int((await cluster.execute(statement)).scalar_one())


async def test_the_map_and_the_servers_are_shown(cluster: ShardedCluster) -> None:
    def shown(name: str) -> str:
        return f"tenfold_database_{name}"

    await cluster.execute(select(sa.func.sum(Wallet.money)))
    async with cluster.session(shard="a") as session:
        await session.connection()
        found = scraped(DatabasesCollector([cluster]))
        assert found[shown("connections"), "a", "used", "all"] == 1
    sizes = {name: found[shown("buckets"), name] for name in ("a", "b", "c")}
    assert sizes == {name: cluster.map.shards.count(name) for name in ("a", "b", "c")}
    assert sum(sizes.values()) == 1024
    assert (found[shown("map_epoch"),], found[shown("scattered_reads_total"),]) == (1, 1)
    assert found[shown("stale_maps_total"),] == 0
    assert found[shown("connections_max"), "b", "all"] == 4
    assert found[shown("node_primary"), "c/primary"] == 1
    assert found[shown("node_primary"), "c/replica 0"] == 0
    plain = {series[0] for series in found if len(series) > 1 and series[1] == "a"}
    assert plain == {shown("buckets"), shown("connections"), shown("connections_max")}  # and no role, lag or breaker
    state = await asyncio.to_thread(cluster.state)
    assert json.loads(json.dumps(state)) == state
    assert (state["name"], state["nodes"]["c/primary"]["role"]) == ("orders", "primary")


async def test_a_map_that_was_old_is_counted(
    cluster: ShardedCluster, topology: Topology, shards: list[Postgres]
) -> None:
    heard: list[Any] = []
    hub = Hub()
    hub.subscribe(MapChanged, heard.append)
    async with ShardedCluster(three(topology, shards), models=[Base], hub=hub) as late:
        await cluster.install(cluster.map.moved([], "a"))
        await late.run(lambda session: pay(session, 0), shard_key=0)
        found = scraped(DatabasesCollector([late, cluster]))
    assert late.state()["shards"]["stale_map"] == 1
    assert found["tenfold_database_map_epoch",] == cluster.map.epoch
    assert [(type(one), one.new) for one in heard] == [(MapChanged, cluster.map.epoch)]


async def test_both_readers_tell_the_same_of_shards(cluster: ShardedCluster) -> None:
    async with asyncio.timeout(20):
        while ("tenfold_database_replica_lag_seconds", "c/replica 0") not in scraped(DatabasesCollector([cluster])):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    shown = exported(instrument_databases, cluster)
    found = scraped(DatabasesCollector([cluster]))
    assert {name for name in shown if name.startswith("tenfold.database.")} <= {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert shown.get(family.name, set()) == labels(found, family), family.name
    assert shown["tenfold.database.buckets"] == {("a",), ("b",), ("c",)}


async def test_two_sharded_clusters_of_one_name_are_refused(shards: list[Postgres]) -> None:
    one, other = (ShardedCluster([shards[0].url], models=[Base]) for _ in range(2))
    with pytest.raises(MisuseError, match=r"'shards' twice.*ShardedCluster\(…, name="):
        DatabasesCollector([one, other])


@pytest.mark.parametrize("shard", ["a", "c"])
async def test_run_commits_on_the_shard_of_its_key(cluster: ShardedCluster, shard: str) -> None:
    here, elsewhere = key_on(cluster, shard), key_on(cluster, "b")

    async def work(session: AsyncSession) -> str:
        await pay(session, here, 5)
        return "paid"

    async def astray(session: AsyncSession) -> None:
        await pay(session, here, 1000)
        await session.execute(sa.insert(Wallet).values(customer=elsewhere, money=0))

    assert await cluster.run(work, shard_key=here) == "paid"
    with pytest.raises(CrossShard):
        await cluster.run(astray, shard_key=here)
    assert await money(cluster, here) == 105
    assert cluster.state()["run"] == {"calls": 2, "retries": 0, "commits_resolved": 0, "commits_unknown": 0}
    with pytest.raises(MisuseError, match="shard key: expected"):
        await cluster.run(work, shard_key=1.5)


@pytest.mark.parametrize("shard", ["a", "c"])
async def test_run_loses_no_update_under_serializable(cluster: ShardedCluster, shard: str) -> None:
    here = key_on(cluster, shard)

    async def increment(session: AsyncSession) -> None:
        wallet = await session.get_one(Wallet, here)
        await asyncio.sleep(0)
        wallet.money += 1

    how = RunOptions(attempts=50)
    work = [cluster.run(increment, shard_key=here, isolation="SERIALIZABLE", options=how) for _ in range(6)]
    await asyncio.gather(*work)
    assert await money(cluster, here) == 106
    assert cluster.state()["run"]["retries"] > 0


@pytest.mark.parametrize("shard", ["a", "c"])
async def test_run_begins_again_where_its_server_restarted(
    cluster: ShardedCluster, topology: Topology, shards: list[Postgres], shard: str
) -> None:
    here, tries = key_on(cluster, shard), 0
    server = topology.primary if shard == "c" else shards[0]

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await pay(session, here)
        if tries == 1:
            await server.kill()
            await server.start()
        await pay(session, here)

    await cluster.run(work, shard_key=here)
    assert tries >= 2
    assert await money(cluster, here) == 102


@pytest.mark.parametrize(("shard", "known"), [("a", False), ("c", True)])
async def test_a_commit_without_an_answer(
    cluster: ShardedCluster,
    topology: Topology,
    shards: list[Postgres],
    shard: str,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plain server cannot say for certain that it was this transaction which it committed; a watched one can."""
    here = key_on(cluster, shard)
    url = topology.primary.url if shard == "c" else shards[0].url

    async def work(session: AsyncSession) -> str:
        await pay(session, here)
        pid = (await session.execute(PID)).scalar_one()

        async def commit() -> None:
            await AsyncSession.commit(session)
            killer = await asyncpg.connect(url)
            try:
                await killer.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            finally:
                await killer.close()
            raise ConnectionResetError("the answer was lost")

        monkeypatch.setattr(session, "commit", commit)
        return "paid"

    if known:
        assert await cluster.run(work, shard_key=here) == "paid"
    else:
        with pytest.raises(CommitUnknown, match="may have been committed"):
            await cluster.run(work, shard_key=here)
    assert await money(cluster, here) == 101  # once
    counted = cluster.state()["run"]
    assert (counted["commits_resolved"], counted["commits_unknown"]) == (int(known), int(not known))


async def test_a_sessionmaker_makes_the_cluster_s_sessions(cluster: ShardedCluster) -> None:
    make = cluster.sessionmaker(expire_on_commit=False)
    here = key_on(cluster, "b")
    async with make() as session, session.begin():
        session.add(Wallet(customer=100 + here, money=1))
    async with make(shard_key=here) as session:
        assert (await session.get_one(Wallet, here)).money == 100
    async with make() as session:
        with pytest.raises(CannotAnswer):
            await session.scalars(select(Wallet))
    with pytest.raises(MisuseError, match="bind= is the cluster's own"):
        cluster.sessionmaker(bind=None)


async def test_what_an_outbox_does_is_shown_by_both_readers(cluster: ShardedCluster) -> None:
    outbox = Outbox(cluster)
    await outbox.create_tables()
    target = key_on(cluster, "b")

    async def receive(session: AsyncSession, message: Message) -> None:
        if message.body == "poison":
            raise LookupError("nobody wants this")
        await pay(session, target)

    quick = OutboxOptions(poll="50ms", base="5ms", cap="20ms", tries=2)
    dispatcher = Dispatcher(cluster, {"pay": receive}, options=quick, name="payments", hub=Hub())
    collector = OutboxesCollector([dispatcher])
    assert scraped(collector)["tenfold_outbox_leads", "a"] == 0
    async with dispatcher:
        for body in ("poison", "one", "two"):
            async with cluster.session(shard="a") as session:
                await outbox.send(session, "pay", key=target, body=body)
                await session.commit()
        async with asyncio.timeout(20):
            while dispatcher.counters.delivered < 2 or len(dispatcher.leads) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        found = scraped(collector)
        shown = exported(instrument_outboxes, dispatcher)
        state = await asyncio.to_thread(dispatcher.state)
    counted = ("delivered", "duplicates", "failed", "dead", "moved", "interrupted")
    assert [found[f"tenfold_outbox_{name}_total",] for name in counted] == [2, 0, 2, 1, 0, 0]
    assert [found["tenfold_outbox_leads", shard] for shard in "abc"] == [1, 1, 1]
    for family in outboxes.FAMILIES:
        assert shown[family.name] == labels(found, family), family.name
    assert ("tenfold_outbox_lag_seconds", "a") in found
    assert json.loads(json.dumps(state)) == state
    assert dispatcher.state()["lag"] == {}  # it leads nowhere any more
    with pytest.raises(MisuseError, match=r"'payments' twice.*Dispatcher\(…, name="):
        OutboxesCollector([dispatcher, Dispatcher(cluster, {"pay": receive}, name="payments")])
