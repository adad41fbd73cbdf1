"""Write-then-read pairs on real servers whose replay stops and goes at random: none is stale, replicas serve them."""

from __future__ import annotations

from typing import Any

import pytest

from bench._db_causality import KEYS, Pairs, causal_reads, pairs, prepare, shaken
from tenfold._core.rng import derive
from tenfold.db.causal_asgi import CausalityMiddleware
from tenfold.db.causal_read import CausalOptions, CausalReads
from tenfold.db.causality import Causality, causality
from tenfold.db.token import Token
from tenfold.servers import Topology


async def run(topology: Topology, count: int, *, seed: int, **options: bool) -> tuple[Pairs, CausalReads]:
    await topology.revive()
    await prepare(topology)
    async with (
        causal_reads(topology.primary, topology.replicas, seed=seed) as reads,
        shaken(topology.replicas, seed=seed),
    ):
        return await pairs(reads, count, **options), reads


def on_replicas(found: Pairs, reads: CausalReads) -> float:
    return (reads.counters.at_once + reads.counters.there) / found.reads


async def test_no_read_with_a_token_is_stale_and_replicas_serve_most(topology: Topology) -> None:
    found, reads = await run(topology, 2000, seed=11)
    assert (found.reads, found.stale, found.captures) == (2000, 0, 2000)
    assert on_replicas(found, reads) >= 0.6, reads
    assert reads.counters.at_once > 100, reads  # the way without a round trip is taken
    assert reads.counters.behind > 0, reads  # and so is the way past a replica that does not arrive


async def test_without_tokens_the_same_reads_are_stale(topology: Topology) -> None:
    """The control: else the tests above could not fail."""
    found, _ = await run(topology, 800, seed=12, tokens=False)
    assert found.stale >= 20, found


async def test_asynchronous_commits_are_seen_too(topology: Topology) -> None:
    """Such a commit lies behind the written position when it returns; the token must not."""
    found, _ = await run(topology, 304, seed=13, asynchronous=True)
    assert (found.reads, found.stale) == (304, 0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_a_hundred_thousand_pairs(topology: Topology) -> None:
    found, reads = await run(topology, 100_000, seed=14)
    assert (found.reads, found.stale) == (100_000, 0)
    assert on_replicas(found, reads) >= 0.6, reads


async def test_a_token_travels_through_a_browser_and_a_job(topology: Topology) -> None:
    """The middleware on real servers: while replicas stand still, who carries the token reads from the primary."""
    await topology.revive()
    await prepare(topology)
    async with causal_reads(topology.primary, topology.replicas, seed=17) as reads:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["method"] == "POST":
                async with reads.begin() as connection:
                    await connection.exec_driver_sql("UPDATE pairs SET version = 42 WHERE id = 1")
            async with reads.connect() as connection:
                rows = await connection.exec_driver_sql("SELECT version FROM pairs WHERE id = 1")
                body = str(rows.scalar_one()).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

        middleware = CausalityMiddleware(app, keys=KEYS)

        async def ask(method: str, *headers: tuple[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await middleware({"type": "http", "method": method, "headers": headers}, None, send)  # type: ignore[arg-type]
            return sent[1]["body"], dict(sent[0]["headers"])

        for replica in topology.replicas:
            await replica.pause_replay()
        try:
            body, answered = await ask("POST")
            assert body == b"42"
            cookie = answered[b"set-cookie"].split(b";")[0]
            assert await ask("GET", (b"cookie", cookie)) == (b"42", {})
            assert (await ask("GET"))[0] == b"0"  # somebody else may see what was
            job = {"sku": 7, "causality": answered[b"tenfold-causality"].decode()}
            with causality(KEYS.read(str(job["causality"]))):
                async with reads.connect() as connection:
                    rows = await connection.exec_driver_sql("SELECT version FROM pairs WHERE id = 1")
                    assert rows.scalar_one() == 42
        finally:
            for replica in topology.replicas:
                await replica.resume_replay()
        for replica in topology.replicas:
            await replica.caught_up()
        primary = reads.counters.primary
        assert await ask("GET", (b"cookie", cookie)) == (b"42", {})
        assert reads.counters.primary == primary  # from a replica, now that it has it


async def backward_steps(topology: Topology, *, monotonic: bool, seed: int) -> tuple[int, CausalReads]:
    """One scope reads a row that another client raises all the time; how often does it see an older version?"""
    await topology.revive()
    await prepare(topology)
    options = CausalOptions(monotonic=monotonic)
    back = newest = 0
    random = derive(seed, "writes")
    async with (
        causal_reads(topology.primary, topology.replicas, seed=seed, options=options) as reads,
        shaken(topology.replicas, seed=seed),
    ):
        scope_token: Token | None = None
        version = 0
        for _ in range(250):
            for _ in range(random.randrange(3)):
                version += 1
                async with reads.begin() as connection:
                    await connection.exec_driver_sql("UPDATE pairs SET version = $1 WHERE id = 1", (version,))
            with causality(scope_token) as scope:
                async with reads.connect() as connection:
                    seen = (await connection.exec_driver_sql("SELECT version FROM pairs WHERE id = 1")).scalar_one()
            scope_token = scope.wanted()
            back += seen < newest
            newest = max(newest, seen)
    return back, reads


async def test_monotonic_reads_never_go_back_and_others_do(topology: Topology) -> None:
    back, reads = await backward_steps(topology, monotonic=True, seed=15)
    assert back == 0
    assert reads.counters.at_once + reads.counters.there > 100, reads
    back, _ = await backward_steps(topology, monotonic=False, seed=15)
    assert back > 0  # the control


async def test_a_scope_that_only_reads_asks_nobody(topology: Topology) -> None:
    await topology.revive()
    await prepare(topology)
    async with causal_reads(topology.primary, topology.replicas, seed=16) as reads:
        with causality() as scope:
            for _ in range(10):
                async with reads.connect():
                    pass
        assert (scope.captures, scope.commits) == (0, 0)
        assert isinstance(scope, Causality)
        assert sum(one.asked for one in reads.replayed.values()) == 0
        assert reads.counters.free == 10
