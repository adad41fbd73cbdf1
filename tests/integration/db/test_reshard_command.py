"""``tenfold reshard`` as an operator has it: what it says, what it refuses, and that it moves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy import func, make_url, select
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tenfold
from tenfold._core.errors import MisuseError
from tenfold.cli import reshard
from tenfold.db.reshard import CannotMove, Different, Interrupted, Progress, ReshardError, Resharding, ReshardOptions
from tenfold.db.reshard.links import connected
from tenfold.db.shards import ShardedCluster, ShardError, ShardMap
from tenfold.resilience.deadline import Deadline
from tenfold.servers import Postgres, Topology

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Trip(Base):
    __tablename__ = "trips"
    __shard_key__ = "rider"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider: Mapped[str]
"""


class Base(DeclarativeBase):
    pass


class Trip(Base):
    __tablename__ = "trips"
    __shard_key__ = "rider"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider: Mapped[str]


@pytest.fixture(scope="module")
def shards(plain: Callable[[int], Topology]) -> Topology:
    return plain(2)


def urls(shards: Topology) -> dict[str, str]:
    return {f"s{number}": shard.url for number, shard in enumerate(shards.shards)}


def tool(shards: Topology, **options: Any) -> Resharding:
    fast = ReshardOptions(**{"lock_wait": "100ms", "attempts": 2, "connect": "1s", "rest": 0, **options})
    return Resharding(urls(shards), models=[Base], options=fast)


@pytest.fixture
async def cluster(shards: Topology, emptied: Callable[[Postgres], Awaitable[None]]) -> AsyncIterator[ShardedCluster]:
    for shard in shards.shards:
        await emptied(shard)
    map = ShardMap.hash(["s0", "s1"], buckets=8)
    async with ShardedCluster(urls(shards), models=[Base], map=map, deadline="5s") as cluster:
        for name in ("s0", "s1"):
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Trip, [{"id": n, "rider": f"rider {n}"} for n in range(100)])
        yield cluster


async def on(cluster: ShardedCluster, shard: str, statement: str) -> Any:
    async with cluster.async_engine(shard).begin() as connection:
        done = await connection.execute(sa.text(statement))
        return done.all() if done.returns_rows else None


async def test_the_command_moves_verifies_rolls_back(
    shards: Topology,
    cluster: ShardedCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "fleet.py").write_text(MODELS)
    given = [f"{name}={url}" for name, url in urls(shards).items()]

    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tenfold", "reshard", "plan", "--models", "fleet:Base", "--buckets", "0,2"),
        *("--to", "s1"), cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(tenfold.__file__).parents[1]),
            "TENFOLD_SHARDS": " ".join(given),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await asyncio.wait_for(child.communicate(), 60)
    assert (child.returncode, error) == (0, b"")
    assert "0: s0 → s1, 2 buckets" in out.decode()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    the: Any = {"shard": tuple(given), "models": ("fleet:Base",)}
    await asyncio.to_thread(reshard.run, **the, json=True)
    moved = json.loads(capsys.readouterr().out)
    assert (moved["outcome"], moved["legs"][0]["phase"], moved["legs"][0]["buckets"]) == ("moved", "moved", [0, 2])
    assert await asyncio.to_thread(reshard.verify, **the) == 0
    assert "every row is where the map has it" in capsys.readouterr().out
    also = {**the, "shard": (*given, "s0=postgresql://tenfold@127.0.0.1:1/postgres")}  # a server that is down
    assert await asyncio.to_thread(reshard.verify, **also) == 0
    await cluster.refresh()
    assert cluster.map.shards[0] == "s1"
    await asyncio.to_thread(reshard.rollback, **the)
    assert "rolled back" in capsys.readouterr().out
    await cluster.refresh()
    assert cluster.map.shards[0] == "s0"
    assert (await cluster.execute(select(func.count()).select_from(Trip))).scalar_one() == 100
    with pytest.raises(ReshardError, match="no reshard is open: `tenfold reshard plan` first"):
        await asyncio.to_thread(reshard.run, **the)
    for wrong in ({"shard": ("s0",)}, {"shard": (given[0], given[0])}, {"models": ("fleet",)}, {"models": ("flee:B",)}):
        with pytest.raises(MisuseError, match=r"--shard|--models"):
            await asyncio.to_thread(reshard.verify, **{**the, **wrong})


async def test_plans_that_cannot_be_are_refused_with_what_to_do(shards: Topology, cluster: ShardedCluster) -> None:
    async def refused(reason: str, **plan: Any) -> None:
        with pytest.raises(CannotMove, match=reason):
            await tool(shards).plan(**(plan or {"to": "s1", "buckets": [0]}))

    await refused("expected one of s0, s1, got 's9'; give its URL", to="s9", buckets=[0])
    await refused("expected 0 to 7, got 8", to="s1", buckets=[8])
    await refused("bucket 1 is on s1 already", to="s1", buckets=[1])
    await refused("a shard to empty, or even", to="s1", buckets=[1], even=True)
    await refused("the buckets are spread evenly already", even=True)
    bucket = cluster.map.bucket_of("rider 1")
    here, there = cluster.map.shards[bucket], "s1" if cluster.map.shards[bucket] == "s0" else "s0"
    await on(cluster, there, "INSERT INTO trips VALUES (1000, 'rider 1')")
    await refused(
        f"{there} has 1 rows of bucket {bucket} already, which is on {here} by the map", to=there, buckets=[bucket]
    )
    assert (await tool(shards).verify()).misplaced == (
        f"1 rows of bucket {bucket} are on {there}, and the map has it on {here}",
    )
    await on(cluster, there, "DELETE FROM trips WHERE id = 1000")
    await on(cluster, "s0", "CREATE TABLE notes (trip int REFERENCES trips)")
    await refused("notes on shard s0 has a foreign key to .*trips.*, and its rows would stay behind")
    await on(cluster, "s0", "DROP TABLE notes")
    await on(cluster, "s1", "ALTER TABLE trips ADD more int")
    await refused("not the same on all shards: column more is int(eger)? on s1, missing elsewhere")
    await on(cluster, "s1", "ALTER TABLE trips DROP more, DROP CONSTRAINT trips_pkey")
    await refused("on shard s1 has no primary key")
    await on(cluster, "s1", "DROP TABLE trips")
    await refused("is missing on shard s1: create it there")
    await on(cluster, "s0", "DROP ROLE IF EXISTS clerk")
    await on(cluster, "s0", "CREATE ROLE clerk LOGIN")
    clerk = {name: url.replace("tenfold@", "clerk@") for name, url in urls(shards).items()}
    with pytest.raises(CannotMove, match='GRANT SET ON PARAMETER session_replication_role TO "clerk"'):
        await Resharding(clerk, models=[Base]).plan(even=True)
    await on(cluster, "s1", "CREATE TABLE trips (id int PRIMARY KEY, rider text)")
    await on(cluster, "s0", "CREATE TABLE heir () INHERITS (trips)")
    await refused("heir on shard s0 inherits from .*trips")
    await on(cluster, "s0", "DROP TABLE heir")
    computed = "ALTER TABLE trips DROP rider, ADD rider text GENERATED ALWAYS AS ('rider ' || id) STORED"
    await on(cluster, "s0", computed)
    await refused("on shard s0: rider is computed from other columns")
    nowhere = {**urls(shards), "s2": "postgresql://tenfold@127.0.0.1:1/postgres"}
    with pytest.raises(Interrupted, match="a shard was lost or did not answer"):
        await Resharding(nowhere, models=[Base]).plan(even=True)


async def test_while_it_is_open_the_map_and_the_tables_are_guarded(shards: Topology, cluster: ShardedCluster) -> None:
    moved = [bucket for bucket, shard in enumerate(cluster.map.shards) if shard == "s0"][:1]
    await tool(shards).plan(to="s1", buckets=moved)
    await cluster.install(cluster.map.moved([1], "s1"))  # planned is not open
    await tool(shards).run()
    await cluster.refresh()
    with pytest.raises(ShardError, match="a reshard is under way"):
        await cluster.install(cluster.map.moved([1], "s0"))
    await cluster.repair()
    with pytest.raises(ReshardError, match="under way: `tenfold reshard run` or"):
        await tool(shards).plan(even=True)
    with pytest.raises(sa.exc.DBAPIError, match="TRUNCATE while rows move"):
        await on(cluster, "s1", "TRUNCATE trips")
    await on(cluster, "s0", "ALTER TABLE trips ADD more int")
    with pytest.raises(CannotMove, match="not the same on all shards"):
        await tool(shards).run()
    await on(cluster, "s0", "ALTER TABLE trips DROP more")
    async with cluster.async_engine("s0").connect() as holder:
        await holder.execute(sa.text("SELECT pg_advisory_lock(7233174)"))
        with pytest.raises(ReshardError, match="another `tenfold reshard` is at work"):
            await tool(shards).verify()
        await holder.execute(sa.text("SELECT pg_advisory_unlock(7233174)"))
    assert await tool(shards).run(finish=True) is None
    with pytest.raises(ReshardError, match="no reshard is open"):
        await tool(shards).rollback()


async def test_whoever_makes_the_tables_is_not_waited_for_for_ever(shards: Topology, cluster: ShardedCluster) -> None:
    async with cluster.async_engine("s0").begin() as holder:
        await holder.execute(sa.text("SELECT pg_advisory_xact_lock(7233172)"))
        with pytest.raises(Interrupted):
            await tool(shards, statement="500ms").plan(to="s1", buckets=[0])


async def test_what_a_former_reshard_has_left_is_swept_up(shards: Topology, cluster: ShardedCluster) -> None:
    """As when a promoted server has forgotten the clean-up: its logs, copies and marks mislead nobody."""
    for start in (0, 2):
        await tool(shards).plan(to="s1", buckets=[start])
        await tool(shards).run()
        await on(cluster, "s0", "DELETE FROM tenfold_reshard")
    await tool(shards).plan(to="s0", buckets=[0, 1, 2])
    await tool(shards).run(finish=True)
    await cluster.refresh()
    assert [cluster.map.shards[bucket] for bucket in range(3)] == ["s0"] * 3
    assert (await tool(shards).verify()).misplaced == ()
    assert (await cluster.execute(select(func.count()).select_from(Trip))).scalar_one() == 100
    for shard in ("s0", "s1"):
        assert await on(cluster, shard, "SELECT tgname FROM pg_trigger WHERE tgname ~ '^tenfold_'") == []


async def test_a_copy_that_somebody_has_changed_stops_the_switch(shards: Topology, cluster: ShardedCluster) -> None:
    """The comparison sees a changed row, a missing one and one too many, before anything is switched."""
    bucket = cluster.map.bucket_of("rider 1")
    there = "s1" if cluster.map.shards[bucket] == "s0" else "s0"
    home = cluster.map.shards[bucket]
    await tool(shards).plan(to=there, buckets=[bucket])
    await tool(shards).run()  # the copy is on the former shard now
    for damage, told in (
        ("UPDATE {} SET id = -1 WHERE id = 1", "of other content"),
        ("DELETE FROM {} WHERE id = -1", "rows live"),
        ("INSERT INTO {} SELECT tenfold_bucket, 1000 + id, rider FROM {}", "in the copy"),
    ):
        await on(cluster, home, damage.replace("{}", "tenfold_reshard_0.copy_0"))
        for call in (tool(shards).verify, tool(shards).rollback):
            with pytest.raises(Different, match=told):
                await call()
        await cluster.refresh()
        assert cluster.map.shards[bucket] == there
    assert await tool(shards).run(finish=True) is None  # live rows count
    assert (await cluster.execute(select(func.count()).select_from(Trip))).scalar_one() == 100


async def test_rows_that_the_target_cannot_hold_stop_the_switch(shards: Topology, cluster: ShardedCluster) -> None:
    bucket = cluster.map.bucket_of("rider 1")
    home = cluster.map.shards[bucket]
    there = "s1" if home == "s0" else "s0"
    other = next(n for n in range(100) if cluster.map.shard_of(f"rider {n}") == there)
    await on(cluster, there, f"UPDATE trips SET id = 1 WHERE id = {other}")
    await tool(shards).plan(to=there, buckets=[bucket])
    with pytest.raises(ReshardError, match=r"cannot hold the rows of .*trips.*\(id\)=\(1\) already exists"):
        await tool(shards).run()
    await cluster.execute(sa.update(Trip).where(Trip.rider == "rider 1").values(id=1001))  # writers are not fenced out
    moved = await tool(shards).run()
    assert moved is not None
    assert (await on(cluster, there, "SELECT rider FROM trips WHERE id = 1001")) == [("rider 1",)]


async def test_sequences_are_past_the_rows_that_came_and_that_came_back(
    shards: Topology, cluster: ShardedCluster
) -> None:
    """An INSERT that leaves its number to the shard meets none of them; two shards that share the numbers out by their
    steps still do.
    """
    for shard, start in (("s0", 1), ("s1", 2)):
        await on(cluster, shard, f"ALTER SEQUENCE trips_id_seq INCREMENT BY 2 RESTART WITH {start}")
        await on(cluster, shard, "CREATE SEQUENCE tickets")
        await on(cluster, shard, "ALTER TABLE trips ADD ticket bigint UNIQUE DEFAULT nextval('tickets')")
        await on(cluster, shard, "DELETE FROM trips")

    async def sell(shard: str, count: int = 20) -> set[int]:
        riders = [f"rider {n}" for n in range(400) if cluster.map.shard_of(f"rider {n}") == shard]
        rows = ", ".join(f"('{rider}')" for rider in riders[:count])
        return {row[0] for row in await on(cluster, shard, f"INSERT INTO trips (rider) VALUES {rows} RETURNING id")}

    first = await sell("s0")
    await on(cluster, "s1", "SELECT setval('tickets', 1000)")
    assert first == set(range(1, 41, 2))
    await tool(shards).plan(empty="s0")
    await tool(shards).run()
    await cluster.refresh()
    there = await sell("s1", 30)
    assert there == set(range(40, 100, 2))  # the first even number past 39
    await tool(shards).rollback()
    await cluster.refresh()
    assert (await on(cluster, "s0", "SELECT last_value FROM tickets")) > [(1000,)]
    back = await sell("s0")
    assert {n % 2 for n in back} == {1}
    assert min(back) > max(n for (n,) in await on(cluster, "s0", "SELECT id FROM trips") if n not in back)
    await sell("s1")


async def test_a_long_transaction_delays_a_switch_and_writers_pass(shards: Topology, cluster: ShardedCluster) -> None:
    await tool(shards).plan(to="s1", buckets=[0])
    key = next(f"rider {n}" for n in range(100) if cluster.map.shard_of(f"rider {n}") == "s0")
    async with cluster.session(shard_key=key) as session:
        await session.execute(select(Trip).where(Trip.rider == key))
        with pytest.raises(ReshardError, match="have lasted longer than 100 ms each of 2 times: see pg_stat_activity"):
            await tool(shards).run()
        async with Deadline("5s"):
            await cluster.execute(sa.update(Trip).where(Trip.rider == key).values(id=1001))
    moved = await tool(shards).run()
    assert moved is not None


async def test_connections_that_the_shards_closed_are_replaced(shards: Topology, cluster: ShardedCluster) -> None:
    leave = sa.delete(Trip).where(Trip.rider == "rider 1")
    await cluster.execute(leave)
    for shard in shards.shards:
        await shard.fetchval(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "
            "backend_type = 'client backend'"
        )
    await cluster.execute(leave)


def at(point: str, *statements: tuple[str, str]) -> Callable[[Progress], None]:
    """Runs the statements, each at a URL, the first time that the tool gets to ``point``."""
    left = [*statements]

    async def run() -> None:
        while left:
            url, statement = left.pop(0)
            connection = await asyncpg.connect(url)
            await connection.execute(statement)
            await connection.close()

    def tell(progress: Progress) -> None:
        if progress.point == point and left:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, run()).result()

    return tell


async def test_a_column_that_is_added_meanwhile_is_not_lost(shards: Topology, cluster: ShardedCluster) -> None:
    """The switch is refused, and the next run copies anew; so does a rollback of what was altered after the move."""
    everything = "SELECT count(*), count(*) FILTER (WHERE note = 'n' || id) FROM trips"

    async def noted() -> tuple[int, int]:
        counted = [await on(cluster, name, everything) for name in ("s0", "s1")]
        return sum(rows[0][0] for rows in counted), sum(rows[0][1] for rows in counted)

    add = "ALTER TABLE trips ADD {0} text; UPDATE trips SET {0} = 'n' || id"
    await tool(shards).plan(empty="s0")
    resharding = Resharding(
        urls(shards),
        models=[Base],
        options=ReshardOptions(switch_rows=1, rest=0),
        on_progress=at("published", *((url, add.format("note")) for url in urls(shards).values())),
    )
    with pytest.raises(ReshardError, match="a table was altered while its rows were moving"):
        await resharding.run()
    await cluster.refresh()
    assert set(cluster.map.shards) == {"s0", "s1"}
    moved = await tool(shards).run()
    assert moved is not None
    await cluster.refresh()
    assert set(cluster.map.shards) == {"s1"}
    assert await noted() == (100, 100)
    for name in ("s0", "s1"):
        await on(cluster, name, "ALTER TABLE trips ADD other text")
        await on(cluster, name, "UPDATE trips SET other = note")
    await tool(shards).rollback()
    await cluster.refresh()
    assert set(cluster.map.shards) == {"s0", "s1"}
    assert await noted() == (100, 100)
    for name in ("s0", "s1"):
        assert await on(cluster, name, "SELECT count(*) FROM trips WHERE other = note") > [(0,)]
        assert await on(cluster, name, "SELECT count(*) FROM trips WHERE other IS DISTINCT FROM note") == [(0,)]


async def test_a_third_shard_has_its_say_before_anything_is_decided(shards: Topology, cluster: ShardedCluster) -> None:
    """A long transaction there makes the switch step back; and every run looks whether each name is that shard."""
    await shards.shards[1].fetchval("DROP DATABASE IF EXISTS third")
    await shards.shards[1].fetchval("CREATE DATABASE third")
    third = urls(shards)["s1"].replace("/postgres", "/third")
    three = {**urls(shards), "s2": third}
    options = ReshardOptions(lock_wait="100ms", attempts=2, connect="1s", rest=0)
    connection = await asyncpg.connect(third)
    await connection.execute("CREATE TABLE trips (id serial PRIMARY KEY, rider varchar NOT NULL)")
    resharding = Resharding(three, models=[Base], options=options)
    await resharding.plan(to="s1", buckets=[0])
    with pytest.raises(MisuseError, match=r"the database given as s[12] says that it is shard s[12]"):
        await Resharding({**three, "s1": third, "s2": three["s1"]}, models=[Base], options=options).run()
    with pytest.raises(MisuseError, match="names s1, of which no URL was given"):
        await Resharding({"s0": three["s0"], "s2": third}, models=[Base], options=options).run()
    async with connection.transaction():
        await connection.execute("SELECT epoch FROM tenfold_shard_epoch FOR SHARE")
        with pytest.raises(ReshardError, match="have lasted longer than 100 ms each of 2 times"):
            await resharding.run()
        async with Deadline("5s"):  # nobody waits for that transaction, and no map is stale
            for n in range(16):
                await cluster.execute(sa.update(Trip).where(Trip.rider == f"rider {n}").values(id=1000 + n))
    assert await resharding.run(finish=True) is None
    epochs = [await on(cluster, name, "SELECT epoch FROM tenfold_shard_epoch") for name in ("s0", "s1")]
    assert epochs == [[(await connection.fetchval("SELECT epoch FROM tenfold_shard_epoch"),)]] * 2
    await connection.close()


async def test_keys_that_are_equal_and_not_the_same_text(shards: Topology, cluster: ShardedCluster) -> None:
    """What is Ann in the log and ANN in the table is one row; and a trigger needs none of the type's operators."""

    class Other(DeclarativeBase):
        pass

    class Mail(Other):
        __tablename__ = "mails"
        __shard_key__ = "rider"
        address: Mapped[str] = mapped_column(CITEXT, primary_key=True)
        rider: Mapped[str]

    for name in ("s0", "s1"):
        await on(cluster, name, "CREATE EXTENSION citext")
        async with cluster.async_engine(name).begin() as connection:
            await connection.run_sync(Other.metadata.create_all)
    bucket = cluster.map.bucket_of("rider 1")
    home = cluster.map.shards[bucket]
    there = "s1" if home == "s0" else "s0"
    mails = Resharding(urls(shards), models=[Other], options=ReshardOptions(rest=0))
    await on(cluster, home, "INSERT INTO mails VALUES ('Ann', 'rider 1'), ('Bob', 'rider 1')")
    await mails.plan(to=there, buckets=[bucket])
    await mails.run()
    await on(cluster, there, "DELETE FROM mails WHERE address = 'Ann'")
    await on(cluster, there, "INSERT INTO mails VALUES ('ANN', 'rider 1')")
    await on(cluster, there, "UPDATE mails SET address = 'BOB' WHERE address = 'Bob'")
    await mails.run()
    assert (await mails.verify()).compared == 2
    await mails.rollback()
    assert sorted(await on(cluster, home, "SELECT address::text FROM mails")) == [("ANN",), ("BOB",)]


async def test_what_the_target_refuses_is_told_as_it_is(shards: Topology, cluster: ShardedCluster) -> None:
    bucket = cluster.map.bucket_of("rider 1")
    there = "s1" if cluster.map.shards[bucket] == "s0" else "s0"
    await on(cluster, there, "ALTER TABLE trips ADD CHECK (rider <> 'rider 1')")
    await tool(shards).plan(to=there, buckets=[bucket])
    with pytest.raises(ReshardError, match=r"cannot hold the rows of .*Make room for them there") as caught:
        await tool(shards).run()
    assert "Unique" not in str(caught.value)
    await tool(shards).rollback()


async def test_no_setting_of_a_role_cuts_the_tools_sessions(shards: Topology, cluster: ShardedCluster) -> None:
    """Those to shards that have no part rest for as long as a leg takes; a host that is gone is noticed."""
    pinned = {"idle_session_timeout": "0", "transaction_timeout": "0", "lc_monetary": "C", "tcp_keepalives_idle": "10"}
    given = {name: [make_url(url)] for name, url in urls(shards).items()}
    for name in ("idle_session_timeout", "transaction_timeout"):
        await on(cluster, "s1", f"ALTER ROLE tenfold SET {name} = '1h'")
    try:
        async with connected(given, timeout=5, within=1) as links:
            found = {name: await links.shards["s1"].fetchval(f"SHOW {name}") for name in pinned}
    finally:
        await on(cluster, "s1", "ALTER ROLE tenfold RESET ALL")
    assert found == pinned


async def test_another_home_is_not_begun_where_one_has_the_map(shards: Topology, cluster: ShardedCluster) -> None:
    turned = dict(reversed(urls(shards).items()))
    with pytest.raises(MisuseError, match="s0 stores the map, and s1 was given first"):
        async with ShardedCluster(turned, models=[Base]):
            pass
    assert await on(cluster, "s1", "SELECT to_regclass('tenfold_shard_map')::text") == [(None,)]


async def test_rows_that_refer_to_what_the_target_lacks_stop_the_switch(
    shards: Topology, cluster: ShardedCluster
) -> None:
    """Foreign keys are not checked for rows that move, and a table that stands everywhere does not move."""
    bucket = cluster.map.bucket_of("rider 1")
    there = "s1" if cluster.map.shards[bucket] == "s0" else "s0"
    for name in ("s0", "s1"):
        await on(cluster, name, "CREATE TABLE towns (land text, id int, PRIMARY KEY (land, id))")
        await on(cluster, name, "ALTER TABLE trips ADD land text, ADD town int")
        await on(cluster, name, "ALTER TABLE trips ADD FOREIGN KEY (town, land) REFERENCES towns (id, land)")
        if name != there:
            await on(cluster, name, "INSERT INTO towns VALUES ('at', 7)")
            await on(cluster, name, "UPDATE trips SET land = 'at', town = 7 WHERE rider = 'rider 1'")
    await tool(shards).plan(to=there, buckets=[bucket])
    with pytest.raises(
        ReshardError, match=rf"1 rows of .*trips.* refer to rows of towns .* that {there} does not have"
    ):
        await tool(shards).run()
    await on(cluster, there, "INSERT INTO towns VALUES ('at', 7)")
    assert await tool(shards).run(finish=True) is None
    assert await on(cluster, there, "SELECT town FROM trips WHERE rider = 'rider 1'") == [(7,)]


async def test_what_a_bulk_update_leaves_is_not_worked_off_while_writers_wait(
    shards: Topology, cluster: ShardedCluster
) -> None:
    points: list[str] = []
    update = at("intent", (urls(shards)["s0"], "UPDATE trips SET id = id + 1000 WHERE id < 40"))

    def tell(progress: Progress) -> None:
        points.append(progress.point)
        update(progress)

    await tool(shards).plan(to="s1", buckets=[0])
    options = ReshardOptions(batch=1, rest=0)
    moved = await Resharding(urls(shards), models=[Base], options=options, on_progress=tell).run()
    assert moved is not None
    assert [points.count(point) for point in ("fenced", "catching up", "drained")] == [2, 1, 1]
