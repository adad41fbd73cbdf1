"""Money and stock while the primary is killed: the sum stays, nothing is sold twice, nothing acknowledged is undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold.db import AsyncCluster, CommitUnknown, RunOptions, create_async_cluster, create_table, once
from tenfold.servers import Topology

ACCOUNTS, START, SKUS, STOCK = 8, 100, 3, 60
PERSISTENT = RunOptions(attempts=100)


@pytest.fixture
async def cluster(topology: Topology) -> AsyncIterator[AsyncCluster]:
    await topology.revive()
    for setting in ("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'", "SELECT pg_reload_conf()"):
        await topology.primary.fetchval(setting)
    connection = await asyncpg.connect(topology.primary.url)
    await connection.execute(
        "DROP TABLE IF EXISTS accounts, stock, sold;"
        " CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);"
        " CREATE TABLE stock (sku int PRIMARY KEY, stock int NOT NULL);"
        " CREATE TABLE sold (id text PRIMARY KEY, sku int NOT NULL, amount int NOT NULL);"
        f" INSERT INTO accounts SELECT n, {START} FROM generate_series(1, {ACCOUNTS}) n;"
        f" INSERT INTO stock SELECT n, {STOCK} FROM generate_series(1, {SKUS}) n"
    )
    await connection.close()
    for replica in topology.replicas:
        await replica.caught_up(within="30s")
    urls = [replica.url for replica in topology.replicas]
    async with create_async_cluster(topology.primary.url, urls, watch_period="50ms") as cluster:
        yield cluster
    for setting in ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"):
        await topology.primary.fetchval(setting)


async def under_kills(
    topology: Topology, work: Callable[[int, Random], Awaitable[None]], done: Counter[str], *, clients: int = 6
) -> None:
    """Clients work while the primary dies twice: once it comes back, once the replica that has most takes over."""
    stop = asyncio.Event()

    async def client(number: int) -> None:
        random = Random(number)
        while not stop.is_set():
            await work(number, random)

    async def more(count: int = 30) -> None:
        least = done["done"] + count
        async with asyncio.timeout(60):
            while done["done"] < least:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def failures() -> None:
        try:
            await more()
            await topology.primary.kill()
            await topology.primary.start()
            await more()
            former = topology.primary
            await former.kill()
            received = [await one.fetchval("SELECT pg_last_wal_receive_lsn()") for one in topology.replicas]
            await topology.promote(topology.replicas[received.index(max(received))])
            await more()
            await topology.rejoin(former)
        finally:
            stop.set()

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        group.create_task(failures())


async def test_transfers_keep_the_sum(topology: Topology, cluster: AsyncCluster) -> None:
    """Read two balances, write two balances, serializable; readers on replicas never see money that is not there."""
    done: Counter[str] = Counter()
    total = text("SELECT sum(balance), min(balance) FROM accounts")

    async def work(number: int, random: Random) -> None:
        if number == 0:
            async with cluster.session(read_only=True) as session:
                try:
                    money, least = (await session.execute(total)).one()
                except Exception as error:  # noqa: BLE001 - that it could not be read now is counted
                    done[f"read: {type(error).__name__}"] += 1
                    await asyncio.sleep(0.01)
                    return
            assert (money, least >= 0) == (ACCOUNTS * START, True)
            done["read"] += 1
            return
        one, two = random.sample(range(1, ACCOUNTS + 1), 2)
        amount = random.randrange(1, START)

        async def transfer(session: AsyncSession) -> None:
            read = text("SELECT balance FROM accounts WHERE id = :id")
            write = text("UPDATE accounts SET balance = :balance WHERE id = :id")
            has, other = [(await session.execute(read, {"id": which})).scalar_one() for which in (one, two)]
            if has >= amount:
                await session.execute(write, {"id": one, "balance": has - amount})
                await session.execute(write, {"id": two, "balance": other + amount})

        try:
            await cluster.run(transfer, isolation="SERIALIZABLE", deadline="30s", options=PERSISTENT)
        except CommitUnknown:
            done["unknown"] += 1
        else:
            done["done"] += 1

    await under_kills(topology, work, done)
    print(dict(done))
    money, least = await both(topology, "SELECT sum(balance), min(balance) FROM accounts")
    assert (money, least >= 0) == (ACCOUNTS * START, True)
    assert done["read"] > 0


async def test_stock_is_sold_once_and_never_below_zero(topology: Topology, cluster: AsyncCluster) -> None:
    """Orders under a key of their own: whoever does not know what became of one sends it again."""
    async with cluster.begin() as connection:
        await create_table(connection)
    done: Counter[str] = Counter()
    acknowledged: dict[str, int] = {}
    refused: list[str] = []

    async def work(number: int, random: Random) -> None:
        order, sku, amount = f"{number}-{done['orders']}", random.randrange(1, SKUS + 1), random.randrange(1, 3)
        done["orders"] += 1

        async def sell(session: AsyncSession) -> bool:
            taken = await session.execute(
                text("UPDATE stock SET stock = stock - :n WHERE sku = :sku AND stock >= :n"), {"sku": sku, "n": amount}
            )
            if not taken.rowcount:  # type: ignore[attr-defined]
                return False
            values = {"id": order, "sku": sku, "n": amount}
            await session.execute(text("INSERT INTO sold (id, sku, amount) VALUES (:id, :sku, :n)"), values)
            return True

        async def keyed(session: AsyncSession) -> bool:
            return bool(await once(session, order, lambda: sell(session)))

        while True:
            try:
                sold = await cluster.run(keyed, deadline="30s", options=PERSISTENT)
                break
            except CommitUnknown:
                done["unknown"] += 1
        done["done"] += 1
        if sold:
            acknowledged[order] = amount
        else:
            refused.append(order)

    await under_kills(topology, work, done)
    connection = await asyncpg.connect(topology.primary.url)
    sold = {row["id"]: row["amount"] for row in await connection.fetch("SELECT id, amount FROM sold")}
    left = [row["stock"] for row in await connection.fetch("SELECT stock FROM stock")]
    await connection.close()
    print(dict(done), "left", left, "refused", len(refused))
    assert min(left) >= 0
    assert sold == acknowledged
    assert sum(left) + sum(sold.values()) == SKUS * STOCK
    assert refused  # else it would not have been tried to the end


async def both(topology: Topology, statement: str) -> tuple[int, int]:
    connection = await asyncpg.connect(topology.primary.url)
    try:
        one, two = await connection.fetchrow(statement)
    finally:
        await connection.close()
    return one, two
