"""Pools on a real server: who holds what, cancelled check-outs, frozen servers, forks and poolers."""

from __future__ import annotations

import asyncio
import gc
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.cluster_errors import PoolExhausted, ReadsRefused
from tenfold.resilience import Deadline, DeadlineExceeded


async def test_an_exhausted_pool_says_who_holds_what(items: Any) -> None:
    async with create_async_cluster(items.primary.url, pool_size=2, pool_timeout="150ms") as cluster:
        release = asyncio.Event()

        async def hold(statement: str) -> None:
            async with cluster.connect() as connection:
                await connection.execute(text(statement))
                await release.wait()

        holders = [
            asyncio.create_task(hold("SELECT   'the\nslow one'"), name="nightly report"),
            asyncio.create_task(hold("SELECT name FROM items WHERE id = 7" + " OR true" * 50), name="checkout"),
        ]
        node = await cluster.writer()
        while len(node.account.report(time.monotonic(), longer=0.05)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        with pytest.raises(PoolExhausted, match=r"primary .writes.: .* connection within 150 ms") as caught:
            async with cluster.connect():
                pass
        assert isinstance(caught.value, PoolTimeout)
        first, second = caught.value.holders
        assert {first.split(" for ")[0], second.split(" for ")[0]} == {"nightly report", "checkout"}
        told = " ".join(caught.value.holders)
        assert "last: SELECT 'the slow one'" in told
        assert "…" in told
        assert all(len(holder) < 140 for holder in caught.value.holders)
        release.set()
        await asyncio.gather(*holders)
        assert node.account.holders == {}


async def test_the_wait_for_a_connection_ends_with_the_deadline(items: Any) -> None:
    tight = create_async_cluster(items.primary.url, pool_size=1, pool_timeout="20s")
    async with tight as cluster, cluster.connect():
        began = time.monotonic()
        with pytest.raises((PoolExhausted, DeadlineExceeded)):
            async with Deadline("200ms"), cluster.connect():
                pass
        with pytest.raises(PoolExhausted, match=r"within \d+(\.\d)? ms"), Deadline("200ms"):  # one that stops nobody
            async with cluster.connect():
                pass
        assert time.monotonic() - began < 15  # and not 20 s for each


async def test_cancelled_check_outs_and_releases_leak_nothing(items: Any) -> None:
    """300 tasks are cancelled at random moments: waiting, connecting, in a statement, giving back."""
    random = Random(7)
    urls = [replica.url for replica in items.replicas]
    async with create_async_cluster(items.primary.url, urls, pool_size=3) as cluster:
        session_of = cluster.sessionmaker()

        async def use(number: int) -> None:
            if number % 3 == 0:
                async with cluster.connect(read_only=True) as connection:
                    await connection.execute(text("SELECT pg_sleep(0.002)"))
            elif number % 3 == 1:
                async with cluster.begin() as connection:
                    await connection.execute(text("UPDATE items SET name = name WHERE id = 1"))
            else:
                async with session_of() as session:
                    await session.execute(text("SELECT 1"))
                    await session.commit()

        tasks = []
        for number in range(300):
            tasks.append(asyncio.create_task(use(number)))
            if len(tasks) >= 12:
                await asyncio.sleep(random.uniform(0, 0.004))
                tasks.pop(random.randrange(len(tasks))).cancel()
        await asyncio.gather(*tasks)
        async with asyncio.timeout(5):
            while any(node.account.holders for node in cluster.nodes()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for node in cluster.nodes():
            assert (node.account.readers, node.account.lost, node.adaptive.in_flight) == (0, 0, 0)
        # And the pool has all of its places left.
        async with cluster.connect() as one, cluster.connect() as two, cluster.connect() as three:
            assert (
                len({(await c.execute(text("SELECT pg_backend_pid()"))).scalar_one() for c in (one, two, three)}) == 3
            )


async def test_closing_a_cluster_whose_server_is_frozen_ends(items: Any) -> None:
    cluster = create_async_cluster(items.primary.url, release_timeout="200ms")
    async with cluster.connect() as one, cluster.connect() as two:
        for connection in (one, two):
            await connection.execute(text("SELECT 1"))
    await items.primary.pause()
    try:
        began = time.monotonic()
        await cluster.aclose()
        assert time.monotonic() - began < 20  # the statement's time-out is 30 s
    finally:
        await items.primary.resume()


async def test_giving_back_to_a_frozen_server_ends(items: Any) -> None:
    async with create_async_cluster(items.primary.url, release_timeout="200ms") as cluster:
        try:
            async with cluster.connect() as connection:
                await connection.execute(text("SELECT 1"))  # and so there is a transaction to roll back
                await items.primary.pause()
                began = time.monotonic()
            assert 0.15 < time.monotonic() - began < 20  # the statement's time-out is 30 s
            assert cluster.nodes()[0].account.holders == {}
        finally:
            await items.primary.resume()


_FORK = """
import asyncio, os, sys
from sqlalchemy import text
from tenfold.db import create_async_cluster

cluster = create_async_cluster(sys.argv[1])

async def pid(close):
    async with cluster.connect() as connection:
        found = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    if close:
        await cluster.aclose()
    return found

async def parent():
    first = await pid(False)
    reader, writer = os.pipe()
    if os.fork() == 0:
        asyncio.events._set_running_loop(None)
        asyncio.set_event_loop(None)
        os.write(writer, str(asyncio.new_event_loop().run_until_complete(pid(True))).encode())
        os._exit(0)
    os.wait()
    assert int(os.read(reader, 100)) != first, "the child used its parent's connection"
    assert await pid(True) == first, "the child closed its parent's connection"

asyncio.run(parent())
print("well")
"""


async def test_a_fork_inherits_nothing_and_closes_nothing(items: Any) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _FORK, items.primary.url], capture_output=True, text=True, timeout=30, check=False
        )

    done = await asyncio.to_thread(run)
    assert done.stdout == "well\n", done.stderr


@asynccontextmanager
async def like_a_pooler(port: int) -> AsyncIterator[int]:
    """A relay to the real server that does what every pooler does: it makes up the key for cancel requests."""

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await asyncio.open_connection("127.0.0.1", port)
        upward = asyncio.create_task(forward(reader, to_server))
        try:
            while True:
                kind = await there.readexactly(1)
                if kind == b"N":  # the answer to a request for TLS has no length
                    writer.write(kind)
                    continue
                length = await there.readexactly(4)
                body = await there.readexactly(struct.unpack("!I", length)[0] - 4)
                if kind == b"K":
                    body = struct.pack("!I", 4242) + body[4:]
                writer.write(kind + length + body)
                if kind == b"Z":
                    break
            await forward(there, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            upward.cancel()
            to_server.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def prepared(cluster: AsyncCluster, read_only: bool) -> tuple[int, str]:
    async with cluster.connect(read_only=read_only) as connection:
        for number in (1, 2, 3):
            found = await connection.execute(text("SELECT name FROM items WHERE id = :id"), {"id": number})
            assert found.scalar_one() == f"item {number}"
        count = (await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        return count, "transaction" if driver.is_in_transaction() else "autocommit"


async def test_behind_a_pooler_no_statement_has_a_name(items: Any) -> None:
    async with create_async_cluster(items.primary.url) as direct:
        count, mode = await prepared(direct, read_only=True)
        assert count > 0
        assert mode == "autocommit"
        assert direct.nodes()[0].pooled is False
    async with (
        like_a_pooler(items.primary.port) as port,
        create_async_cluster(f"postgresql://tenfold@127.0.0.1:{port}/postgres") as pooled,
    ):
        assert await prepared(pooled, read_only=True) == (0, "transaction")
        assert await prepared(pooled, read_only=False) == (0, "transaction")
        assert pooled.nodes()[0].pooled is True


@pytest.mark.filterwarnings("ignore")  # SQLAlchemy and asyncpg warn, as they should
async def test_connections_that_nobody_gives_back_are_counted(items: Any) -> None:
    async with create_async_cluster(items.primary.url) as cluster:
        node = await cluster.writer()
        connection = await node.engine.connect()
        await connection.execute(text("SELECT 1"))
        assert len(node.account.holders) == 1
        del connection
        gc.collect()
        assert (node.account.lost, node.account.holders) == (1, {})


async def test_many_who_were_refused_to_write_drop_one_generation(items: Any) -> None:
    """Each of them is right, and only the first one's connection is of the generation that is in force."""
    async with create_async_cluster(items.primary.url) as cluster:
        (node,) = cluster.nodes()

        async def refused(barrier: asyncio.Barrier) -> None:
            async with cluster.connect() as connection:
                await connection.execute(text("SET TRANSACTION READ ONLY"))
                await barrier.wait()
                with pytest.raises(DBAPIError, match="read-only transaction"):
                    await connection.execute(text("UPDATE items SET name = name"))

        barrier = asyncio.Barrier(5)
        await asyncio.gather(*[refused(barrier) for _ in range(5)])
        assert node.generation == 1
        assert (await cluster.writer()).name == "primary"


async def test_connections_that_are_out_of_date_at_once_are_a_server_that_is_not_there(items: Any) -> None:
    """A server may change more often than SQLAlchemy connects anew: nothing was sent, so the next try may."""
    async with create_async_cluster(items.primary.url) as cluster:
        (node,) = cluster.nodes()
        changes = iter(range(2))

        def change(*_: Any) -> None:
            for number in changes:
                node.advance(f"change {number}")
                return

        for engine in (node.engine, node.reads):
            event.listen(engine.sync_engine, "connect", change)
        async with cluster.begin() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM items"))).scalar_one() == 10
        changes = iter(range(2))
        with pytest.raises(ReadsRefused, match=r"its breaker is open.*out of date as soon as it was made") as caught:
            async with cluster.connect(read_only=True):
                pass
        assert isinstance(caught.value.__cause__, ConnectionResetError)
