"""What the functions that ask a server say, at the places of the log where a naive position is wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from bench._db_causality import causal_reads, prepare
from tenfold._core.errors import MisuseError
from tenfold.db.causal_read import CausalOptions, CausalReads
from tenfold.db.causality import causality
from tenfold.db.position import LONG_HEADER, PAGE, SEGMENT, SHORT_HEADER, Position
from tenfold.db.replayed import Reach, Replayed, reach
from tenfold.db.token import UNKNOWN, Token
from tenfold.db.wal import identify, insert_position, read_history, replayed_position
from tenfold.resilience import Deadline
from tenfold.servers import Topology

RAW = "SELECT pg_current_wal_insert_lsn()"
EMIT = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', $1), true)"


class Connections:
    """One to the primary and one to the first replica, with their ``info``."""

    def __init__(self, primary: Any, replica: Any) -> None:
        self.primary, self.replica = primary, replica
        self.of_primary: dict[str, Any] = {}
        self.of_replica: dict[str, Any] = {}

    async def reach(self, wanted: Position, replayed: Replayed | None = None, within: float = 5.0) -> Reach:
        return await reach(self.replica, self.of_replica, wanted, replayed or Replayed(), within=within)


@pytest.fixture
async def open_ones(items: Topology) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        found = []
        for server in (items.primary, items.replicas[0]):
            connection = await asyncpg.connect(server.url)
            stack.push_async_callback(connection.close)
            found.append(connection)
        yield Connections(*found)


async def fill_page(connection: Any) -> int:
    """Write a record that ends exactly where a page ends; the position that the server then gives is the next page's
    start and a header. The record's overhead is measured, and somebody else may write in between: so try again.
    """
    overhead = 0
    for _ in range(100):
        before = await connection.fetchval(RAW)
        left = PAGE - before % PAGE
        size = left - overhead
        if overhead and size > 400:
            await connection.fetchval(EMIT, size)
            after = await connection.fetchval(RAW)
            if after % PAGE == SHORT_HEADER and after % SEGMENT > PAGE:
                return int(after)
            overhead += after % PAGE - SHORT_HEADER if after // PAGE > before // PAGE else -(PAGE - after % PAGE)
            continue
        await connection.fetchval(EMIT, 800)
        after = await connection.fetchval(RAW)
        if after // PAGE == before // PAGE:
            overhead = after - before - 800
    raise AssertionError("no record ended at the end of a page")


async def test_at_the_edge_of_a_page_the_raw_position_is_not_reached_and_ours_is(open_ones: Connections) -> None:
    for _ in range(5):
        raw = await fill_page(open_ones.primary)
        token = await insert_position(open_ones.primary, open_ones.of_primary)
        if token.lsn == raw - SHORT_HEADER:
            assert token.lsn % PAGE == 0
            assert await open_ones.reach(token) is Reach.THERE
            if await open_ones.primary.fetchval(RAW) == raw:  # nobody has written since
                # The control: the number as the server gives it is not reached, though all is replayed.
                naive = Position(token.system, token.timeline, raw)
                assert await open_ones.reach(naive, within=0.3) is Reach.BEHIND
                return
    raise AssertionError("somebody wrote each time")


async def test_at_the_begin_of_a_segment(open_ones: Connections) -> None:
    for _ in range(5):
        await open_ones.primary.execute("CREATE TABLE IF NOT EXISTS filler (n int); INSERT INTO filler VALUES (1)")
        await open_ones.primary.fetchval("SELECT pg_switch_wal()")
        raw = await open_ones.primary.fetchval(RAW)
        token = await insert_position(open_ones.primary, open_ones.of_primary)
        if raw % SEGMENT == LONG_HEADER and token.lsn == raw - LONG_HEADER:
            assert await open_ones.reach(token) is Reach.THERE
            return
    raise AssertionError("somebody wrote each time")


async def test_a_read_after_each_edge_is_fresh(open_ones: Connections) -> None:
    """Commits whose records cross pages at every offset."""
    await open_ones.primary.execute("CREATE TABLE IF NOT EXISTS edges (n int)")
    replayed = Replayed()
    for number in range(150):
        await open_ones.primary.execute(f"INSERT INTO edges VALUES ({number})")
        await open_ones.primary.fetchval(EMIT, 300 + 8 * (number % 40))
        token = await insert_position(open_ones.primary, open_ones.of_primary)
        assert (await open_ones.reach(token, replayed)).there
        assert await open_ones.replica.fetchval("SELECT max(n) FROM edges") == number


async def test_what_is_remembered_counts_on_connections_that_were_open_before(
    items: Topology, open_ones: Connections
) -> None:
    replayed = Replayed()
    token = await insert_position(open_ones.primary, open_ones.of_primary)
    assert await open_ones.reach(token, replayed) is Reach.THERE
    assert await open_ones.reach(token, replayed) is Reach.AT_ONCE
    asked = replayed.asked
    younger = await asyncpg.connect(items.replicas[0].url)
    try:
        info: dict[str, Any] = {}
        assert await reach(younger, info, token, replayed, within=1.0) is Reach.THERE
        assert replayed.asked == asked + 1
        assert await reach(younger, info, token, replayed, within=1.0) is Reach.AT_ONCE
    finally:
        await younger.close()


async def test_after_a_crash_nothing_is_remembered(items: Topology, open_ones: Connections) -> None:
    """A standby starts again from a restart point: it may show less than it did."""
    replica, replayed = items.replicas[0], Replayed()
    token = await insert_position(open_ones.primary, open_ones.of_primary)
    assert await open_ones.reach(token, replayed) is Reach.THERE
    await replica.kill()
    await replica.start()
    again = await asyncpg.connect(replica.url)
    try:
        info: dict[str, Any] = {}
        who = await identify(again, info)
        assert not replayed.covers(who, token)
        assert await reach(again, info, token, replayed, within=5.0) is Reach.THERE
    finally:
        await again.close()


async def test_verdicts(items: Topology, open_ones: Connections) -> None:
    here = await insert_position(open_ones.primary, open_ones.of_primary)
    far = Position(here.system, here.timeline, here.lsn + 10**9)
    began = time.monotonic()
    assert await open_ones.reach(far, within=0.05) is Reach.BEHIND
    assert 0.05 <= time.monotonic() - began < 20
    assert await open_ones.reach(Position(here.system + 1, here.timeline, 0)) is Reach.FOREIGN
    assert await open_ones.reach(Position(here.system, here.timeline + 1, 0)) is Reach.UNKNOWN
    assert await replayed_position(open_ones.primary, open_ones.of_primary) is None
    assert await reach(open_ones.primary, open_ones.of_primary, here, Replayed(), within=0.1) is Reach.UNKNOWN
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await insert_position(open_ones.replica, open_ones.of_replica)
    async with open_ones.replica.transaction():
        with pytest.raises(MisuseError, match="outside of a transaction"):
            await open_ones.reach(here)
    assert await read_history(open_ones.primary, open_ones.of_primary, 9) is None


async def test_a_server_that_does_not_know_wait_for_is_asked_instead(open_ones: Connections) -> None:
    """Tried once, refused by the real server, and the read goes on."""
    here = await insert_position(open_ones.primary, open_ones.of_primary)
    replayed = Replayed()
    assert open_ones.replica.get_server_version().major < 19  # else this test has to become another one
    replayed.wait_for = True
    far = Position(here.system, here.timeline, here.lsn + 10**9)
    assert await open_ones.reach(far, replayed, within=0.02) is Reach.BEHIND
    assert replayed.wait_for is False
    assert (await open_ones.reach(here, replayed)).there


async def test_a_user_without_rights_is_served_too(items: Topology, open_ones: Connections) -> None:
    """The receiver's timeline is hidden from it; the control file's is not. Histories are, so there it is unknown."""
    await open_ones.primary.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
    await open_ones.reach(await insert_position(open_ones.primary, open_ones.of_primary))
    urls = [server.url.replace("tenfold@", "plain@") for server in (items.primary, items.replicas[0])]
    primary, replica = await asyncpg.connect(urls[0]), await asyncpg.connect(urls[1])
    try:
        of_primary: dict[str, Any] = {}
        token = await insert_position(primary, of_primary)
        assert token.timeline == 1
        assert await reach(replica, {}, token, Replayed(), within=5.0) is Reach.THERE
        assert await read_history(primary, of_primary, 2) is None
    finally:
        await primary.close()
        await replica.close()


async def write_and_read(reads: CausalReads, version: int) -> int:
    with causality():
        async with reads.begin() as connection:
            await connection.exec_driver_sql("UPDATE pairs SET version = $1 WHERE id = 1", (version,))
        async with reads.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT version FROM pairs WHERE id = 1")
            return int(rows.scalar_one())


async def test_a_frozen_replica_is_passed_over_under_the_deadline(items: Topology) -> None:
    await prepare(items)
    async with causal_reads(items.primary, items.replicas, seed=1, options=CausalOptions(answer="100ms")) as reads:
        for _ in range(6):  # connections to both
            await write_and_read(reads, 1)
        await items.replicas[0].pause()
        try:
            async with Deadline("60s"):
                for version in range(2, 12):  # at each, neither is known to be there
                    began = time.monotonic()
                    assert await write_and_read(reads, version) == version
                    assert time.monotonic() - began < 6  # and not the deadline's 60 s
        finally:
            await items.replicas[0].resume()
        assert reads.counters.failed >= 1


async def test_unknown_tokens_read_from_the_primary_and_foreign_ones_want_nothing(items: Topology) -> None:
    await prepare(items)
    async with causal_reads(items.primary, items.replicas, seed=2) as reads:
        here = await reads.capture()
        tokens = (
            UNKNOWN,
            Token(unknown=[here.system]),
            Token(Position(here.system, 5, 0)),
        )
        for number, token in enumerate(tokens, 1):
            with causality(token):
                async with reads.connect() as connection:
                    port = (await connection.exec_driver_sql("SELECT inet_server_port()")).scalar_one()
            assert port == items.primary.port
            assert reads.counters.primary == number
        assert (reads.counters.foreign, reads.counters.unknown) == (0, 2)
        with causality(Token(Position(here.system ^ 1, 1, 2**60))):
            async with reads.connect() as connection:
                port = (await connection.exec_driver_sql("SELECT inet_server_port()")).scalar_one()
        assert port != items.primary.port
        assert (reads.counters.free, reads.counters.foreign) == (1, 0)
