"""`cluster.run` on a real server: what is run again, what is not, and commits whose answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.cluster_errors import CommitUnknown, RetriesExhausted
from tenfold.db.idempotency import KeyReused, create_table, once, prune
from tenfold.db.transaction import RunOptions
from tenfold.resilience import DeadlineExceeded
from tenfold.servers import Postgres

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def cluster(items: Any) -> AsyncIterator[AsyncCluster]:
    async with create_async_cluster(items.primary.url, [replica.url for replica in items.replicas]) as cluster:
        async with cluster.begin() as connection:
            await connection.execute(text("DROP TABLE IF EXISTS accounts, tenfold_once"))
            await connection.execute(text("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)"))
            await connection.execute(text("INSERT INTO accounts VALUES (1, 100), (2, 100)"))
            await create_table(connection)
        yield cluster


async def balances(cluster: AsyncCluster) -> list[int]:
    async with cluster.connect() as connection:
        return [row[0] for row in await connection.execute(text("SELECT balance FROM accounts ORDER BY id"))]


async def add(session: AsyncSession, account: int, amount: int) -> None:
    await session.execute(
        text("UPDATE accounts SET balance = balance + :amount WHERE id = :id"), {"id": account, "amount": amount}
    )


async def test_the_result_is_returned_and_an_error_rolls_back(cluster: AsyncCluster) -> None:
    async def pay(session: AsyncSession) -> str:
        await add(session, 1, 5)
        return "paid"

    async def fail(session: AsyncSession) -> None:
        await add(session, 1, 1000)
        raise LookupError("no such customer")

    assert await cluster.run(pay) == "paid"
    with pytest.raises(LookupError):
        await cluster.run(fail)
    assert await balances(cluster) == [105, 100]
    assert cluster.nodes()[0].account.holders == {}


async def test_read_modify_write_under_serializable_loses_nothing(cluster: AsyncCluster) -> None:
    """Everybody reads, thinks, and writes what they read plus one. Without running again, updates get lost or fail."""

    async def increment(session: AsyncSession) -> None:
        found = (await session.execute(text("SELECT balance FROM accounts WHERE id = 1"))).scalar_one()
        await asyncio.sleep(0)
        await session.execute(text("UPDATE accounts SET balance = :b WHERE id = 1"), {"b": found + 1})

    how = RunOptions(attempts=50)
    await asyncio.gather(*[cluster.run(increment, isolation="SERIALIZABLE", options=how) for _ in range(8)])
    assert await balances(cluster) == [108, 100]
    assert cluster._runner.retries > 0


async def test_a_deadlock_is_run_again(cluster: AsyncCluster) -> None:
    met = asyncio.Barrier(2)
    tries = 0

    async def move(session: AsyncSession, first: int, second: int) -> None:
        nonlocal tries
        tries += 1
        await add(session, first, 1)
        if tries <= 2:
            await met.wait()
        await add(session, second, 1)

    await asyncio.gather(cluster.run(lambda s: move(s, 1, 2)), cluster.run(lambda s: move(s, 2, 1)))
    assert await balances(cluster) == [102, 102]
    assert tries == 3


async def test_attempts_end(cluster: AsyncCluster) -> None:
    tries = 0

    async def never(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with pytest.raises(RetriesExhausted, match="failed 3 times") as caught:
        await cluster.run(never, options=RunOptions(attempts=3, base=0))
    assert (tries, caught.value.attempts) == (3, 3)
    assert isinstance(caught.value.__cause__, DBAPIError)


async def test_a_connection_lost_before_commit_is_run_again(cluster: AsyncCluster, items: Any) -> None:
    pids = []

    async def pay(session: AsyncSession) -> None:
        pids.append((await session.execute(PID)).scalar_one())
        await add(session, 1, 1)
        if len(pids) == 1:
            await items.primary.fetchval("SELECT pg_terminate_backend($1, 5000)", pids[0])
        await add(session, 2, 1)

    await cluster.run(pay)
    assert len(pids) == 2
    assert await balances(cluster) == [101, 101]


@pytest.mark.parametrize("way", ["session.commit", "session.begin", "its connection", "a savepoint"])
async def test_a_function_that_commits_by_itself_is_refused(cluster: AsyncCluster, way: str) -> None:
    """If the answer to its own COMMIT was lost it would be run again, whatever became of it."""

    async def pay(session: AsyncSession) -> None:
        if way == "session.commit":
            await add(session, 1, 1)
            await session.commit()
        elif way == "its connection":
            await add(session, 1, 1)
            await (await session.connection()).commit()
        else:
            async with session.begin() if way == "session.begin" else session.begin_nested():
                await add(session, 1, 1)

    if way == "a savepoint":
        await cluster.run(pay)
    else:
        with pytest.raises(MisuseError, match="leaves COMMIT to run"):
            await cluster.run(pay)
    assert await balances(cluster) == [101 if way == "a savepoint" else 100, 100]
    assert cluster.nodes()[0].account.holders == {}


async def test_a_function_that_closes_its_session_is_refused(cluster: AsyncCluster) -> None:
    """Closing rolls back: who is told that all went well would believe that it was paid."""

    async def pay(session: AsyncSession) -> None:
        async with session:
            await add(session, 1, 1)

    async def changes_its_mind(session: AsyncSession) -> str:
        await add(session, 1, 1)
        await session.rollback()
        return "not paid"

    with pytest.raises(MisuseError, match="leaves its session open"):
        await cluster.run(pay)
    assert await cluster.run(changes_its_mind) == "not paid"
    assert await cluster.run(lambda session: asyncio.sleep(0, "nothing")) == "nothing"
    assert await balances(cluster) == [100, 100]
    assert cluster.nodes()[0].account.holders == {}


async def test_the_deadline_holds_for_all_of_it(cluster: AsyncCluster) -> None:
    async def slow(session: AsyncSession) -> None:
        await add(session, 1, 1)
        await session.execute(text("SELECT pg_sleep(20)"))

    with pytest.raises(DeadlineExceeded):
        await cluster.run(slow, deadline="300ms")
    assert await balances(cluster) == [100, 100]
    assert cluster.nodes()[0].account.holders == {}


async def in_the_middle_of_commit(items: Any, pid: int) -> None:
    """Wait until the backend waits for a synchronous replica that does not exist: its commit is done and not told."""
    while not await items.primary.fetchval(  # noqa: ASYNC110
        "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1", pid
    ):
        await asyncio.sleep(0.005)


@pytest.fixture
async def unheard(
    items: Any, unheard_commits: Callable[[Postgres], AbstractAsyncContextManager[None]]
) -> AsyncIterator[None]:
    async with unheard_commits(items.primary):
        yield


async def lost_answer(cluster: AsyncCluster, items: Any, options: RunOptions | None) -> tuple[int, str]:
    pids: list[int] = []

    async def pay(session: AsyncSession) -> str:
        pids.append((await session.execute(PID)).scalar_one())
        await session.execute(text("SET LOCAL synchronous_commit = on"))
        await add(session, 1, 7)
        return "paid"

    running = asyncio.create_task(cluster.run(pay, options=options))
    async with asyncio.timeout(10):
        while not pids:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await in_the_middle_of_commit(items, pids[0])
    await items.primary.fetchval("SELECT pg_terminate_backend($1, 5000)", pids[0])
    return len(pids), await running


async def test_a_commit_whose_answer_is_lost_is_looked_up(cluster: AsyncCluster, items: Any, unheard: None) -> None:
    assert await lost_answer(cluster, items, None) == (1, "paid")
    assert await balances(cluster) == [107, 100]
    assert cluster._runner.resolved == 1


async def test_a_deadline_that_passes_during_commit_does_not_hide_what_happened(
    cluster: AsyncCluster, unheard: None
) -> None:
    async def pay(session: AsyncSession) -> str:
        await session.execute(text("SET LOCAL synchronous_commit = on"))
        await add(session, 1, 7)
        return "paid"

    assert await cluster.run(pay, deadline="500ms") == "paid"
    with pytest.raises(CommitUnknown):
        await cluster.run(pay, deadline="500ms", options=RunOptions(track=False))
    assert await balances(cluster) == [114, 100]
    running = asyncio.create_task(cluster.run(pay))
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await balances(cluster) == [121, 100]


async def test_a_commit_of_unknown_outcome_is_not_run_again(cluster: AsyncCluster, items: Any, unheard: None) -> None:
    with pytest.raises(CommitUnknown, match="may have been committed") as caught:
        await lost_answer(cluster, items, RunOptions(track=False))
    assert caught.value.xid is None
    assert await balances(cluster) == [107, 100]


async def test_the_word_of_a_server_that_went_down_meanwhile_is_not_believed(
    cluster: AsyncCluster, items: Any, unheard: None
) -> None:
    """Its ids may have been given out anew."""
    node = await cluster.writer()
    pids: list[int] = []

    async def pay(session: AsyncSession) -> None:
        pids.append((await session.execute(PID)).scalar_one())
        await session.execute(text("SET LOCAL synchronous_commit = on"))
        await add(session, 1, 7)

    running = asyncio.create_task(cluster.run(pay))
    async with asyncio.timeout(10):
        while not pids:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await in_the_middle_of_commit(items, pids[0])
    epoch = node.epoch
    await items.primary.kill()
    await items.primary.start()
    with pytest.raises(CommitUnknown) as caught:
        await running
    assert caught.value.xid is not None
    assert node.epoch > epoch
    assert len(pids) == 1


async def test_once(cluster: AsyncCluster) -> None:
    calls = 0

    async def order(session: AsyncSession, request: str = "a") -> dict[str, int]:
        async def place() -> dict[str, int]:
            nonlocal calls
            calls += 1
            await add(session, 1, 1)
            return {"order": calls}

        found: dict[str, int] = await once(session, "order:1", place, request=request)
        return found

    results = await asyncio.gather(*[cluster.run(order, isolation="SERIALIZABLE") for _ in range(4)])
    assert all(result == results[0] for result in results)
    assert await cluster.run(order) == results[0]
    assert await balances(cluster) == [101, 100]
    with pytest.raises(KeyReused, match="used for another request"):
        await cluster.run(lambda session: order(session, "b"))
    with pytest.raises(MisuseError, match="expected a key of 1 to 255"):
        await cluster.run(lambda session: once(session, "", lambda: asyncio.sleep(0)))
    with pytest.raises(MisuseError, match="a result that JSON can hold"):
        await cluster.run(lambda session: once(session, "x", lambda: asyncio.sleep(0, {1, 2})))
    with pytest.raises(MisuseError, match="a result that JSON can hold"):
        await cluster.run(lambda session: once(session, "x", lambda: asyncio.sleep(0, float("nan"))))
    async with cluster.begin() as connection:
        assert await prune(connection, "1h") == 0
        assert await prune(connection, 0) == 1


async def test_a_key_that_was_rolled_back_is_free(cluster: AsyncCluster) -> None:
    async def fail(session: AsyncSession) -> None:
        async def place() -> None:
            raise LookupError

        await once(session, "k", place)

    async def work(session: AsyncSession) -> Any:
        return await once(session, "k", lambda: asyncio.sleep(0, "done"))

    with pytest.raises(LookupError):
        await cluster.run(fail)
    assert await cluster.run(work) == "done"
