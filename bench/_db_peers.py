"""`tenfold.db` beside advanced-alchemy's routing session, hasql and plain SQLAlchemy: one primary, two replicas, all
connected to them at the same time and taking turns, each used as its own documentation shows for asyncio with asyncpg.

`read_cpu_us`, `read_wall_us`: a SELECT by primary key, the least of the turns. The statement is built per call, but for
the two on bare asyncpg, which send text; "asyncpg pool" and the three of SQLAlchemy know one replica and route nothing.
`decision_us`: the choice of a server alone, for statements just built. Of tenfold the verdict (SQLAlchemy's own cache
key is there before, as in a session), decision and choice; of advanced-alchemy ``get_bind``; of hasql, which has no
such part, acquiring and releasing less the same of a bare asyncpg pool (processor time).
`wrong_routes`: of the statements of ``tests/integration/db/test_route_rivals.py`` that a primary can run and a replica
must not, each the first of a session: those sent to a replica, and those of them that it ran without an error. hasql
has no part in it: its caller names the role.
`stale_share`: pairs of a write and a read in a new session right after the commit, replay stopping at random; whoever
has no token reads without. `first_write_ms`: the primary is killed and a replica promoted; all try at once, again every
5 ms, and their first writes are timed from the kill, null where ``looked_for_s`` was not enough. The promotion is part
of it. "SQLAlchemy, all hosts" is the driver's own way: one URL with all servers and ``target_session_attrs``.
"""

from __future__ import annotations

import asyncio
import runpy
import time
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError

from bench._db_causality import prepare, shaken
from bench._db_contestants import NAMES, Client, Peers, Read, all_hosts, contestants, missing
from bench._db_routing import built
from bench._timing import no_collector
from tenfold.db import NoPrimary
from tenfold.servers import Topology

CLIENTS = 4
RIVALS = Path(__file__).parents[1] / "tests/integration/db/test_route_rivals.py"
GONE = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, NoPrimary)


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers, under the name of the number and then of the peer; starts a primary and two replicas."""
    return asyncio.run(asyncio.wait_for(_measure(quick), 300))


async def _measure(quick: bool) -> dict[str, Any]:
    absent = missing()
    found: dict[str, Any] = {"missing": absent}
    found["versions"] = {name: version(name) for name in ("sqlalchemy", "asyncpg", *NAMES) if name not in absent}
    async with Topology(replicas=2) as topology, AsyncExitStack() as stack:
        await _tables(topology)
        peers = await contestants(topology, stack, absent)
        rounds = 3 if quick else 15
        costs = await _costs(peers.reads, rounds, 100)
        found["read_cpu_us"] = {name: cpu for name, (cpu, _) in costs.items()}
        found["read_wall_us"] = {name: wall for name, (_, wall) in costs.items()}
        found["decision_us"] = _decisions(peers, 10 if quick else 40)
        if "hasql" in peers.held:
            held = await _costs(peers.held, rounds, 100)
            found["decision_us"]["hasql"] = round(held["hasql"][0] - held["asyncpg pool"][0], 1)
        found["wrong_routes"] = await _wrong_routes(peers)
        found["pairs"] = 300 if quick else 2_000
        async with shaken(topology.replicas, seed=31):
            found |= await _pairs(peers, found["pairs"])
        del peers.clients["tenfold without tokens"]  # writes as the other one does
        all_hosts(peers, topology, stack)
        found["looked_for_s"] = 2 if quick else 10
        found["first_write_ms"] = await _promotions(topology, peers.clients, 1 if quick else 3, found["looked_for_s"])
    return found


async def _tables(topology: Topology) -> None:
    await prepare(topology)
    connection = await asyncpg.connect(topology.primary.url)
    try:
        for name, rows in (("bench_items", 1000), ("items", 10)):
            await connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, name text)")
            await connection.execute(f"INSERT INTO {name} SELECT n, 'item ' || n FROM generate_series(1, {rows}) n")
        await connection.execute("CREATE SEQUENCE item_numbers")
    finally:
        await connection.close()
    for replica in topology.replicas:
        await replica.caught_up()


async def _costs(reads: dict[str, Read], rounds: int, count: int) -> dict[str, tuple[float, float]]:
    """µs of a call, processor and wall, each the least of its turns."""
    random, found = Random(5), {name: (float("inf"), float("inf")) for name in reads}
    for turn in range(rounds + 1):
        with no_collector():
            for name, read in reads.items():
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(count):
                    await read(random.randint(1, 1000))
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if turn:  # the first one warms up
                    found[name] = min(found[name][0], cpu / count * 1e6), min(found[name][1], wall / count * 1e6)
    return {name: (round(cpu, 1), round(wall, 1)) for name, (cpu, wall) in found.items()}


def _decisions(peers: Peers, rounds: int) -> dict[str, float]:
    found = dict.fromkeys(peers.choices, float("inf"))
    for _ in range(rounds):
        with no_collector():
            for name, choice in peers.choices.items():
                statements = [built(number) for number in range(200)]
                for statement in statements:
                    statement._generate_cache_key()
                began = time.perf_counter()
                for statement in statements:
                    choice(statement)
                found[name] = min(found[name], (time.perf_counter() - began) / len(statements) * 1e6)
    return {name: round(took, 2) for name, took in found.items()}


async def _wrong_routes(peers: Peers) -> dict[str, Any]:
    rivals = runpy.run_path(str(RIVALS))
    statements = [one for name, one in rivals["WRONG"].items() if name not in rivals["CANNOT_RUN"]]
    found: dict[str, Any] = {"of": len(statements)}
    for name, (sessions, counted) in peers.sessions.items():
        wrong = without_error = 0
        with counted as sent:
            for statement in statements:
                before, refused = sent(), False
                async with sessions() as session:
                    try:
                        await session.execute(statement)
                    except DBAPIError:
                        refused = True
                    await session.rollback()
                wrong += sent() > before
                without_error += sent() > before and not refused
        found[name] = {"to_a_replica": wrong, "without_an_error": without_error}
    return found


async def _pairs(peers: Peers, count: int) -> dict[str, Any]:
    """By four clients with a row each; the peers take turns of 100 pairs, while replay stops and goes for all."""
    clients, router = peers.clients, peers.cluster.router
    stale, versions, on_replicas = dict.fromkeys(clients, 0), dict.fromkeys(range(CLIENTS), 0), 0

    async def run(name: str, number: int) -> None:
        for _ in range(100 // CLIENTS):
            versions[number] += 1
            token = await clients[name].write(number, versions[number])
            stale[name] += await clients[name].seen(number, token) < versions[number]

    random = Random(7)
    for _ in range(count // 100):
        for name in random.sample(list(clients), len(clients)):
            before = router.reads_on_replicas
            await asyncio.gather(*(run(name, number) for number in range(CLIENTS)))
            if name == "tenfold":
                on_replicas += router.reads_on_replicas - before
    shares = {name: round(several / count, 4) for name, several in stale.items()}
    return {"stale_share": shares, "tenfold_reads_on_replicas": round(on_replicas / count, 3)}


async def _promotions(
    topology: Topology, clients: dict[str, Client], rounds: int, within: float
) -> dict[str, list[int] | None]:
    """ms from the kill to each one's first write, a round each; who has not written is not asked again."""
    found: dict[str, list[int] | None] = {name: [] for name in clients}
    for turn in range(rounds):
        if turn:
            await topology.rejoin(topology.lost[0])
            for replica in topology.replicas:
                await replica.caught_up()
        began = time.monotonic()
        await topology.primary.kill()
        async with asyncio.TaskGroup() as group:
            group.create_task(topology.promote(topology.replicas[0]))
            tasks = {
                name: group.create_task(_first_write(clients[name], 8 + row, began + within))
                for row, name in enumerate(clients)
                if found[name] is not None
            }
        for name, task in tasks.items():
            wrote, before = task.result(), found[name] or []
            found[name] = None if wrote is None else [*before, round((wrote - began) * 1000)]
    return found


async def _first_write(client: Client, row: int, until: float) -> float | None:
    """The monotonic time when a write had returned that was tried until it did, None after ``until``."""
    try:
        async with asyncio.timeout_at(until):  # the loop's clock is the monotonic one
            while True:
                try:
                    await client.write(row, 1)
                except GONE:
                    await asyncio.sleep(0.005)
                else:
                    return time.monotonic()
    except TimeoutError:
        return None
