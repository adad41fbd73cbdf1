"""Messages between real shards: once in effect, in order for each key, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tenfold
from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.db.shards import (
    CannotAnswer,
    Dispatcher,
    Message,
    MessageDied,
    Outbox,
    OutboxOptions,
    ShardedCluster,
    ShardMap,
    StaleMap,
)
from tenfold.db.shards.dispatch import FIND
from tenfold.servers import Topology

QUICK = OutboxOptions(poll="50ms", base="5ms", cap="50ms", tries=4)
PATIENT = OutboxOptions(poll="50ms", base="5ms", cap="50ms", tries=1000)
"""Where dispatchers are killed again and again, each time with some innocent message in hand."""
FRAGILE = OutboxOptions(poll="50ms", base="5ms", cap="50ms", tries=2)
OWN = Path(__file__).read_bytes()
NAMES = ("s0", "s1", "s2")


class Base(DeclarativeBase):
    pass


class Source(Base):
    __tablename__ = "sources"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]


class Seen(Base):
    """One row for each effect, in the order in which they came: two of one message would be two rows."""

    __tablename__ = "effects"
    __shard_key__ = "customer"
    place: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    customer: Mapped[int]
    number: Mapped[int]


@pytest.fixture(scope="module")
def servers(plain: Callable[[int], Topology]) -> Topology:
    return plain(3)


def make(servers: Topology) -> ShardedCluster:
    return ShardedCluster([shard.url for shard in servers.shards], models=[Base])


@pytest.fixture
async def cluster(servers: Topology) -> AsyncIterator[ShardedCluster]:
    async with make(servers) as cluster:
        await Outbox(cluster).create_tables()
        for name in NAMES:
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
                await connection.execute(sa.text("TRUNCATE tenfold_outbox, tenfold_inbox"))
        yield cluster


async def note(session: AsyncSession, message: Message) -> None:
    session.add(Seen(customer=message.key, number=message.body["number"]))


async def write(cluster: ShardedCluster, outbox: Outbox, number: int, source: int, target: int) -> None:
    async with cluster.session() as session:
        session.add(Source(id=number, customer=source))
        await outbox.send(session, "note", key=target, body={"number": number})
        await session.commit()


async def effects(cluster: ShardedCluster) -> dict[int, list[int]]:
    rows = await cluster.execute(select(Seen.customer, Seen.number, Seen.place).order_by(Seen.place))
    found: dict[int, list[int]] = {}
    for customer, number, _ in rows:
        found.setdefault(customer, []).append(number)
    return found


async def until(condition: Callable[[], Awaitable[object]], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def drained(outbox: Outbox) -> bool:
    return all(waiting.count == 0 for waiting in (await outbox.waiting()).values())


async def test_a_message_goes_with_the_transaction_that_wrote_it(cluster: ShardedCluster) -> None:
    outbox = Outbox(cluster)
    async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:
        await write(cluster, outbox, 1, source=1, target=2)
        async with cluster.session() as session:
            session.add(Source(id=2, customer=1))
            await outbox.send(session, "note", key=2, body={"number": 2})
            await session.rollback()
        await write(cluster, outbox, 3, source=1, target=2)
        await until(lambda: drained(outbox))
        assert await effects(cluster) == {2: [1, 3]}
        assert dispatcher.counters.delivered == 2
        assert dispatcher.leads == set(NAMES)
    async with cluster.session() as session:
        with pytest.raises(CannotAnswer, match="no shard yet"):
            await outbox.send(session, "note", key=2, body=1)
        with pytest.raises(MisuseError, match="JSON"):
            await outbox.send(session, "note", key=2, body=object())


async def test_a_commit_wakes_the_dispatcher(cluster: ShardedCluster) -> None:
    """With a poll of an hour, nothing else could; and without the notification a poll finds it."""
    outbox = Outbox(cluster)
    async with Dispatcher(cluster, {"note": note}, options=OutboxOptions(poll="1h")) as dispatcher:

        async def leads() -> bool:
            return dispatcher.counters.lag.keys() == set(NAMES)

        await until(leads)
        await write(cluster, outbox, 1, source=1, target=2)
        await until(lambda: drained(outbox))
    quiet = Outbox(cluster, notify=False)
    async with Dispatcher(cluster, {"note": note}, options=QUICK):
        await write(cluster, quiet, 2, source=1, target=2)
        await until(lambda: drained(quiet))
    assert await effects(cluster) == {2: [1, 2]}


async def test_order_is_kept_while_a_message_fails_and_dead_letters_step_aside(cluster: ShardedCluster) -> None:
    outbox, hub = Outbox(cluster), Hub()
    died: list[MessageDied] = []
    hub.subscribe(MessageDied, died.append)
    tried: list[int] = []

    async def fussy(session: AsyncSession, message: Message) -> None:
        number = message.body["number"]
        if message.key == 2:
            tried.append(number)
        session.add(Seen(customer=message.key, number=number))
        await session.flush()
        if number == 2 or (number == 4 and tried.count(4) < 3):
            raise ValueError("not this one")

    for number in range(1, 6):
        await write(cluster, outbox, number, source=1, target=2)
    await write(cluster, outbox, 6, source=1, target=5)
    async with Dispatcher(cluster, {"note": fussy}, options=QUICK, hub=hub) as dispatcher:
        await until(lambda: drained(outbox))
        assert await effects(cluster) == {2: [1, 3, 4, 5], 5: [6]}
        assert [number for number in tried if number != 2] == [1, 3, 4, 4, 4, 5]
        assert tried.count(2) == QUICK.tries
        home = cluster.map.shard_of(1)
        assert [(event.shard, event.topic) for event in died] == [(home, "note")]
        (letter,) = await outbox.dead(home)
        assert (letter.body, letter.tries, letter.error) == ({"number": 2}, 4, "ValueError: not this one")
        assert (await outbox.waiting())[home].dead == dispatcher.counters.dead == 1
    async with Dispatcher(cluster, {"note": note}, options=QUICK):
        assert await outbox.revive(home, letter.id)
        await until(lambda: drained(outbox))
    assert await effects(cluster) == {2: [1, 3, 4, 5, 2], 5: [6]}
    assert not await outbox.revive(home, letter.id)


async def test_what_falls_due_during_the_search_lets_nobody_pass(cluster: ShardedCluster) -> None:
    """A search over thousands of rows takes milliseconds, in which the first message of a key becomes due."""
    home = cluster.map.shard_of(1)
    async with cluster.async_engine(home).connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(
            sa.text(
                "INSERT INTO tenfold_outbox (topic, key, body, due) SELECT 'note', CASE WHEN n IN (1, 5000) THEN 'i0' "
                "ELSE 'i' || n END, '1', CASE WHEN n = 5000 THEN '-infinity' ELSE 'infinity' END::timestamptz "
                "FROM generate_series(1, 5000) n"
            )
        )
        first, last = (await connection.execute(sa.text("SELECT min(id), max(id) FROM tenfold_outbox"))).one()
        soon = sa.text("UPDATE tenfold_outbox SET due = clock_timestamp() + make_interval(secs => :s) WHERE id = :id")
        found = []
        for number in range(100):
            await connection.execute(soon, {"s": number / 20_000, "id": first})
            found.append([row.id for row in await connection.execute(FIND, {"most": 10})])
    assert {tuple(each) for each in found} <= {(), (first, last)}, found


async def test_a_suspect_does_not_pass_an_earlier_message_of_its_key(cluster: ShardedCluster) -> None:
    """As when a receiver was down for the first of two suspects, which is none any more then."""
    outbox, home = Outbox(cluster), cluster.map.shard_of(1)
    for number in range(1, 7):
        await write(cluster, outbox, number, source=1, target=2 if number < 5 else 3)
    async with cluster.async_engine(home).begin() as connection:
        await connection.execute(
            sa.text("UPDATE tenfold_outbox SET held = true, tries = 1 WHERE body->>'number' IN ('2', '4', '6')")
        )
    async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:
        await until(lambda: drained(outbox))
        assert dispatcher.counters.suspects == 3
    assert await effects(cluster) == {2: [1, 2, 3, 4], 3: [5, 6]}


async def test_two_dispatchers_deliver_each_message_once(cluster: ShardedCluster, servers: Topology) -> None:
    """One leads for each shard; when its backend is killed another takes over, and both may have had the batch."""
    outbox = Outbox(cluster)
    async with make(servers) as other:
        async with (
            Dispatcher(cluster, {"note": note}, options=PATIENT) as one,
            Dispatcher(other, {"note": note}, options=PATIENT) as two,
        ):
            for number in range(60):
                await write(cluster, outbox, number, source=number % 7, target=number % 5)
                if number % 15 == 7:
                    for name in NAMES:
                        async with cluster.async_engine(name).connect() as connection:
                            await connection.execute(
                                sa.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                            )
            await until(lambda: drained(outbox))
            assert not one.leads & two.leads
        assert one.counters.interrupted + two.counters.interrupted >= 1
    found = await effects(cluster)
    assert {key: sorted(numbers) for key, numbers in found.items()} == {
        key: list(range(key, 60, 5)) for key in range(5)
    }


async def test_a_delivery_whose_acknowledgement_was_lost_has_no_second_effect(cluster: ShardedCluster) -> None:
    """Also when the key's bucket has moved to another shard in between."""
    outbox = Outbox(cluster)
    await write(cluster, outbox, 1, source=1, target=2)
    home, target = cluster.map.shard_of(1), cluster.map.shard_of(2)
    async with cluster.async_engine(home).begin() as connection:
        saved = (await connection.execute(sa.text("SELECT message, body::text FROM tenfold_outbox"))).one()
    async with Dispatcher(cluster, {"note": note}, options=QUICK):
        await until(lambda: drained(outbox))
    again = sa.text(
        "INSERT INTO tenfold_outbox (message, topic, key, body, asked) "
        "VALUES (:message, 'note', 'i:2', CAST(:body AS jsonb), ARRAY[CAST(:asked AS text)])"
    )
    for moved in (False, True):
        if moved:
            new = next(name for name in NAMES if name != target)
            await cluster.install(cluster.map.moved([cluster.map.bucket_of(2)], new))
        async with cluster.async_engine(home).begin() as connection:
            await connection.execute(again, {"message": saved[0], "body": saved[1], "asked": target})
        async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:
            await until(lambda: drained(outbox))
            assert (dispatcher.counters.duplicates, dispatcher.counters.delivered) == (1, 0)
    assert await effects(cluster) == {2: [1]}
    await cluster.install(cluster.map.moved([cluster.map.bucket_of(2)], target))


async def test_a_receiver_that_is_down_is_waited_for(cluster: ShardedCluster, servers: Topology) -> None:
    """Its messages are no dead letters, however long it takes, and the others go on."""
    outbox = Outbox(cluster)
    down = cluster.map.shard_of(2)
    source = next(key for key in range(20) if cluster.map.shard_of(key) != down)
    other = next(key for key in range(20) if cluster.map.shard_of(key) not in (down, cluster.map.shard_of(source)))
    server = servers.shards[NAMES.index(down)]
    await server.kill()
    try:
        await write(cluster, outbox, 1, source=source, target=2)
        await write(cluster, outbox, 2, source=source, target=other)
        async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:

            async def tried() -> bool:
                return dispatcher.counters.failed > 2 * QUICK.tries

            await until(tried)
            async with cluster.session(shard_key=other) as session:
                assert (await session.execute(select(Seen.number))).scalars().all() == [2]
            await server.start()
            await until(lambda: drained(outbox))
            assert dispatcher.counters.dead == 0
    finally:
        if not server.running:
            await server.start()
    assert await effects(cluster) == {2: [1], other: [2]}


CHILD = """
import asyncio, json, sys
from tests_of_outbox import Base, PATIENT, note
from tenfold.db.shards import Dispatcher, ShardedCluster

async def main():
    async with ShardedCluster(json.loads(sys.argv[1]), models=[Base]) as cluster:
        async with Dispatcher(cluster, {"note": note}, options=PATIENT):
            print("ready", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


POISONED = """
import asyncio, json, os, signal, sys
from tests_of_outbox import Base, FRAGILE, note
from tenfold.db.shards import Dispatcher, ShardedCluster

async def fatal(session, message):
    if message.body["number"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    await note(session, message)

async def main():
    async with ShardedCluster(json.loads(sys.argv[1]), models=[Base]) as cluster:
        async with Dispatcher(cluster, {"note": fatal}, options=FRAGILE):
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_message_that_kills_its_dispatcher_is_laid_aside_and_nothing_else(
    cluster: ShardedCluster, servers: Topology, tmp_path: Path
) -> None:
    """It was in hand with innocent ones, of its key and of others: they are delivered, in order, and it is a dead
    letter after as many deaths as it may have tries.
    """
    outbox, hub = Outbox(cluster), Hub()
    died: list[MessageDied] = []
    hub.subscribe(MessageDied, died.append)
    for number in range(30):
        await write(cluster, outbox, number, source=1, target=number % 3)
    (tmp_path / "tests_of_outbox.py").write_bytes(OWN)
    (tmp_path / "child.py").write_text(POISONED, encoding="utf-8")
    path = os.pathsep.join([str(Path(tenfold.__file__).parents[1]), str(tmp_path)])
    for _ in range(FRAGILE.tries):
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(tmp_path / "child.py"), json.dumps([shard.url for shard in servers.shards]),
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    home = cluster.map.shard_of(1)

    async def never(session: AsyncSession, message: Message) -> None:
        assert message.body["number"] != 3
        await note(session, message)

    async with Dispatcher(cluster, {"note": never}, options=FRAGILE, hub=hub) as dispatcher:
        await until(lambda: drained(outbox))
        assert dispatcher.counters.dead == 1
    (letter,) = await outbox.dead(home)
    assert (letter.body, letter.tries) == ({"number": 3}, FRAGILE.tries)
    assert "killed or cut off" in str(letter.error)
    assert [(event.shard, event.id) for event in died] == [(home, letter.id)]
    assert await effects(cluster) == {
        key: [number for number in range(30) if number % 3 == key and number != 3] for key in range(3)
    }
    async with Dispatcher(cluster, {"note": note}, options=QUICK):
        assert await outbox.revive(home, letter.id)
        await until(lambda: drained(outbox))
    assert (await effects(cluster))[0][-1] == 3


async def test_a_dispatcher_that_ends_in_good_order_blames_nobody(cluster: ShardedCluster) -> None:
    """What it had in hand is given back as it was, however often that happens."""
    outbox = Outbox(cluster)
    began = asyncio.Event()

    async def slow(session: AsyncSession, message: Message) -> None:
        began.set()
        await asyncio.sleep(30)

    for number in range(3):
        await write(cluster, outbox, number, source=1, target=2)
    for _ in range(QUICK.tries + 1):
        began.clear()
        async with Dispatcher(cluster, {"note": slow}, options=QUICK):
            await asyncio.wait_for(began.wait(), 30)
    async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:
        await until(lambda: drained(outbox))
        assert (dispatcher.counters.suspects, dispatcher.counters.dead) == (0, 0)
    assert await effects(cluster) == {2: [0, 1, 2]}


async def test_a_receiver_that_is_cancelled_from_within_is_tried_again(cluster: ShardedCluster) -> None:
    """As by a task of its own that somebody else has cancelled; the dispatcher lives on."""
    outbox = Outbox(cluster)

    async def cancelled_once(session: AsyncSession, message: Message) -> None:
        if message.tries == 0:
            raise asyncio.CancelledError
        await note(session, message)

    for number in range(3):
        await write(cluster, outbox, number, source=1, target=2)
    async with Dispatcher(cluster, {"note": cancelled_once}, options=QUICK) as dispatcher:
        await until(lambda: drained(outbox), within=10)
        assert dispatcher.counters.failed == 3
    assert await effects(cluster) == {2: [0, 1, 2]}


async def test_what_is_no_message_to_anybody_is_laid_aside(
    cluster: ShardedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that somebody has written by hand. The messages of others go on."""
    outbox = Outbox(cluster)
    shard = cluster.map.shard_of(1)
    async with cluster.async_engine(shard).begin() as connection:
        for key, body in (("2", "{}"), ("i:2", "1" + "0" * 5000), ("b:00", "{}")):
            await connection.execute(
                sa.text("INSERT INTO tenfold_outbox (topic, key, body) VALUES ('note', :key, CAST(:body AS jsonb))"),
                {"key": key, "body": body},
            )
    await write(cluster, outbox, 1, source=1, target=2)
    ranges = ShardMap.range(NAMES, [100, 200])
    ranges = ranges.moved(range(3), cluster.map.shard_of(2)).at(cluster.map.epoch)
    monkeypatch.setattr(type(cluster), "map", ranges)  # a map that no bytes have a place on
    async with Dispatcher(cluster, {"note": note}, options=QUICK) as dispatcher:
        await until(lambda: drained(outbox), within=10)
        assert (dispatcher.counters.delivered, dispatcher.counters.dead, dispatcher.counters.interrupted) == (1, 3, 0)
    assert [(one.key, str(one.error)[:18]) for one in await outbox.dead(shard)] == [
        ("2", "it cannot be read:"),
        ("i:2", "it cannot be read:"),
        (b"\0", "it cannot be read:"),
    ]
    async with cluster.session(shard_key=1) as session:
        with pytest.raises(MisuseError, match="expected int"):
            await outbox.send(session, "note", key="two", body=1)


async def test_a_dispatcher_that_loses_its_shard_while_it_ends(cluster: ShardedCluster) -> None:
    """What is in hand cannot be given back then, and that error must not keep it from ending."""
    outbox = Outbox(cluster)
    in_hand = asyncio.Event()

    async def holds(session: AsyncSession, message: Message) -> None:
        in_hand.set()
        await asyncio.Event().wait()

    await write(cluster, outbox, 1, source=1, target=2)
    dispatcher = Dispatcher(cluster, {"note": holds}, options=QUICK)
    await dispatcher.__aenter__()
    async with asyncio.timeout(10):
        await in_hand.wait()
    async with cluster.member(cluster.map.shard_of(1)).alone() as connection:
        await connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
    leaving = asyncio.create_task(dispatcher.__aexit__(None, None, None))
    done, _ = await asyncio.wait([leaving], timeout=10)
    assert done


async def test_a_dispatcher_outlives_an_exhausted_pool(cluster: ShardedCluster, servers: Topology) -> None:
    urls = [shard.url for shard in servers.shards]
    async with (
        ShardedCluster(urls, models=[Base], pool_size=1, deadline="100ms") as small,
        small.member("s0").alone(writes=False),
        Dispatcher(small, {"note": note}, options=QUICK) as dispatcher,
    ):

        async def interrupted() -> bool:
            return dispatcher.counters.interrupted > 1

        await until(interrupted, within=10)


async def test_a_receiver_that_ends_the_transaction_is_refused(cluster: ShardedCluster) -> None:
    """Its effect would come again, were the dispatcher killed before the message is forgotten."""
    outbox = Outbox(cluster)

    async def rolls_back(session: AsyncSession, message: Message) -> None:
        await session.rollback()
        await note(session, message)

    await write(cluster, outbox, 0, source=1, target=2)
    async with Dispatcher(cluster, {"note": rolls_back}, options=QUICK):
        await until(lambda: drained(outbox), within=10)
    (dead,) = await outbox.dead(cluster.map.shard_of(1))
    assert "the receiver has ended its session's transaction" in str(dead.error)
    assert await effects(cluster) == {}


async def test_the_inbox_forgets_as_fast_as_messages_come(cluster: ShardedCluster) -> None:
    async with cluster.async_engine("s0").begin() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO tenfold_inbox SELECT gen_random_uuid(), now() - CASE WHEN n < 5 THEN interval '6 days' "
                "ELSE interval '8 days' END FROM generate_series(0, 3500) n"
            )
        )

    async def forgotten() -> bool:
        async with cluster.async_engine("s0").connect() as connection:
            return (await connection.execute(sa.text("SELECT count(*) FROM tenfold_inbox"))).scalar_one() == 5

    async with Dispatcher(cluster, {"note": note}, options=QUICK):
        await until(forgotten, within=10)


async def storm(cluster: ShardedCluster, servers: Topology, tmp_path: Path, messages: int, seed: int) -> None:
    """Dispatchers in processes of their own are SIGKILLed again and again, and so are the shards, while writers write:
    then each message that was committed has had its effect once.
    """
    random, outbox = Random(seed), Outbox(cluster)
    (tmp_path / "tests_of_outbox.py").write_bytes(OWN)
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    urls = json.dumps([shard.url for shard in servers.shards])
    source = Path(tenfold.__file__).parents[1]
    children: list[asyncio.subprocess.Process] = []

    async def spawn() -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(tmp_path / "child.py"), urls,
            env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{tmp_path}"}, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        children.append(child)
        return child

    written = 0

    async def writer() -> None:
        nonlocal written
        for number in range(messages):
            while True:
                try:
                    await write(cluster, outbox, number, source=number % 11, target=number % 7)
                    break
                except sa.exc.IntegrityError:
                    break  # the commit whose answer was lost
                except (sa.exc.DBAPIError, OSError, StaleMap):
                    await asyncio.sleep(0.02)  # its shard is down
            written += 1

    async def killer() -> None:
        while written < messages:
            child = children[-1] if children[-1].returncode is None else await spawn()
            assert child.stdout is not None
            await child.stdout.readline()
            await asyncio.sleep(random.uniform(0.0, 0.25))
            if random.random() < 0.3:
                server = random.choice(servers.shards)
                await server.kill()
                await server.start()
            child.kill()
            await child.wait()

    await spawn()
    try:
        tasks = [asyncio.create_task(writer()), asyncio.create_task(killer())]
        await asyncio.gather(*tasks)
        async with Dispatcher(cluster, {"note": note}, options=PATIENT):
            await until(lambda: drained(outbox), within=120)
    finally:
        for child in children:
            if child.returncode is None:
                child.send_signal(signal.SIGKILL)
                await child.wait()
    found: dict[int, Any] = await effects(cluster)
    assert {key: sorted(numbers) for key, numbers in found.items()} == {
        key: list(range(key, messages, 7)) for key in range(7)
    }
    sent = {number: number % 11 for number in range(messages)}
    for numbers in found.values():  # in order for each pair of sender's shard and key
        for shard in NAMES:
            from_there = [number for number in numbers if cluster.map.shard_of(sent[number]) == shard]
            assert from_there == sorted(from_there)


async def test_kills_of_dispatchers_and_receivers(cluster: ShardedCluster, servers: Topology, tmp_path: Path) -> None:
    await storm(cluster, servers, tmp_path, messages=200, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
async def test_many_kills_of_dispatchers_and_receivers(
    cluster: ShardedCluster, servers: Topology, tmp_path: Path, seed: int
) -> None:
    await storm(cluster, servers, tmp_path, messages=1500, seed=seed)
