"""Tokens across a promotion: what the new timeline contains is read on replicas, what it lost goes to the primary."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from bench._db_causality import causal_reads, pairs, prepare
from tenfold.db.causal_read import CausalOptions, CausalReads
from tenfold.db.causality import Causality, causality
from tenfold.db.token import Token
from tenfold.servers import Postgres, Topology

RECEIVING = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
RECEIVED = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
PATIENT = CausalOptions(wait="5s", answer="5s")


@pytest.fixture
async def topology(topology: Topology) -> Topology:
    await topology.revive()
    await prepare(topology)
    return topology


def reads_on(primary: Postgres, replicas: list[Postgres]) -> AbstractAsyncContextManager[CausalReads]:
    return causal_reads(primary, replicas, seed=5, options=PATIENT)


async def write(reads: CausalReads, version: int, token: Token | None = None) -> tuple[Token | None, Causality]:
    """One request that writes; the token that its client has afterwards."""
    with causality(token) as scope:
        async with reads.begin() as connection:
            await connection.exec_driver_sql("UPDATE pairs SET version = $1 WHERE id = 1", (version,))
        return await scope.outgoing(), scope


async def read(reads: CausalReads, token: Token | None) -> tuple[int, int]:
    """The version and the port of who said it."""
    with causality(token):
        async with reads.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT version, inet_server_port() FROM pairs WHERE id = 1")
            version, port = rows.one()
    return version, port


async def test_a_planned_promotion_keeps_every_token(topology: Topology) -> None:
    former, (chosen, other) = topology.primary, topology.replicas
    async with reads_on(former, [chosen, other]) as before:
        old, _ = await write(before, 1)
        async with reads_on(other, []) as _:
            assert (await read(before, old))[0] == 1
    assert old is not None
    (was,) = old.positions
    await topology.promote(chosen)
    async with reads_on(chosen, [other]) as after:
        new, scope = await write(after, 2, old)
        assert new is not None
        (at,) = new.positions
        assert at.timeline == was.timeline + 1
        assert (at.lsn > was.lsn, scope.superseded) == (True, 0)  # the history file says so
        assert await read(after, new) == (2, other.port)
        assert await read(after, old) == (2, other.port)
        assert after.counters.primary == 0, after
    await topology.rejoin(former)
    async with reads_on(chosen, [former]) as back:
        new, _ = await write(back, 3, new)
        assert await read(back, new) == (3, former.port)


async def alter(server: Postgres, what: str) -> None:
    await server.fetchval(f"ALTER SYSTEM {what}")
    await server.fetchval("SELECT pg_reload_conf()")


async def cut_off(replica: Postgres) -> None:
    """Let a replica look for its primary where nobody is."""
    await alter(replica, "SET primary_conninfo = 'host=127.0.0.1 port=1'")
    async with asyncio.timeout(30):
        while await replica.fetchval(RECEIVING):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_write_that_the_failover_lost_is_never_taken_for_seen(topology: Topology) -> None:
    """Two replicas that are cut off miss a commit, the primary dies, one of them writes on over the same numbers."""
    former = topology.primary
    async with reads_on(former, []) as before:
        for replica in topology.replicas:
            await cut_off(replica)
        lost, _ = await write(before, 1)
        await former.kill()
        for replica in topology.replicas:
            await alter(replica, "RESET primary_conninfo")
    # The second to be cut off may have got a record more, such as the primary writes by itself. It could not follow one
    # that has less: the new timeline would begin before the place where it stands.
    received = [int(await replica.fetchval(RECEIVED)) for replica in topology.replicas]
    chosen, other = topology.replicas if received[0] >= received[1] else reversed(topology.replicas)
    assert lost is not None
    (gone,) = lost.positions
    await topology.promote(chosen)
    assert await chosen.fetchval("SELECT version FROM pairs WHERE id = 1") == 0  # lost it is
    async with reads_on(chosen, [other]) as after:
        new: Token | None = None
        while new is None or not new.positions or new.positions[0].lsn <= gone.lsn:
            new, _ = await write(after, 2, new)
        assert await read(after, new) == (2, other.port)
        # By number the replica is past the lost commit; it must not say that it shows it.
        assert (await read(after, lost))[1] == chosen.port
        assert after.counters.unknown >= 1
        # The client that lost its write reads from the primary in that request, and is free in the next.
        healed, scope = await write(after, 3, lost)
        assert (scope.wanted(), scope.superseded) == (Token(unknown=[gone.system]), 1)
        assert await read(after, healed) == (3, other.port)


async def test_a_commit_on_the_old_primary_does_not_hide_behind_the_new_timeline(topology: Topology) -> None:
    """Split brain: a client that has seen timeline 2 writes to a primary of timeline 1 that came back."""
    former, (chosen, other) = topology.primary, topology.replicas
    await former.kill()
    await topology.promote(chosen)
    async with reads_on(chosen, [other]) as after:
        new, _ = await write(after, 1)
    await former.start()
    async with reads_on(former, [other]) as wrong:
        token, _ = await write(wrong, 2, new)
        assert new is not None
        assert token == Token(unknown=[new.positions[0].system])
        # A token of the old timeline's continuation is not fulfilled by a replica of the new one.
        stray, _ = await write(wrong, 3)
        assert (await read(wrong, stray))[1] == former.port


async def test_pairs_go_on_after_a_promotion_in_the_middle(topology: Topology) -> None:
    chosen, other = topology.replicas
    async with reads_on(topology.primary, [chosen, other]) as before:
        first = await pairs(before, 160)
    await topology.promote(chosen)
    async with reads_on(chosen, [other]) as after:
        second = await pairs(after, 160)
    assert (first.stale, second.stale) == (0, 0)
    assert after.counters.at_once + after.counters.there == 160, after
