"""What an adversary tried on the cluster: floods, frozen servers, swallowed errors, poolers, closed clusters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, CommitUnknown, ReadsRefused, create_async_cluster, create_table, once
from tenfold.db.cluster_errors import NoPrimary, RetriesExhausted
from tenfold.db.tags import QueryTags, query_tags
from tenfold.db.timeouts import statement_deadline
from tenfold.db.transaction import RunOptions
from tenfold.resilience import DeadlineExceeded, State
from tenfold.testing import FaultProxy

PORT = text("SELECT inet_server_port()")
TIMEOUT = text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")
NUMBER = "SELECT n FROM numbers WHERE id = 1"
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


async def until(condition: Callable[[], object], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.fixture
async def ready(topology: Any) -> Any:
    await topology.revive()
    for replica in topology.replicas:
        await replica.resume_replay()
    await topology.primary.fetchval("CREATE TABLE IF NOT EXISTS numbers (id int PRIMARY KEY, n int NOT NULL)")
    await topology.primary.fetchval("TRUNCATE numbers")
    await topology.primary.fetchval("INSERT INTO numbers VALUES (1, 0)")
    for replica in topology.replicas:
        await replica.caught_up()
    return topology


@pytest.fixture
async def cluster(ready: Any) -> AsyncIterator[AsyncCluster]:
    urls = [replica.url for replica in ready.replicas]
    async with create_async_cluster(ready.primary.url, urls, max_lag="400ms", watch_period="50ms") as made:
        await made.writer()
        await until(lambda: all(node.seen.lag_state == "fresh" for node in made.nodes()))
        yield made


async def flood(cluster: AsyncCluster, count: int) -> tuple[int, int, int]:
    """Readers of all three kinds at once: how many were served, how many refused, and the most at a time."""
    served = refused = most = 0
    account = cluster.nodes()[0].account

    async def read(number: int) -> None:
        nonlocal served, refused, most
        try:
            if number % 3 == 0:
                async with cluster.connect(read_only=True) as connection:
                    most = max(most, account.readers)
                    await connection.execute(text("SELECT pg_sleep(0.05)"))
            elif number % 3 == 1:
                await cluster.execute(select(text("pg_sleep(0.05)")), route="replica")
            else:
                async with cluster.session(read_only=True) as session:
                    await session.execute(text("SELECT pg_sleep(0.05)"))
                    most = max(most, account.readers)
            served += 1
        except ReadsRefused:
            refused += 1

    await asyncio.gather(*[read(number) for number in range(count)])
    return served, refused, most


# -- spill


async def test_a_flood_cannot_pass_the_cap_at_once(cluster: AsyncCluster, ready: Any) -> None:
    """300 readers choose before the first of them has a connection; all the same no more than the cap get one."""
    for replica in ready.replicas:
        await replica.pause_replay()
    await ready.primary.fetchval("UPDATE numbers SET n = 1")
    await until(lambda: all(node.seen.lag_state == "stale" for node in cluster.nodes()[1:]))
    served, refused, most = await flood(cluster, 300)
    assert cluster.options.spill == 5
    assert most <= 5
    assert served >= 5
    assert served + refused == 300
    assert refused > 200
    assert cluster.nodes()[0].in_flight == 0
    assert await cluster.run(lambda session: session.scalar(text("UPDATE numbers SET n = 2 RETURNING n"))) == 2


async def test_replicas_that_freeze_send_the_cap_and_no_more(ready: Any) -> None:
    """All readers find out at the same time, by time-outs, and by then their choice is old."""
    urls = [replica.url for replica in ready.replicas]
    async with create_async_cluster(ready.primary.url, urls, connect_timeout="500ms") as cluster:
        await cluster.writer()
        await until(lambda: all(node.seen.lag_state == "fresh" for node in cluster.nodes()))
        for replica in ready.replicas:
            await replica.pause()
        try:
            served, refused, most = await flood(cluster, 50)  # more than the replicas' pools have places
        finally:
            for replica in ready.replicas:
                await replica.resume()
        assert most <= 5
        assert served + refused == 50
        assert refused > 0


async def test_a_replica_that_refuses_is_left_at_once_and_comes_back(ready: Any) -> None:
    """The breaker opens with the first refused connection and closes with the first that is made again."""
    async with FaultProxy(f"127.0.0.1:{ready.replicas[0].port}") as line:
        urls = [make_url(ready.replicas[0].url).set(port=line.port), ready.replicas[1].url]
        async with create_async_cluster(ready.primary.url, urls) as cluster:
            await cluster.writer()
            node, other = cluster.nodes()[1:]
            await until(lambda: node.seen.lag_state == other.seen.lag_state == "fresh")

            async def read() -> int:
                async with cluster.session(read_only=True) as session:
                    return int((await session.execute(PORT)).scalar_one())

            both = {replica.port for replica in ready.replicas}
            assert {*await asyncio.gather(*[read() for _ in range(12)])} == both
            line.refuse()
            line.cut()
            assert {*await asyncio.gather(*[read() for _ in range(12)])} <= both  # nobody gets an error
            await until(lambda: not node.usable(asyncio.get_running_loop().time()))
            assert {*await asyncio.gather(*[read() for _ in range(12)])} == {ready.replicas[1].port}
            line.accept()
            async with asyncio.timeout(60):
                while {*await asyncio.gather(*[read() for _ in range(12)])} != both:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert node.circuit.current is State.CLOSED


async def test_a_slow_replica_gets_fewer_readers(ready: Any) -> None:
    async with FaultProxy(f"127.0.0.1:{ready.replicas[0].port}") as line:
        urls = [make_url(ready.replicas[0].url).set(port=line.port), ready.replicas[1].url]
        async with create_async_cluster(ready.primary.url, urls) as cluster:
            await cluster.writer()
            slow, quick = cluster.nodes()[1:]
            await until(lambda: slow.seen.lag_state == quick.seen.lag_state == "fresh")
            served = dict.fromkeys([replica.port for replica in ready.replicas], 0)

            async def read(count: int) -> None:
                for _ in range(count):
                    async with cluster.connect(read_only=True) as connection:
                        served[(await connection.execute(PORT)).scalar_one()] += 1

            await asyncio.gather(*[read(20) for _ in range(8)])  # and both are known
            line.delay("40ms")
            await asyncio.gather(*[read(20) for _ in range(8)])
            served.update(dict.fromkeys(served, 0))
            await asyncio.gather(*[read(20) for _ in range(8)])
            assert served[ready.replicas[0].port] * 2 < served[ready.replicas[1].port]


# -- lag


async def test_half_a_record_is_no_lag(cluster: AsyncCluster, ready: Any) -> None:
    """What is logged without a commit is written up to the last full page; a replica cannot replay the half of it."""
    async with cluster.connect() as connection:
        await connection.execute(text("SELECT pg_logical_emit_message(false, 'x', repeat('x', 9000))"))
        await connection.rollback()
    probes = cluster.watch.probes
    await until(lambda: cluster.watch.probes > probes + 90)  # 1.5 s, and the limit is 0.4
    assert [node.seen.lag_state for node in cluster.nodes()] == ["fresh"] * 3


# -- who is the primary


async def test_the_declared_primary_is_heard_before_another_is_elected(ready: Any) -> None:
    """The declared one is slow to answer, and a copy of it (the same system and timeline) answers at once."""
    async with FaultProxy(f"127.0.0.1:{ready.primary.port}") as slow:
        slow.delay("100ms")
        here = make_url(ready.primary.url).set(port=slow.port)
        async with create_async_cluster(here, [ready.primary.url]) as cluster:
            assert (await cluster.writer()).name == "primary"
            await until(lambda: cluster.nodes()[1].refused)
    async with create_async_cluster(here, [ready.primary.url]) as cluster:  # nobody listens there any more
        assert (await cluster.writer()).name == "replica 0"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"database": "nope"}, 'database "nope" does not exist'),
        ({"username": "nobody"}, 'role "nobody" does not exist'),
        ({"port": 1}, "ConnectionRefusedError"),
    ],
)
async def test_no_primary_says_why(ready: Any, change: dict[str, Any], why: str) -> None:
    url = make_url(ready.primary.url).set(**change)
    async with create_async_cluster(url, failover_wait="300ms") as cluster:
        await cluster.watch.settle()
        with pytest.raises(NoPrimary, match=why):
            await cluster.writer()


async def test_options_of_a_url(ready: Any) -> None:
    url = make_url(ready.primary.url)
    async with create_async_cluster(url.update_query_dict({"sslmode": "disable"})) as cluster:
        assert (await cluster.execute(text("SELECT 1"))).scalar_one() == 1
    with pytest.raises(MisuseError, match=r"primary: expected parameters among .* and sslmode, got .application_name"):
        create_async_cluster(url.update_query_dict({"application_name": "shop"}))
    with pytest.raises(MisuseError, match=r"replicas\[0\]: expected host once, got 2"):
        create_async_cluster(url, [url.update_query_dict({"host": ("a:1", "b:2")})])


# -- transactions


@pytest.mark.parametrize("track", [True, False])
async def test_a_swallowed_error_is_no_commit(cluster: AsyncCluster, ready: Any, track: bool) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, which the driver takes for success."""
    tries = 0

    async def swallow(session: AsyncSession, state: str) -> str:
        nonlocal tries
        tries += 1
        await session.execute(text("UPDATE numbers SET n = n + 1"))
        if tries == 1:
            with suppress(DBAPIError):
                await session.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return "done"

    how = RunOptions(track=track)
    assert await cluster.run(lambda session: swallow(session, "40001"), options=how) == "done"
    assert (tries, await ready.primary.fetchval(NUMBER)) == (2, 1)
    tries = 0
    with pytest.raises(DBAPIError, match="22012"):
        await cluster.run(lambda session: swallow(session, "22012"), options=how)
    assert (tries, await ready.primary.fetchval(NUMBER)) == (1, 1)


async def test_so_it_is_in_sessions_and_connections_and_a_savepoint_heals(cluster: AsyncCluster, ready: Any) -> None:
    async def fail(where: Any) -> None:
        with pytest.raises(DBAPIError):
            await where.execute(text("SELECT 1 / 0"))

    async with cluster.session() as session:
        await session.execute(text("UPDATE numbers SET n = 7"))
        await fail(session)
        with pytest.raises(DBAPIError, match="division by zero"):
            await session.commit()
        await session.rollback()
        await session.execute(text("UPDATE numbers SET n = 8"))
        await session.commit()

    async def swallow() -> None:
        async with cluster.begin() as connection:
            await connection.execute(text("UPDATE numbers SET n = 9"))
            await fail(connection)

    with pytest.raises(DBAPIError, match="division by zero"):
        await swallow()
    assert await ready.primary.fetchval(NUMBER) == 8
    async with cluster.begin() as connection:
        await connection.execute(text("UPDATE numbers SET n = 10"))
        inner = await connection.begin_nested()
        await fail(connection)
        await inner.rollback()
    assert await ready.primary.fetchval(NUMBER) == 10


async def test_a_commit_that_is_refused_leaves_no_transaction_open(cluster: AsyncCluster, ready: Any) -> None:
    async def commit(connection: AsyncConnection) -> None:
        await connection.execute(text("UPDATE numbers SET n = 7"))
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(DBAPIError, match="division by zero"):
            await connection.commit()

    async with cluster.connect() as connection:
        await commit(connection)
        await connection.rollback()
        await connection.execute(text("UPDATE numbers SET n = 8"))
        await connection.commit()
        await commit(connection)
    async with cluster.begin() as another:  # over the same one, which lay on top of the pool
        await another.execute(text("UPDATE numbers SET n = n + 1"))
    assert await ready.primary.fetchval(NUMBER) == 9


async def test_a_task_group_does_not_hide_what_is_to_be_run_again(cluster: AsyncCluster) -> None:
    tries = 0

    async def grouped(session: AsyncSession) -> int:
        nonlocal tries
        tries += 1
        async with asyncio.TaskGroup() as group:
            if tries == 1:
                group.create_task(session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")))
        return tries

    assert await cluster.run(grouped) == 2


async def test_a_storm_of_failures_is_bounded_by_the_budget(cluster: AsyncCluster) -> None:
    """Without the budget 100 runs of at most six attempts would be 600."""
    tries = 0

    async def never(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    how = RunOptions(base=0)
    ended = await asyncio.gather(*[cluster.run(never, options=how) for _ in range(100)], return_exceptions=True)
    assert {type(one) for one in ended} == {RetriesExhausted}
    assert 100 < tries < 300


async def test_once_under_commits_whose_answer_is_cut(ready: Any) -> None:
    """The line is cut at all moments around COMMIT; with the same key tried until it is known, each happens once."""
    unknown = 0
    async with FaultProxy(f"127.0.0.1:{ready.primary.port}") as line:
        url = make_url(ready.primary.url).set(port=line.port)
        async with create_async_cluster(url) as cluster:
            async with cluster.begin() as connection:
                await connection.execute(text("DROP TABLE IF EXISTS tenfold_once"))
                await create_table(connection)
            for number in range(12):
                cut = False

                async def order(session: AsyncSession, number: int = number) -> Any:
                    nonlocal cut

                    async def place() -> int:
                        await session.execute(text("UPDATE numbers SET n = n + 1"))
                        return number

                    found = await once(session, f"order {number}", place)
                    if not cut:
                        cut = True
                        asyncio.get_running_loop().call_later(0.0004 * number, line.cut)
                    return found

                while True:
                    try:
                        assert await cluster.run(order, options=RunOptions(track=False)) == number
                        break
                    except CommitUnknown:
                        unknown += 1
    assert await ready.primary.fetchval(NUMBER) == 12
    print(f"{unknown} of 12 commits had an unknown outcome")


# -- frozen servers


async def test_a_session_leaves_a_frozen_server(ready: Any) -> None:
    async with create_async_cluster(ready.primary.url, release_timeout="200ms") as cluster:
        loop = asyncio.get_running_loop()
        began = 0.0

        async def leave() -> None:
            nonlocal began
            async with cluster.session(route="primary") as session:
                await session.execute(PORT)
                await ready.primary.pause()
                began = loop.time()

        try:
            with pytest.raises(DBAPIError, match="closed"):
                await leave()
            assert 0.15 < loop.time() - began < 20  # the statement's time-out is 30 s
            assert cluster.nodes()[0].account.holders == {}
        finally:
            await ready.primary.resume()


async def test_giving_back_ends_with_the_deadline(ready: Any) -> None:
    async with create_async_cluster(ready.primary.url, release_timeout="25s") as cluster:
        loop = asyncio.get_running_loop()
        await cluster.writer()

        async def stuck(session: AsyncSession) -> None:
            await session.execute(PORT)
            await ready.primary.pause()
            await session.execute(PORT)

        try:
            began = loop.time()
            with pytest.raises(DeadlineExceeded):
                await cluster.run(stuck, deadline="500ms")
            assert loop.time() - began < 20
            assert cluster.nodes()[0].account.holders == {}
        finally:
            await ready.primary.resume()


async def gone(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def forgetful(port: int, forgets: asyncio.Event) -> AsyncIterator[int]:
    """A relay like a router that forgets its connections: once told to, those it has carry nothing any more and say
    nothing; new ones are carried.
    """

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, young: bool) -> None:
        while data := await source.read(65536):
            if not young and forgets.is_set():
                await asyncio.Event().wait()
            sink.write(data)
            await sink.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await asyncio.open_connection("127.0.0.1", port)
        young = forgets.is_set()
        both = [
            asyncio.create_task(forward(reader, to_server, young)),
            asyncio.create_task(forward(there, writer, young)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await gone(both)
            to_server.close()
            writer.close()

    served: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(
        lambda reader, writer: served.append(asyncio.create_task(serve(reader, writer))), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await gone(served)


async def test_connections_that_a_router_forgot_are_not_handed_out(ready: Any) -> None:
    """Open at this end only: the watch's own goes silent, it connects anew, and trusts the idle ones no more."""
    forgets = asyncio.Event()
    async with (
        forgetful(ready.primary.port, forgets) as port,
        create_async_cluster(
            make_url(ready.primary.url).set(port=port), connect_timeout="300ms", watch_period="50ms"
        ) as cluster,
    ):
        node = await cluster.writer()

        async def use(read_only: bool) -> None:
            async with cluster.connect(read_only=read_only) as connection:
                await connection.execute(PORT)

        await asyncio.gather(*[use(number % 2 == 0) for number in range(10)])
        silences, epoch = node.silences, node.epoch
        forgets.set()
        await until(lambda: node.silences > silences and node.epoch > epoch)
        async with asyncio.timeout(20):  # the statement's time-out is 30 s
            await asyncio.gather(*[use(number % 2 == 0) for number in range(10)])


# -- closing, loops, forks


async def test_connections_in_use_when_the_cluster_is_closed_are_closed_when_given_back(ready: Any) -> None:
    before = await ready.primary.fetchval(CLIENTS)
    cluster = create_async_cluster(ready.primary.url)
    end, held = asyncio.Event(), asyncio.Semaphore(0)

    async def use(read_only: bool) -> int:
        async with cluster.connect(read_only=read_only) as connection:
            await connection.execute(PORT)
            held.release()
            await end.wait()
            return int((await connection.execute(PORT)).scalar_one())

    users = [asyncio.create_task(use(number % 2 == 0)) for number in range(6)]
    for _ in users:
        await held.acquire()
    await cluster.aclose()
    end.set()
    assert await asyncio.gather(*users) == [ready.primary.port] * 6
    async with asyncio.timeout(10):
        while await ready.primary.fetchval(CLIENTS) > before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_time_outs_and_tags_outlive_a_close_and_a_loop(ready: Any) -> None:
    cluster = create_async_cluster(ready.primary.url)
    self_name = text("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")

    async def look() -> tuple[int, str]:
        with query_tags(trace="abc"):
            async with cluster.connect() as connection:
                timeout = (await connection.execute(TIMEOUT)).scalar_one()
                return timeout, (await connection.execute(self_name)).scalar_one()

    async def another_loop() -> tuple[int, str]:
        try:
            return await look()
        finally:
            await cluster.aclose()

    statement_deadline(cluster, longest="7s")
    QueryTags(cluster)
    assert await look() == (7000, "trace=abc")
    await cluster.aclose()
    assert await look() == (7000, "trace=abc")
    assert await asyncio.to_thread(lambda: asyncio.run(another_loop())) == (7000, "trace=abc")
    await cluster.aclose()


_LOOPS = """
import asyncio, multiprocessing, sys
from sqlalchemy import text
from tenfold.db import create_async_cluster

cluster = create_async_cluster(sys.argv[1] if len(sys.argv) > 1 else "postgresql://nowhere/")

async def ask(url=None):
    target = cluster if url is None else create_async_cluster(url)
    async with target.connect(read_only=True) as connection:
        return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()

def child(queue, url):
    queue.put(asyncio.run(ask(url)))

if __name__ == "__main__":
    url = sys.argv[1]
    seen = [asyncio.run(ask()) for _ in range(3)]  # nobody closes anything in between
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, None if method == "fork" else url))
        process.start()
        seen.append(queue.get(timeout=20))
        process.join(20)
        assert process.exitcode == 0
    seen.append(asyncio.run(ask()))
    assert len(set(seen)) == 6, seen
    print("well")
"""


@pytest.mark.slow
async def test_one_loop_after_another_and_children_of_both_kinds(ready: Any, tmp_path: Any) -> None:
    program = tmp_path / "loops.py"
    program.write_text(_LOOPS)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), ready.primary.url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = await asyncio.to_thread(run)
    assert done.stdout == "well\n", done.stderr


# -- poolers

_TOLERATED = {"user", "database", "client_encoding", "datestyle", "timezone", "application_name"}
