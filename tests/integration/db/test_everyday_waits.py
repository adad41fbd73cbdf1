"""Locks by name, statement time-outs from the deadline and query tags, seen in the server's own views."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.advisory import LockBusy, LockLost, advisory_lock, lock_in_transaction, lock_key
from tenfold.db.begin import at_begin
from tenfold.db.tags import QueryTags, application_name, comment, query_tags
from tenfold.db.timeouts import apply_deadline, setting, statement_deadline
from tenfold.resilience import Deadline, DeadlineExceeded, DeadlineTooShort
from tenfold.servers import Postgres

TIMEOUT = text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")
ADVISORY = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


async def becomes(engine: AsyncEngine, question: Any, number: int) -> None:
    async with asyncio.timeout(10), engine.connect() as connection:
        while (await connection.execute(question)).scalar_one() != number:
            await connection.rollback()


# -- advisory locks


async def test_one_holds_it_at_a_time(engine: AsyncEngine) -> None:
    inside = most = 0

    async def worker() -> None:
        nonlocal inside, most
        async with advisory_lock(engine, "job") as held:
            inside += 1
            most = max(most, inside)
            await held.check()
            inside -= 1

    await asyncio.gather(*[worker() for _ in range(9)])
    assert most == 1
    await becomes(engine, ADVISORY, 0)


async def test_who_waits_too_long_is_refused_and_the_connection_kept(engine: AsyncEngine) -> None:
    async with advisory_lock(engine, "job"):
        for wait in ("0s", "100ms"):
            with pytest.raises(LockBusy, match="advisory lock 'job': held by another session"):
                async with advisory_lock(engine, "job", wait=wait):
                    pass
        with Deadline("100ms"), pytest.raises(LockBusy):
            async with advisory_lock(engine, "job", wait="1h"):
                pass
        async with advisory_lock(engine, "another job", wait="0s"):
            pass
    async with advisory_lock(engine, "job", wait="0s", shared=True) as one:
        async with advisory_lock(engine, "job", wait="0s", shared=True) as two:
            await one.check()
            await two.check()
        with pytest.raises(LockBusy):
            async with advisory_lock(engine, "job", wait="0s"):
                pass
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW lock_timeout"))).scalar_one() == "0"
    await becomes(engine, ADVISORY, 0)


async def test_cancelling_leaks_no_lock(engine: AsyncEngine) -> None:
    """At every moment of taking, holding and giving back; then the server must know of no lock."""
    took = 0

    async def use() -> None:
        nonlocal took
        async with advisory_lock(engine, "job"):
            took += 1
            await asyncio.sleep(0)

    began = time.perf_counter()
    await use()
    whole = time.perf_counter() - began
    for step in range(60):
        task = asyncio.create_task(use())
        await asyncio.sleep(whole * step / 50)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert 2 < took < 61, took  # some were cancelled before, some after
    await becomes(engine, ADVISORY, 0)
    async with advisory_lock(engine, "job", wait="0s"):
        pass


async def test_cancelling_a_waiter_leaks_no_lock(engine: AsyncEngine) -> None:
    async def use() -> None:
        async with advisory_lock(engine, "job", wait="1h"):
            raise AssertionError

    async with advisory_lock(engine, "job"):
        waiter = asyncio.create_task(use())
        await becomes(engine, WAITING, 1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await becomes(engine, WAITING, 0)
    await becomes(engine, ADVISORY, 0)


async def test_a_lost_session_is_noticed(engine: AsyncEngine) -> None:
    async with advisory_lock(engine, "job") as held:
        kill = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        async with engine.connect() as connection:
            await connection.execute(kill)
        with pytest.raises(LockLost, match="its connection broke"):
            await held.check()
    async with advisory_lock(engine, "job", wait="5s") as held:
        await held.check()


async def test_in_a_transaction(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, engine.connect() as other:
        await lock_in_transaction(session, "job", wait="2s")
        await lock_in_transaction(session, "job")
        assert (await session.execute(text("SHOW lock_timeout"))).scalar_one() == "0"
        with pytest.raises(LockBusy):
            await lock_in_transaction(other, "job", wait="0s")
        assert (await other.execute(text("SELECT 1"))).scalar_one() == 1  # not over
        with pytest.raises(LockBusy):
            await lock_in_transaction(other, "job", wait="50ms")
        await other.rollback()
        with pytest.raises(LockBusy):
            await lock_in_transaction(other, "job", wait="0s", shared=True)
        await session.commit()
        await lock_in_transaction(other, "job", wait="0s")
    await becomes(engine, ADVISORY, 0)


def test_keys_are_spread_and_stable() -> None:
    assert lock_key("job") == lock_key("job") != lock_key("job", space="x")
    assert len({lock_key(str(n)) for n in range(10_000)}) == 10_000
    assert min(lock_key(str(n)) for n in range(100)) < 0 < max(lock_key(str(n)) for n in range(100))
    assert lock_key("a", space="b1:c") != lock_key("1:ca", space="b")


async def test_a_cluster_makes_the_connection_too(server: Postgres) -> None:
    async with create_async_cluster(server.url) as cluster, advisory_lock(cluster, "job") as held:
        await held.check()


# -- statement time-outs


async def test_the_deadline_is_the_server_s_without_a_round_trip(engine: AsyncEngine) -> None:
    statement_deadline(engine, longest="20s")
    simple: list[str] = []
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_query_logger(lambda record: simple.append(record.query))
        assert (await connection.execute(TIMEOUT)).scalar_one() == 20_000
        await connection.rollback()
        async with Deadline("5s"):
            assert 4000 < (await connection.execute(TIMEOUT)).scalar_one() <= 5000
            async with Deadline("1s"):
                assert (await connection.execute(TIMEOUT)).scalar_one() > 4000  # as it was when BEGIN was sent
                await apply_deadline(connection)
                assert 500 < (await connection.execute(TIMEOUT)).scalar_one() <= 1000
            await connection.commit()
        async with Deadline("1h"):
            assert (await connection.execute(TIMEOUT)).scalar_one() == 20_000
    begins = [query for query in simple if query.startswith("BEGIN")]
    assert begins[0] == begins[2] == "BEGIN;"
    assert begins[1].startswith("BEGIN;SET LOCAL statement_timeout = 49")
    assert [query for query in simple if query not in begins] == ["ROLLBACK;", "COMMIT;", "ROLLBACK;"]
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        assert (await connection.execute(TIMEOUT)).scalar_one() == 20_000


async def test_the_server_ends_what_the_client_does_not(engine: AsyncEngine) -> None:
    """A plain ``with Deadline`` stops nothing by itself: what ends the statement here is the server."""
    statement_deadline(engine, longest="300ms")
    async with engine.connect() as connection:
        with Deadline("100ms"), pytest.raises(DeadlineExceeded, match="the server ended the statement") as caught:
            await connection.execute(text("SELECT pg_sleep(20)"))
        assert "statement timeout" in str(caught.value.__cause__)
        await connection.rollback()
        with pytest.raises(DBAPIError, match="statement timeout"):
            await connection.execute(text("SELECT pg_sleep(20)"))
        await connection.rollback()
        with Deadline("1ms"):
            until = time.monotonic() + 0.002
            while time.monotonic() < until:
                pass
            with pytest.raises(DeadlineTooShort, match="before the transaction began"):
                await connection.execute(text("SELECT 1"))
            with pytest.raises(DeadlineTooShort):
                await apply_deadline(connection)
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_cluster_s_nodes_are_bounded(server: Postgres) -> None:
    async with create_async_cluster(server.url) as cluster:
        statement_deadline(cluster, longest="7s")
        async with cluster.connect(read_only=True) as connection:
            assert (await connection.execute(TIMEOUT)).scalar_one() == 7000
            assert (await connection.execute(text("SHOW default_transaction_read_only"))).scalar_one() == "on"
        async with Deadline("2s"), cluster.begin() as connection:
            assert 1000 < (await connection.execute(TIMEOUT)).scalar_one() <= 2000


def test_a_cluster_is_bounded_and_tagged_where_it_is_made(server: Postgres) -> None:
    """Without a loop, for several loops, and once however often it is said."""
    cluster = create_async_cluster(server.url)
    sent: list[str] = []

    async def look() -> tuple[int, str, str]:
        async with cluster.begin() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_query_logger(lambda record: sent.append(record.query))
            timeout = (await connection.execute(TIMEOUT)).scalar_one()
            query, name = (await connection.execute(SELF)).one()
        return timeout, query.removeprefix(str(SELF)), name

    async def lifespan() -> None:
        install("7s")
        await cluster.writer()
        with query_tags(route="/orders", trace="abc"):
            sent.clear()
            assert await look() == (7000, " /*route='%2Forders'*/", "trace=abc route=/orders")
            install("7s")  # in use by now, and nothing is to be done
            async with Deadline("5s"):
                timeout, commented, name = await look()
            assert 4000 < timeout <= 5000
            assert (commented, name) == (" /*route='%2Forders'*/", "trace=abc route=/orders")
            *_, begin = (query for query in sent if query.startswith("BEGIN;"))
            assert (begin.count("statement_timeout"), begin.count("application_name")) == (1, 1)
        with pytest.raises(MisuseError, match="expected an engine that was not used yet"):
            statement_deadline(cluster, longest="8s")
        await cluster.aclose()

    def install(longest: str) -> None:
        statement_deadline(cluster, longest=longest)
        QueryTags(cluster)

    statement_deadline(cluster, longest="1s")
    install("7s")
    for _ in range(2):
        asyncio.run(lifespan())


async def test_an_engine_is_told_once_and_told_anew(engine: AsyncEngine) -> None:
    first = QueryTags(engine, in_name=())
    statement_deadline(engine, longest=None)
    statement_deadline(engine, longest="3s")
    with query_tags(route="/a", trace="t"):
        async with engine.connect() as connection:
            assert (await connection.execute(TIMEOUT)).scalar_one() == 3000
            await connection.rollback()
            second = QueryTags(engine, in_text=("trace",))
            query, name = (await connection.execute(SELF)).one()
    assert (query.removeprefix(str(SELF)), name) == (" /*trace='t'*/", "trace=t route=/a")
    assert (repr(first), repr(second)) == (
        "<QueryTags texts=1/100 left_out=0 sampled=0>",
        "<QueryTags texts=1/100 left_out=0 sampled=0>",
    )


async def test_isolation_levels_and_savepoints_stay(engine: AsyncEngine) -> None:
    statement_deadline(engine)
    async with Deadline("5s"), engine.connect() as connection:
        await connection.execution_options(isolation_level="SERIALIZABLE", postgresql_readonly=True)
        assert (await connection.execute(text("SHOW transaction_isolation"))).scalar_one() == "serializable"
        assert (await connection.execute(text("SHOW transaction_read_only"))).scalar_one() == "on"
        async with connection.begin_nested():
            assert (await connection.execute(TIMEOUT)).scalar_one() <= 5000


def test_what_is_said() -> None:
    assert setting(None, 30_000) == setting(60.0, 30_000) == setting(None, None) == setting(1e9, None) == ""
    assert setting(1.5, 30_000) == "SET LOCAL statement_timeout = 1500"
    assert setting(0.0, None) == setting(0.0001, 5) == "SET LOCAL statement_timeout = 1"


async def test_an_engine_in_use_is_refused(engine: AsyncEngine) -> None:
    async with engine.connect():
        pass
    refused: list[Callable[[], Any]] = [
        lambda: statement_deadline(engine),
        lambda: QueryTags(engine),
        lambda: at_begin(engine.sync_engine, str),
    ]
    for call in refused:
        with pytest.raises(MisuseError, match="expected an engine that was not used yet"):
            call()


# -- tags

SELF = text("SELECT query, application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def prepared(connection: Any) -> int:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return int(await driver.fetchval("SELECT count(*) FROM pg_prepared_statements"))


async def test_tags_are_seen_and_the_caches_stay_warm(engine: AsyncEngine) -> None:
    tags = QueryTags(engine)
    statement_deadline(engine)
    async with engine.connect() as connection:
        assert (await connection.execute(SELF)).one().query == str(SELF)
        await connection.rollback()
        before = await prepared(connection)
        await connection.rollback()
        for number in range(50):
            with query_tags(route="/orders/{id}", trace=f"{number:032x}"):
                async with Deadline("5s"):
                    query, name = (await connection.execute(SELF)).one()
                    await connection.rollback()
            assert query == f"{SELF} /*route='%2Forders%2F%7Bid%7D'*/"
            assert name == f"trace={number:032x} route=/orders/{{id}}"
        assert await prepared(connection) - before <= 2  # the tagged text, and this question
        await connection.rollback()
        assert (await connection.execute(SELF)).one().application_name == ""
    assert (tags.left_out, tags.sampled) == (0, 0)
    assert repr(tags) == "<QueryTags texts=1/100 left_out=0 sampled=0>"


async def test_a_route_with_an_id_in_it_cannot_spoil_the_caches(engine: AsyncEngine) -> None:
    tags = QueryTags(engine, max_texts=5)
    async with engine.connect() as connection:
        for number in range(30):
            with query_tags(route=f"/orders/{number}"):
                query = (await connection.execute(SELF)).one().query
            await connection.rollback()  # within a transaction the view stays as it was first seen
            assert ("/*" in query) is (number < 5)
    assert tags.left_out == 25


async def test_a_sample_has_the_trace_in_its_text(engine: AsyncEngine) -> None:
    draws = iter([0.5, 0.05])
    tags = QueryTags(engine, sample="10%", random=lambda: next(draws))
    async with engine.connect() as connection:
        with query_tags(route="/"), query_tags(trace=TRACE):
            assert "trace" not in (await connection.execute(SELF)).one().query
            await connection.rollback()
            assert f"route='%2F',trace='{TRACE}'" in (await connection.execute(SELF)).one().query
    assert tags.sampled == 1


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1, max_size=3))
def test_nothing_ends_a_comment_early(tags: dict[str, str]) -> None:
    written = comment(list(tags.items()))
    assert written.startswith("/*")
    assert written.index("*/") == len(written) - 2
    assert "'" not in unquote(written[2:-2].split("=", 1)[0]) or "'" in "".join(tags)
    pairs = [one.split("=", 1) for one in written[2:-2].split(",")]
    assert {unquote(key): unquote(value[1:-1]) for key, value in pairs} == tags


HOSTILE = ["'; DROP TABLE x; --", "\\", "ü\0\n", "x" * 200, "''''", "%s $1 :x"]


async def test_hostile_values_stay_values(engine: AsyncEngine) -> None:
    QueryTags(engine, in_name=("route",))
    for value in HOSTILE:
        async with engine.connect() as connection:
            with query_tags(route=value):
                name = (await connection.execute(SELF)).one().application_name
        shown = "".join(one if " " <= one <= "~" and one != "\\" else "?" for one in f"route={value}")
        assert name == shown[:63]
    assert application_name([]) == comment([]) == ""
    with pytest.raises(MisuseError, match="expected text, got 7"), query_tags(route=7):  # type: ignore[arg-type]
        pass
