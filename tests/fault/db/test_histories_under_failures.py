"""What four clients do and see through a cluster while replicas stop replaying and primaries die, checked as a history.

Each client hands its token from one request to the next, and reads are monotonic. It appends to lists by reading and
writing them whole, in serializable transactions (so a lost update would show), and reads several at a time in one
statement, on whichever server it is sent to. Under ``ANY 1`` synchronous replication, with the replica that has
received most promoted, nothing that was acknowledged may be lost, and no client may see less than it wrote or saw. What
fails ends in an error of the library's own.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import asyncpg
import pytest
from sqlalchemy import ARRAY, Column, Integer, MetaData, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold.db import (
    AsyncCluster,
    CausalOptions,
    CommitUnknown,
    DatabaseClusterError,
    RunOptions,
    causality,
    create_async_cluster,
)
from tenfold.db.refusals import NOT_THERE
from tenfold.db.token import UNKNOWN, Token
from tenfold.servers import Postgres, Topology
from tenfold.testing.histories import Append, Outcome, Read, Transaction, check

LISTS = Table("lists", MetaData(), Column("key", Integer, primary_key=True), Column("items", ARRAY(Integer)))
ONE = select(LISTS.c["items"]).where(LISTS.c.key == bindparam("k"))
SOME = select(LISTS.c.key, LISTS.c["items"]).where(LISTS.c.key.in_(bindparam("ks", expanding=True)))
WRITE = update(LISTS).where(LISTS.c.key == bindparam("k")).values({"items": bindparam("values")})
PERSISTENT = RunOptions(attempts=100)
Fault = Callable[[Topology, "Clients", Random], Awaitable[None]]
LIVE = 4  # lists in use at a time
LENGTH = 60  # and then another takes its place, for a list is read and written whole
LISTS_IN_ALL = 800


async def fill(topology: Topology) -> None:
    """All servers up, empty lists, and every commit confirmed by one replica."""
    await topology.revive()
    for replica in topology.replicas:
        await replica.resume_replay()
    await set_synchronous(topology.primary, "'ANY 1 (*)'")
    connection = await asyncpg.connect(topology.primary.url)
    await connection.execute(
        "DROP TABLE IF EXISTS lists; CREATE TABLE lists (key int PRIMARY KEY, items int[] NOT NULL)"
    )
    await connection.execute(f"INSERT INTO lists SELECT n, '{{}}' FROM generate_series(0, {LISTS_IN_ALL - 1}) n")
    await connection.close()
    for replica in topology.replicas:
        await replica.caught_up(within="30s")


async def set_synchronous(server: Postgres, value: str) -> None:
    await server.fetchval(f"ALTER SYSTEM SET synchronous_standby_names = {value}")
    await server.fetchval("SELECT pg_reload_conf()")


@pytest.fixture
async def ready(topology: Topology) -> AsyncIterator[Topology]:
    await fill(topology)
    yield topology
    await set_synchronous(topology.primary, "''")


@dataclass
class Clients:
    """Four of them, and what they did, in the order in which it ended."""

    cluster: AsyncCluster
    seed: int
    history: list[Transaction] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    raw: list[Exception] = field(default_factory=list)
    """What came out that is not documented: errors of the driver or SQLAlchemy's, which clients cannot act upon."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[int] = field(default_factory=lambda: list(range(LIVE)))
    number: int = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(4):
                group.create_task(self._client(client, Random(self.seed * 10 + client)))

    async def _client(self, client: int, random: Random) -> None:
        """One request after another, each with the token that the last one's answer carried."""
        token: Token | None = None
        while not self.stop.is_set():
            with causality(token) as scope:
                await (self._read if random.random() < 0.6 else self._append)(client, random)
                try:
                    token = await scope.outgoing()
                except (DatabaseClusterError, *NOT_THERE):
                    token = UNKNOWN  # as the middleware does

    async def _read(self, client: int, random: Random) -> None:
        keys = random.sample(self.keys, 2)
        try:
            async with self.cluster.session() as session:
                rows = (await session.execute(SOME, {"ks": keys})).all()
        except DatabaseClusterError as error:
            self.counts[f"read: {type(error).__name__}"] += 1
            await asyncio.sleep(0.01)
            return
        except NOT_THERE as error:
            self.raw.append(error)
            return
        self.counts["read"] += 1
        self.history.append(Transaction(client, tuple(Read(key, tuple(values)) for key, values in rows)))

    async def _append(self, client: int, random: Random) -> None:
        self.number += 1
        key, value = random.choice(self.keys), self.number
        seen: list[int] = []

        async def append(session: AsyncSession) -> None:
            seen[:] = (await session.execute(ONE, {"k": key})).scalar_one()
            await session.execute(WRITE, {"k": key, "values": [*seen, value]})

        did: tuple[Append | Read, ...] = (Append(key, value),)
        outcome: Outcome = "committed"
        try:
            await self.cluster.run(append, isolation="SERIALIZABLE", deadline="20s", options=PERSISTENT)
        except CommitUnknown:
            outcome = "unknown"
        except DatabaseClusterError as error:
            self.counts[f"append: {type(error).__name__}"] += 1
            outcome = "failed"
        except NOT_THERE as error:
            self.raw.append(error)
            outcome = "failed"
        else:
            did = (Read(key, tuple(seen)), *did)
        self.counts[outcome] += 1
        self.history.append(Transaction(client, did, outcome))
        if len(seen) >= LENGTH and key in self.keys and max(self.keys) + 1 < LISTS_IN_ALL:
            self.keys[self.keys.index(key)] = max(self.keys) + 1

    async def more(self, appends: int = 5) -> None:
        """Returns when so many more appends were acknowledged."""
        least = self.counts["committed"] + appends
        async with asyncio.timeout(60):
            while self.counts["committed"] < least:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def pause(topology: Topology, clients: Clients, random: Random) -> None:
    """A replica stops replaying for a while."""
    replica = random.choice(topology.replicas)
    await replica.pause_replay()
    await clients.more()
    await replica.resume_replay()


async def kill_replica(topology: Topology, clients: Clients, random: Random) -> None:
    replica = random.choice(topology.replicas)
    await replica.kill()
    await clients.more()
    await topology.rejoin(replica)


async def restart_primary(topology: Topology, clients: Clients, random: Random) -> None:
    """It dies and comes back on its own data."""
    await topology.primary.kill()
    await topology.primary.start()
    await clients.more()


async def switch_over(topology: Topology, clients: Clients, random: Random) -> None:
    """A planned promotion."""
    former, chosen = topology.primary, random.choice(topology.replicas)
    await set_synchronous(chosen, "'ANY 1 (*)'")
    await topology.promote(chosen)
    await clients.more()
    await topology.rejoin(former)


async def fail_over(topology: Topology, clients: Clients, random: Random) -> None:
    """The primary dies, and the replica that has received most takes over."""
    former = topology.primary
    await former.kill()
    received = [await replica.fetchval("SELECT pg_last_wal_receive_lsn()") for replica in topology.replicas]
    await topology.promote(topology.replicas[received.index(max(received))])
    await clients.more()
    await topology.rejoin(former)


FAULTS: tuple[Fault, ...] = (pause, fail_over, pause, kill_replica, pause, switch_over, pause, restart_primary)


async def observed(
    topology: Topology, *, seconds: float, seed: int, faults: tuple[Fault, ...] = FAULTS
) -> tuple[Clients, dict[int, tuple[int, ...]]]:
    """Run the clients through one failure after another, all kinds at least once; what they did, and the end."""
    urls = [replica.url for replica in topology.replicas]
    random = Random(seed)
    options = CausalOptions(monotonic=True)
    async with create_async_cluster(topology.primary.url, urls, causal=options, watch_period="50ms") as cluster:
        await cluster.router.refresh()
        clients = Clients(cluster, seed)
        running = asyncio.create_task(clients.run())
        try:
            until = time.monotonic() + seconds
            done = 0
            while done < len(faults) or time.monotonic() < until:
                fault = faults[done % len(faults)]
                await clients.more()
                await fault(topology, clients, random)
                clients.counts[fault.__name__] += 1
                done += 1
            await clients.more()
        finally:
            clients.stop.set()
            await running
        router = cluster.router
        clients.counts["on replicas"] = router.reads_on_replicas
        clients.counts["on the primary"] = router.reads_on_primary
    connection = await asyncpg.connect(topology.primary.url)
    rows = await connection.fetch("SELECT key, items FROM lists WHERE items <> '{}'")
    await connection.close()
    return clients, {row["key"]: tuple(row["items"]) for row in rows}


def judge(clients: Clients, final: dict[int, tuple[int, ...]]) -> None:
    counts = clients.counts
    print(dict(counts))
    # Replicas may see the commits of two writers in another order than the primary shows them in: G2, and no lie to
    # anybody's session.
    found = [anomaly for anomaly in check(clients.history, final) if anomaly.kind != "G2"]
    assert found == [], "\n".join(map(str, found[:10]))
    told = "\n".join("".join(traceback.format_exception(error)) for error in clients.raw[:3])
    assert clients.raw == [], told
    assert counts["committed"] >= 50
    assert counts["on replicas"] >= counts["read"] / 10


async def test_a_history_under_pauses_a_kill_and_a_failover(ready: Topology) -> None:
    judge(*await observed(ready, seconds=0, seed=1, faults=(pause, kill_replica, fail_over, pause)))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_minute_of_failures(ready: Topology) -> None:
    judge(*await observed(ready, seconds=60, seed=2))
