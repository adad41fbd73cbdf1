"""Transactions over real shards by two-phase commit: money is neither made nor lost, whoever is killed when."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tenfold
from tenfold._core.errors import MisuseError
from tenfold.db.shards import CoordinatorLost, InDoubt, ShardedCluster, TwoPhase, coordinator, member, twophase
from tenfold.db.shards.commit import Protocol
from tenfold.resilience import Deadline, DeadlineExceeded, remaining
from tenfold.servers import Postgres, Topology
from tenfold.testing import FaultProxy

OWN = Path(__file__).read_bytes()
NAMES = ("s0", "s1", "s2")
ACCOUNTS, MONEY = 24, 100


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    __shard_key__ = "customer"
    customer: Mapped[int] = mapped_column(primary_key=True)
    money: Mapped[int]
    moves: Mapped[int] = mapped_column(default=0)


@pytest.fixture(scope="module")
def servers(plain: Callable[[int], Topology]) -> Topology:
    return plain(3)


def make(servers: Topology) -> ShardedCluster:
    return ShardedCluster([shard.url for shard in servers.shards], models=[Base])


@pytest.fixture
async def cluster(servers: Topology) -> AsyncIterator[ShardedCluster]:
    async with make(servers) as cluster:
        for name in NAMES:
            async with cluster.async_engine(name).connect() as connection:  # what a test that failed left in doubt
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                for gid in (await connection.execute(text("SELECT gid FROM pg_prepared_xacts"))).scalars().all():
                    await connection.execute(text(f"ROLLBACK PREPARED '{gid}'"))
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Account, [{"customer": n, "money": MONEY, "moves": 0} for n in range(ACCOUNTS)])
        yield cluster


async def move(two: TwoPhase, giver: int, taker: int, amount: int = 1) -> None:
    async with two.transaction() as tx:
        for customer, change in sorted(((giver, -amount), (taker, amount))):  # in one order: no deadlock
            session = await tx.session(customer)
            await session.execute(
                update(Account)
                .where(Account.customer == customer)
                .values(money=Account.money + change, moves=Account.moves + 1)
            )


async def total(cluster: ShardedCluster) -> tuple[int, int]:
    row = (await cluster.execute(select(func.sum(Account.money), func.sum(Account.moves)))).one()
    return int(row[0]), int(row[1])


async def in_doubt(cluster: ShardedCluster) -> list[str]:
    found = []
    for name in NAMES:
        async with cluster.async_engine(name).connect() as connection:
            rows = await connection.execute(sa.text("SELECT gid FROM pg_prepared_xacts"))
            found += [f"{name} {row[0]}" for row in rows]
    return found


async def logged(cluster: ShardedCluster) -> int:
    async with cluster.async_engine("s0").connect() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM tenfold_decision"))).scalar_one())


def apart(cluster: ShardedCluster, nth: int = 0) -> tuple[int, int]:
    """Two customers on two shards that are not home; others for another ``nth``."""
    one, other = ([key for key in range(ACCOUNTS) if cluster.map.shard_of(key) == name] for name in ("s1", "s2"))
    return one[nth], other[nth]


async def test_all_or_nothing(cluster: ShardedCluster) -> None:
    one, other = apart(cluster)
    async with TwoPhase(cluster, age="0s") as two:
        await move(two, one, other, 30)
        assert await total(cluster) == (ACCOUNTS * MONEY, 2)
        assert (two.committed, two.aborted) == (1, 0)
        with pytest.raises(ValueError, match="no"):  # noqa: PT012
            async with two.transaction() as tx:
                (await tx.session(one)).add(Account(customer=one + 1000, money=1))
                await tx.session(other)
                raise ValueError("no")
        async with two.transaction() as tx:  # one shard: a plain commit
            account = await (await tx.session(one)).get_one(Account, one)
            account.moves += 1
            assert await tx.session(one) is await tx.session(one)
        async with two.transaction() as tx:
            first, second = await asyncio.gather(tx.session(one), tx.session(one))
            assert first is second
        assert (two.committed, await total(cluster)) == (1, (ACCOUNTS * MONEY, 3))
        async with two.transaction():
            pass
        with pytest.raises(MisuseError, match="ended by itself"):  # noqa: PT012
            async with two.transaction() as tx:
                for key in (one, other):
                    await (await tx.session(key)).execute(
                        update(Account).where(Account.customer == key).values(moves=0)
                    )
                await (await tx.session(other)).rollback()
        assert await in_doubt(cluster) == []
    assert await logged(cluster) == 0
    with pytest.raises(MisuseError, match="entered"):
        await move(two, one, other)


async def test_one_refusal_rolls_all_back(cluster: ShardedCluster) -> None:
    """A deferred constraint refuses at PREPARE, after the other shard has promised."""
    one, other = apart(cluster)
    async with cluster.async_engine("s2").begin() as connection:
        await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS wanted (id int PRIMARY KEY)"))
        await connection.execute(
            sa.text(
                "ALTER TABLE accounts ADD CONSTRAINT known FOREIGN KEY (moves) REFERENCES wanted "
                "DEFERRABLE INITIALLY DEFERRED NOT VALID"
            )
        )
    async with TwoPhase(cluster, age="0s") as two:
        with pytest.raises(Exception, match="violates foreign key"):
            await move(two, one, other)
        assert (two.committed, two.aborted) == (0, 1)
        assert await in_doubt(cluster) == []
        assert await total(cluster) == (ACCOUNTS * MONEY, 0)


async def test_a_server_without_prepared_transactions_is_refused_with_a_sentence() -> None:
    async with Postgres() as server, ShardedCluster([server.url], models=[Base]) as cluster:
        with pytest.raises(MisuseError, match="shard s0: expected max_prepared_transactions above 0, got 0: set it"):
            async with TwoPhase(cluster):
                pass


async def test_who_is_cancelled_in_the_middle_leaves_nothing_in_doubt(cluster: ShardedCluster) -> None:
    one, other = apart(cluster)
    async with TwoPhase(cluster, age="0s") as two:
        random = Random(3)
        for _ in range(40):
            task = asyncio.create_task(move(two, one, other))
            await asyncio.sleep(random.uniform(0, 0.02))
            task.cancel()
            await asyncio.wait([task])
        assert await in_doubt(cluster) == []
        assert await total(cluster) == (ACCOUNTS * MONEY, 2 * two.committed)

        async def alone() -> None:
            async with two.transaction() as tx:
                session = await tx.session(one)
                await session.execute(update(Account).where(Account.customer == one).values(moves=Account.moves + 2))
                task = asyncio.current_task()
                assert task is not None
                sa.event.listen(session.sync_session, "before_commit", lambda _: task.cancel())

        task = asyncio.create_task(alone())
        await asyncio.wait([task])
        assert task.cancelled()  # after the block had ended well, so it is committed
        assert await total(cluster) == (ACCOUNTS * MONEY, 2 * two.committed + 2)
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with Deadline("100ms"), cluster.async_engine("s2").begin() as connection:
                await connection.execute(sa.text("LOCK TABLE accounts"))
                await move(two, one, other)
        assert await total(cluster) == (ACCOUNTS * MONEY, 2 * two.committed + 2)


async def test_a_coordinator_that_was_taken_for_dead_decides_nothing(cluster: ShardedCluster) -> None:
    """Its lock was cut; another process ends it. Its next transaction is refused and rolled back, the one after that
    runs under a new number.
    """
    one, other = apart(cluster)
    async with TwoPhase(cluster, age="0s", every="1h") as two, TwoPhase(cluster, age="0s", every="1h") as peer:
        first = two._coordinator.id
        with pytest.raises(CoordinatorLost):  # noqa: PT012
            async with two.transaction() as tx:
                for key in (one, other):
                    await (await tx.session(key)).execute(
                        update(Account).where(Account.customer == key).values(moves=9)
                    )
                async with cluster.async_engine("s0").connect() as connection:
                    await connection.execute(
                        sa.text(
                            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' "
                            "AND objid = :id"
                        ),
                        {"id": first},
                    )
                await peer.recover()
        assert await in_doubt(cluster) == []
        await move(two, one, other)
        assert two._coordinator.id != first
        assert await total(cluster) == (ACCOUNTS * MONEY, 2)


async def test_a_living_coordinator_is_left_alone(cluster: ShardedCluster, servers: Topology) -> None:
    """Another process's recovery runs all the time while transfers go on, and rolls back none of them."""
    async with make(servers) as away, TwoPhase(cluster, age="0s") as two, TwoPhase(away, age="0s") as peer:
        stop = asyncio.Event()

        async def look() -> None:
            while not stop.is_set():
                await peer.recover()

        looking = asyncio.create_task(look())

        async def moves(seed: int) -> None:
            random = Random(seed)
            for _ in range(25):
                giver, taker = random.sample(range(ACCOUNTS), 2)
                await move(two, giver, taker)

        await asyncio.gather(*(moves(seed) for seed in range(4)))
        stop.set()
        await looking
        assert (peer.recovered_commits, peer.recovered_aborts, two.aborted, two.late) == (0, 0, 0, 0)
        assert await total(cluster) == (ACCOUNTS * MONEY, 200)


CHILD = """
import asyncio, json, os, signal, sys
from random import Random
import tests_of_twophase as t
from tenfold.db.shards import ShardedCluster, TwoPhase, decisions
from tenfold.db.shards.commit import Protocol

urls, seed, point = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if point == "prepared one":
    async def prepare(self, drivers):
        gid, driver = drivers[0]
        await driver.execute(f"PREPARE TRANSACTION '{gid}'")
        die()
    Protocol._prepare = prepare
elif point == "prepared":
    async def decide(self, coordinator, number, at_home):
        die()
    Protocol._decide = decide
elif point == "decided":
    async def tell(self, drivers, verdict):
        assert verdict == "commit"
        die()
    Protocol._tell = tell
elif point == "told one":
    async def tell(self, drivers, verdict):
        gid, driver = drivers[0]
        await decisions.resolve(driver, gid, verdict)
        die()
    Protocol._tell = tell

async def main():
    random = Random(seed)
    age = "0s" if point == "random" else "1h"  # one that begins late must not end what the test counts
    async with ShardedCluster(urls, models=[t.Base]) as cluster, TwoPhase(cluster, age=age, every="300ms") as two:
        async def moves():
            while True:
                try:
                    giver, taker = random.sample(range(t.ACCOUNTS), 2) if point == "random" else t.apart(cluster, seed)
                    await t.move(two, giver, taker)
                    print("moved", flush=True)
                except Exception:
                    if point != "random":
                        raise
                    await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.gather(*(moves() for _ in range(4 if point == "random" else 1)))

asyncio.run(main())
"""


class Children:
    """Coordinators in processes of their own."""

    def __init__(self, folder: Path, servers: Topology) -> None:
        (folder / "tests_of_twophase.py").write_bytes(OWN)
        (folder / "child.py").write_text(CHILD, encoding="utf-8")
        self._folder = folder
        self._urls = json.dumps([shard.url for shard in servers.shards])
        self._all: list[asyncio.subprocess.Process] = []

    async def spawn(self, seed: int, point: str) -> asyncio.subprocess.Process:
        path = f"{Path(tenfold.__file__).parents[1]}{os.pathsep}{self._folder}"
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(self._folder / "child.py"), self._urls, str(seed), point,
            env={**os.environ, "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._all.append(child)
        return child

    async def end(self) -> None:
        for child in self._all:
            if child.returncode is None:
                child.kill()
                await child.wait()


@pytest.fixture
async def children(tmp_path: Path, servers: Topology) -> AsyncIterator[Children]:
    made = Children(tmp_path, servers)
    yield made
    await made.end()


async def settled(two: TwoPhase) -> None:
    """Until nothing is in doubt and all who are dead are buried."""
    async with asyncio.timeout(30):
        while not (await two.recover()).complete:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await two.recover()
        await two.recover()


async def test_coordinators_killed_at_each_step(cluster: ShardedCluster, children: Children) -> None:
    """What was decided is committed, the rest rolled back; parts younger than ``age`` are left until they are older."""
    points = ("prepared one", "prepared", "decided", "told one")
    dying = [await children.spawn(seed, point) for seed, point in enumerate(points)]
    assert [await child.wait() for child in dying] == [-signal.SIGKILL] * 4
    assert len(await in_doubt(cluster)) == 1 + 2 + 2 + 1
    async with TwoPhase(cluster, age="1h", every="1h") as patient:
        assert (await patient.recover()).left == 6
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        await settled(two)
        assert (two.recovered_commits, two.recovered_aborts) == (3, 3)
    assert await in_doubt(cluster) == []
    assert await logged(cluster) == 0
    for seed, point in enumerate(points):
        one, other = apart(cluster, seed)
        moved = await cluster.execute(select(Account.money).where(Account.customer.in_([one, other])))
        assert sorted(moved.scalars()) == ([MONEY - 1, MONEY + 1] if point in ("decided", "told one") else [MONEY] * 2)


async def test_a_shard_that_dies_after_its_promise_keeps_it(
    cluster: ShardedCluster, servers: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = apart(cluster)
    down = servers.shards[2]
    decide = Protocol._decide

    async def decide_while_it_is_down(self: Protocol, *arguments: Any) -> None:
        await down.kill()
        await decide(self, *arguments)

    async with TwoPhase(cluster, age="0s", every="1h") as two:
        monkeypatch.setattr(Protocol, "_decide", decide_while_it_is_down)
        await move(two, one, other)
        monkeypatch.undo()
        assert (two.committed, two.late) == (1, 1)
        assert "s2" in (await two.recover()).silent
        await down.start()
        await settled(two)
        assert await total(cluster) == (ACCOUNTS * MONEY, 2)
        assert await in_doubt(cluster) == []


async def test_a_decision_whose_answer_is_lost(cluster: ShardedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written again; and where the home shard stays silent, the caller is told that nobody knows."""
    from tenfold.db.shards import decisions

    one, other = apart(cluster)
    decide = decisions.decide
    answers = iter([False, True, False])
    stay_lost, on_its_way = False, (0, 0)

    async def lost(connection: Any, *arguments: Any) -> bool:
        nonlocal on_its_way
        assert remaining() is None  # the caller's deadline is over when the commit begins
        if stay_lost:
            on_its_way = arguments[:2]
            raise ConnectionResetError("cut")
        found = await decide(connection, *arguments)
        if not next(answers):
            raise ConnectionResetError("the answer was lost")
        return found

    async with TwoPhase(cluster, age="0s", every="1h", timeout="500ms") as two:
        monkeypatch.setattr(decisions, "decide", lost)
        async with Deadline("10s"):
            await move(two, one, other)
        assert two.committed == 1
        stay_lost = True
        with pytest.raises(InDoubt):
            await move(two, one, other)
        assert len(await in_doubt(cluster)) == 2
        monkeypatch.undo()
        await settled(two)
        assert await total(cluster) == (ACCOUNTS * MONEY, 2)  # the second was never written, so it is rolled back
        assert await in_doubt(cluster) == []
        async with cluster.member("s0").alone() as connection:  # and one that arrives only now decides nothing
            assert not await decide(connection, *on_its_way, [])
        await move(two, one, other)
        assert await total(cluster) == (ACCOUNTS * MONEY, 4)


async def test_those_who_hold_every_connection_of_the_home_decide(servers: Topology, cluster: ShardedCluster) -> None:
    """Each needs one for its decision, and if it asked the pool for one more, all would wait for one another."""
    urls = [shard.url for shard in servers.shards]
    there = [key for key in range(ACCOUNTS) if cluster.map.shard_of(key) == "s0"][:2]
    async with (
        ShardedCluster(urls, models=[Base], pool_size=3) as small,
        TwoPhase(small, age="0s", every="1h", timeout="3s") as two,
    ):
        await two.recover()
        all_are_here = asyncio.Barrier(2)

        async def pay(key: int, taker: int) -> None:
            async with two.transaction() as tx:
                for customer in (key, taker):
                    await (await tx.session(customer)).execute(
                        update(Account).where(Account.customer == customer).values(moves=1)
                    )
                await all_are_here.wait()

        await asyncio.gather(*(pay(key, taker) for key, taker in zip(there, apart(cluster), strict=True)))
        assert (two.committed, two.aborted, two.late) == (2, 0, 0)
    assert await total(cluster) == (ACCOUNTS * MONEY, 4)


async def test_a_home_without_a_free_connection_is_told_as_that(servers: Topology, cluster: ShardedCluster) -> None:
    """Nothing was decided, so all is rolled back."""
    urls = [shard.url for shard in servers.shards]
    async with (
        ShardedCluster(urls, models=[Base], pool_size=2) as small,
        TwoPhase(small, age="0s", every="1h", timeout="300ms") as two,
    ):
        await two.recover()
        async with small.member("s0").alone():
            with pytest.raises(TimeoutError):
                await move(two, *apart(cluster))
        assert (two.committed, two.aborted) == (0, 1)
    assert await in_doubt(cluster) == []
    assert await total(cluster) == (ACCOUNTS * MONEY, 0)


async def test_a_session_that_cannot_see_the_log_is_decided_by_another(cluster: ShardedCluster) -> None:
    here = next(key for key in range(ACCOUNTS) if cluster.map.shard_of(key) == "s0")
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        async with two.transaction() as tx:
            for key in (here, apart(cluster)[0]):
                session = await tx.session(key)
                await session.execute(update(Account).where(Account.customer == key).values(moves=1))
            await (await tx.session(here)).execute(text("SET search_path = nowhere"))
        assert (two.committed, two.aborted, two.late) == (1, 0, 0)
    assert await in_doubt(cluster) == []


async def test_decisions_of_transactions_at_once_are_forgotten(cluster: ShardedCluster) -> None:
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        for _ in range(4):
            await asyncio.gather(*(move(two, *apart(cluster, nth)) for nth in range(4)))
        assert two.committed == 16
    assert await logged(cluster) == 0


async def test_a_home_that_does_not_answer_is_waited_for_no_longer_than_said(
    cluster: ShardedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = apart(cluster)
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        await two.recover()
        async with cluster.async_engine("s0").begin() as connection:
            await connection.execute(text("LOCK TABLE tenfold_coordinator IN ACCESS EXCLUSIVE MODE"))
            two._coordinator.give_up()
            monkeypatch.setattr(coordinator, "_WITHIN", 0.2)
            with pytest.raises(DeadlineExceeded):
                await move(two, one, other)
            monkeypatch.setattr(twophase, "_ENTERING", 0.2)
            with pytest.raises(DeadlineExceeded):
                await TwoPhase(cluster).__aenter__()
        monkeypatch.undo()
        await move(two, one, other)
        assert await total(cluster) == (ACCOUNTS * MONEY, 2)


@pytest.mark.slow
async def test_a_shard_that_says_nothing_does_not_hold_up_the_recovery_of_others(
    servers: Topology, cluster: ShardedCluster
) -> None:
    urls = [shard.url for shard in servers.shards]
    async with FaultProxy(f"127.0.0.1:{servers.shards[1].port}") as proxy:
        urls[1] = urls[1].replace(f":{servers.shards[1].port}/", f":{proxy.port}/")
        async with (
            ShardedCluster(urls, models=[Base]) as away,
            TwoPhase(away, age="0s", every="1h", timeout="2s") as two,
        ):
            await two.recover()
            for part, name in enumerate(("s1", "s2")):  # somebody's who is dead, and has decided nothing
                async with cluster.async_engine(name).connect() as connection:
                    await connection.execute(update(Account).values(moves=9))
                    await connection.exec_driver_sql(f"PREPARE TRANSACTION 'tenfold:999:1:{part}:00000000'")
            async with AsyncExitStack() as stack:
                for _ in range(5):  # connections that lead to nobody in a moment: no pass may be lost to each of them
                    await stack.enter_async_context(away.member("s1").alone(writes=False))
            proxy.freeze()
            passes = 0
            while not two.recovered_aborts and (passes := passes + 1) < 5:
                with suppress(TimeoutError):  # of a pass that a busy machine has held up
                    assert "s1" in (await two.recover()).silent
            assert two.recovered_aborts == 1
            assert [one.split()[0] for one in await in_doubt(cluster)] == ["s1"]
            proxy.heal()
            await settled(two)
    assert await in_doubt(cluster) == []


async def test_a_shard_that_says_nothing_keeps_no_process_from_ending(
    servers: Topology, cluster: ShardedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [shard.url for shard in servers.shards]
    async with FaultProxy(f"127.0.0.1:{servers.shards[1].port}") as proxy:
        urls[1] = urls[1].replace(f":{servers.shards[1].port}/", f":{proxy.port}/")
        away = await ShardedCluster(urls, models=[Base]).__aenter__()
        monkeypatch.setattr(member, "_RELEASE", 0.2)
        proxy.freeze()
        closing = asyncio.create_task(away.aclose())
        done, _ = await asyncio.wait([closing], timeout=20)
        proxy.heal()
        await closing
    assert done


async def test_who_does_not_know_a_shard_forgets_no_decision_for_it(servers: Topology, cluster: ShardedCluster) -> None:
    """A process that was started before the shard came may recover for others, and cannot ask that shard."""
    urls = [shard.url for shard in servers.shards]
    buckets = [bucket for bucket, name in enumerate(cluster.map.shards) if name == "s2"]
    await cluster.install(cluster.map.moved(buckets, "s1"))
    async with ShardedCluster(urls[:2], models=[Base]) as older:
        await cluster.install(cluster.map.moved(buckets, "s2"))
        async with TwoPhase(older, age="0s", every="1h") as unknowing:
            async with cluster.async_engine("s0").begin() as connection:
                await connection.execute(text("INSERT INTO tenfold_coordinator (id, ended) VALUES (777, true)"))
                await connection.execute(text("INSERT INTO tenfold_decision (coordinator, number) VALUES (777, 1)"))
            async with cluster.async_engine("s2").connect() as connection:
                await connection.execute(update(Account).values(moves=1))
                await connection.exec_driver_sql("PREPARE TRANSACTION 'tenfold:777:1:0:00000000'")
            for _ in range(2):
                assert (await unknowing.recover()).silent == ("s2",)
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        await settled(two)
        assert (two.recovered_commits, two.recovered_aborts) == (1, 0)
    assert await logged(cluster) == 0


async def storm(
    cluster: ShardedCluster, servers: Topology, children: Children, rounds: int, seed: int, until: Callable[[int], bool]
) -> None:
    """Coordinators are SIGKILLed at random moments, and so are shards, the home among them."""
    random, moved = Random(seed), 0
    for number in range(rounds):
        child = await children.spawn(seed * 1000 + number, "random")
        assert child.stdout is not None
        async with asyncio.timeout(60):
            await child.stdout.readline()
            for _ in range(random.randint(1, 12)):
                moved += await child.stdout.readline() == b"moved\n"
        await asyncio.sleep(random.uniform(0, 0.03))
        if until(number):
            server = random.choice(servers.shards)
            await server.kill()
            await asyncio.sleep(random.uniform(0, 0.1))
            await server.start()
        child.kill()
        await child.wait()
    async with TwoPhase(cluster, age="0s", every="1h") as two:
        await settled(two)
    assert await in_doubt(cluster) == []
    assert await logged(cluster) == 0
    money, moves = await total(cluster)
    assert money == ACCOUNTS * MONEY
    assert moves % 2 == 0
    assert moves >= 2 * moved  # what was acknowledged was done


async def test_kills_of_coordinators_and_shards(cluster: ShardedCluster, servers: Topology, children: Children) -> None:
    await storm(cluster, servers, children, 2, 1, lambda number: number == 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
async def test_many_kills_of_coordinators_and_shards(
    cluster: ShardedCluster, servers: Topology, children: Children, seed: int
) -> None:
    await storm(cluster, servers, children, 12, seed, lambda number: number % 3 == 2)
