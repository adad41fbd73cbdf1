"""Promotions, kills and pauses of real servers under load: what the cluster sees, and what its users notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold._core.events import Event, Hub
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.choose import Want
from tenfold.db.cluster_errors import CommitUnknown, NoPrimary, ReadsRefused
from tenfold.db.happenings import GenerationDropped, LagChanged, PrimaryElected, PrimaryRefused, RoleChanged
from tenfold.servers.replication import follow

PORT = text("SELECT inet_server_port()")


async def until(condition: Callable[[], object], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.fixture
async def ready(topology: Any) -> Any:
    """All servers up and replicating, and an empty table."""
    await topology.revive()
    for replica in topology.replicas:
        await replica.resume_replay()
    await topology.primary.fetchval(
        "CREATE TABLE IF NOT EXISTS marks (id bigint GENERATED ALWAYS AS IDENTITY, writer int, number int)"
    )
    await topology.primary.fetchval("TRUNCATE marks")
    for replica in topology.replicas:
        await replica.caught_up()
    return topology


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
async def cluster(ready: Any, told: list[Event]) -> AsyncIterator[AsyncCluster]:
    hub = Hub()
    hub.subscribe(Event, told.append)
    urls = [replica.url for replica in ready.replicas]
    async with create_async_cluster(
        ready.primary.url, urls, hub=hub, max_lag="300ms", watch_period="50ms", failover_wait="30s"
    ) as made:
        await made.writer()
        await made.watch.settle()
        yield made


def of(told: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in told if isinstance(event, kind)]


async def test_a_promotion_under_writers(
    cluster: AsyncCluster, ready: Any, told: list[Event], record_property: Callable[[str, object], None]
) -> None:
    """Eight writers go on through a promotion without an error of their own, and none of their marks is lost or
    written twice.
    """
    former, successor = ready.primary, ready.replicas[0]
    stop, first_after, acknowledged = asyncio.Event(), asyncio.get_running_loop().create_future(), []
    failures: list[BaseException] = []

    async def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1

            async def mark(session: AsyncSession, number: int = number) -> int:
                await session.execute(
                    text("INSERT INTO marks (writer, number) VALUES (:w, :n)"), {"w": writer, "n": number}
                )
                return int((await session.execute(PORT)).scalar_one())

            try:
                port = await cluster.run(mark, deadline="60s")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                failures.append(error)
                continue
            acknowledged.append((writer, number))
            if port == successor.port and not first_after.done():
                first_after.set_result(time.monotonic())

    old = await cluster.writer()
    writers = [asyncio.create_task(write(writer)) for writer in range(8)]
    await until(lambda: len(acknowledged) >= 50)
    generation = old.generation
    began = time.monotonic()
    await ready.promote(successor)
    promoted = time.monotonic()
    first = await asyncio.wait_for(first_after, 60)
    count = len(acknowledged)
    await until(lambda: len(acknowledged) >= count + 50)
    stop.set()
    await asyncio.gather(*writers)
    took = (first - began) * 1000
    record_property("promote_to_first_write_ms", round(took))
    print(f"promote_to_first_write_ms {took:.0f}, promote() itself {(promoted - began) * 1000:.0f}")
    assert failures == []
    reader = await asyncpg.connect(successor.url)
    rows = await reader.fetch("SELECT writer, number FROM marks")
    await reader.close()
    written = [tuple(row) for row in rows]
    assert len(written) == len(set(written))
    assert set(acknowledged) == set(written)
    assert (await cluster.writer()).url.port == successor.port
    elected = of(told, PrimaryElected)[-1]
    assert (elected.node, elected.timeline) == ("replica 0", cluster.watch.election.timeline)
    assert any(e.node == "replica 0" and e.after == "primary" for e in of(told, RoleChanged))

    # The former primary comes back as a replica: another generation, and readers go there.
    await ready.rejoin(former)
    await until(lambda: old.seen.role == "replica" and old.seen.lag_state == "fresh")
    assert old.generation == generation + 1
    assert [e.node for e in of(told, GenerationDropped)].count(old.name) == 1
    ports = set()
    for _ in range(40):
        async with cluster.connect(read_only=True) as connection:
            ports.add((await connection.execute(PORT)).scalar_one())
    assert former.port in ports
    assert successor.port not in ports


async def test_connections_in_use_are_not_used_again_after_a_change_of_role(cluster: AsyncCluster, ready: Any) -> None:
    node = await cluster.writer()
    async with cluster.connect() as idle:
        idle_pid = (await idle.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with cluster.connect() as one, cluster.connect() as two:
        pids = {(await c.execute(text("SELECT pg_backend_pid()"))).scalar_one() for c in (one, two)}
        assert idle_pid in pids
        node.advance("test")
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = any($1::int[])"
    for _ in range(500):
        if await ready.primary.fetchval(alive, list(pids)) == 0:
            break
    else:
        raise AssertionError("connections of the old generation are still there")
    async with cluster.connect() as fresh:
        assert (await fresh.execute(text("SELECT pg_backend_pid()"))).scalar_one() not in pids


async def test_a_paused_replica_goes_stale_spills_up_to_the_cap_and_returns(
    cluster: AsyncCluster, ready: Any, told: list[Event]
) -> None:
    replicas = [node for node in cluster.nodes() if node.seen.role == "replica"]
    await until(lambda: all(node.seen.lag_state == "fresh" for node in replicas))
    idle = cluster.watch.probes
    await until(lambda: cluster.watch.probes > idle + 30)
    assert all(node.seen.lag_state == "fresh" for node in replicas)  # an idle primary makes no lag
    for replica in ready.replicas:
        await replica.pause_replay()
    await ready.primary.fetchval("INSERT INTO marks (writer, number) VALUES (0, 0)")
    await until(lambda: all(node.seen.lag_state == "stale" for node in replicas))
    assert all((node.seen.lag or 0) > 0.3 and (node.seen.lag_bytes or 0) > 0 for node in replicas)
    spill = cluster.options.spill
    assert spill is not None
    held = [cluster.connect(read_only=True) for _ in range(spill)]
    connections = [await one.__aenter__() for one in held]
    try:
        assert {(await c.execute(PORT)).scalar_one() for c in connections} == {ready.primary.port}
        with pytest.raises(ReadsRefused, match="5 of 5 places for readers are taken") as caught:
            async with cluster.connect(read_only=True):
                pass
        assert sum("behind, which is too much" in reason for reason in caught.value.reasons) == 2
        async with cluster.begin() as writer:  # which readers cannot keep from the primary
            assert (await writer.execute(PORT)).scalar_one() == ready.primary.port
    finally:
        for one in held:
            await one.__aexit__(None, None, None)
    for replica in ready.replicas:
        await replica.resume_replay()
    await until(lambda: all(node.seen.lag_state == "fresh" for node in replicas))
    ports = [{e.after for e in of(told, LagChanged) if e.node == node.name} for node in replicas]
    assert all({"fresh", "stale"} <= states for states in ports)
    async with cluster.connect(read_only=True) as connection:
        assert (await connection.execute(PORT)).scalar_one() != ready.primary.port


async def test_a_killed_primary_holds_writers_and_readers_go_on(
    cluster: AsyncCluster, ready: Any, told: list[Event]
) -> None:
    node = await cluster.writer()
    generation = node.generation
    await ready.primary.kill()
    try:
        await until(lambda: cluster.watch.winner is None)
        began = time.monotonic()
        with pytest.raises(NoPrimary, match=r"no primary was seen within .*Nothing was sent") as caught:
            await cluster.writer(0.2)
        assert 0.19 <= time.monotonic() - began < 20  # and not the 30 s of failover_wait
        assert caught.value.retry_after > 0
        await until(lambda: all(n.seen.lag_state == "unknown" for n in cluster.nodes()))
        async with cluster.connect(read_only=True) as connection:
            assert (await connection.execute(PORT)).scalar_one() in {replica.port for replica in ready.replicas}
        session_of = cluster.sessionmaker()

        async def write() -> int:
            async with session_of(route="primary") as session:
                port: int = (await session.execute(PORT)).scalar_one()
                return port

        waiting = [asyncio.create_task(write()) for _ in range(5)]
        await until(lambda: cluster.watch.waiting == 5)
    finally:
        await ready.primary.start()
    assert await asyncio.gather(*waiting) == [ready.primary.port] * 5
    assert node.generation == generation  # the same server on the same timeline
    assert [e.node for e in of(told, PrimaryElected)][-2:] == [None, node.name]


async def test_held_writers_are_bounded(ready: Any) -> None:
    async with create_async_cluster(ready.primary.url, held_writers=2) as cluster:
        await cluster.writer()
        await ready.primary.kill()
        try:
            await until(lambda: cluster.watch.winner is None)
            waiting = [asyncio.create_task(cluster.writer(60)) for _ in range(2)]
            await until(lambda: cluster.watch.waiting == 2)
            with pytest.raises(NoPrimary, match="2 writers wait for one already"):
                await cluster.writer(60)
        finally:
            await ready.primary.start()
        await asyncio.gather(*waiting)


async def test_a_killed_primary_loses_no_acknowledged_commit(cluster: AsyncCluster, ready: Any) -> None:
    """Under ``ANY 1`` synchronous replication, with the replica that has received most promoted. A commit whose answer
    the kill took away is reported as unknown, or found out; it is never written twice.
    """
    former = ready.primary
    await former.fetchval("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
    await former.fetchval("SELECT pg_reload_conf()")
    stop = asyncio.Event()
    acknowledged: list[tuple[int, int]] = []
    unknown: list[tuple[int, int]] = []
    others: list[BaseException] = []

    async def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            values = {"w": writer, "n": number}

            async def mark(session: AsyncSession, values: dict[str, int] = values) -> None:
                await session.execute(text("INSERT INTO marks (writer, number) VALUES (:w, :n)"), values)

            try:
                await cluster.run(mark, deadline="60s")
            except CommitUnknown:
                unknown.append((writer, number))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                others.append(error)
            else:
                acknowledged.append((writer, number))

    writers = [asyncio.create_task(write(writer)) for writer in range(8)]
    await until(lambda: len(acknowledged) >= 100)
    await former.kill()
    received = [await replica.fetchval("SELECT pg_last_wal_receive_lsn()") for replica in ready.replicas]
    began = time.monotonic()
    count = len(acknowledged)
    await ready.promote(ready.replicas[received.index(max(received))])
    await until(lambda: len(acknowledged) > count)
    print(f"after a kill: promote_to_first_write_ms {(time.monotonic() - began) * 1000:.0f}, {len(unknown)} unknown")
    await until(lambda: len(acknowledged) >= count + 50)
    stop.set()
    await asyncio.gather(*writers)
    reader = await asyncpg.connect(ready.primary.url)
    written = [tuple(row) for row in await reader.fetch("SELECT writer, number FROM marks")]
    await reader.close()
    assert others == []
    assert len(written) == len(set(written))
    assert set(acknowledged) <= set(written) <= set(acknowledged) | set(unknown)
    (former.folder / "postgresql.auto.conf").write_text("")
    await ready.rejoin(former)


async def test_of_two_primaries_the_higher_timeline_wins(cluster: AsyncCluster, ready: Any, told: list[Event]) -> None:
    """A replica is promoted behind everybody's back while the primary still runs: the split brain itself."""
    old = await cluster.writer()
    successor = ready.replicas[-1]
    # As its last act on this timeline the old primary takes a write, so that the watch has seen it well.
    async with cluster.begin() as connection:
        await connection.execute(text("INSERT INTO marks (writer, number) VALUES (1, 1)"))
    await successor.caught_up()
    assert await successor.fetchval("SELECT pg_promote(true, 10)")
    await until(lambda: (w := cluster.watch.winner) is not None and w is not old)
    winner = await cluster.writer()
    assert winner.url.port == successor.port
    await until(lambda: old.refused)
    assert "its timeline is" in old.refused
    assert old.seen.role == "primary"
    assert [e.node for e in of(told, PrimaryRefused)] == [old.name]
    async with cluster.begin() as connection:
        assert (await connection.execute(PORT)).scalar_one() == successor.port
    assert all(c.node is winner or not c.ok for c in cluster.choices(Want("write")))
    # Losing the successor does not make the predecessor right.
    await successor.kill()
    await until(lambda: cluster.watch.winner is None)
    assert old.seen.role == "primary"
    with pytest.raises(NoPrimary, match="refused: its timeline"):
        await cluster.writer(0.2)
    # Back to order for the other tests: the topology still believes in the old primary.
    former, successor.role, successor.upstream = ready.primary, "primary", None
    await successor.start()
    ready.replicas.remove(successor)
    ready.lost.append(former)
    ready._primary, former.role = successor, "lost"
    for replica in ready.replicas:
        await follow(replica, successor)
    await ready.rejoin(former)
    await until(lambda: old.seen.role == "replica" and not old.refused)


async def test_a_refusal_to_write_drops_the_generation(cluster: AsyncCluster, ready: Any) -> None:
    node = await cluster.writer()
    generation = node.generation
    session_of = cluster.sessionmaker()
    async with session_of() as session:
        await session.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(Exception, match="read-only transaction"):
            await session.execute(text("INSERT INTO marks (writer, number) VALUES (2, 2)"))
    assert node.generation == generation + 1
    assert (await cluster.writer()) is node  # asked over a new connection, it says that it is the primary
    async with cluster.connect() as connection:
        await connection.execution_options(postgresql_readonly=True)
        with pytest.raises(Exception, match="read-only transaction"):
            await connection.execute(text("INSERT INTO marks (writer, number) VALUES (2, 2)"))
    assert node.generation == generation + 1
