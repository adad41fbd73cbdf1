"""Level 1 under threads that switch as often as CPython can: values right, hits exact, books balanced."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tenfold.cache import Cache, Memory
from tenfold.cache.s3fifo import S3Fifo

THREADS = 4
TURNS = 4000
KEYS = 200


@pytest.fixture(params=[1e-6, 5e-3], ids=["tiny switch interval", "usual switch interval"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def together(work: Callable[[Random], Any]) -> list[Any]:
    """``work`` in several threads at once, each with randomness of its own."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        start.wait(10)
        return work(Random(number))

    with ThreadPoolExecutor(THREADS) as pool:
        return [one.result(60) for one in [pool.submit(run, number) for number in range(THREADS)]]


@pytest.mark.parametrize("policy", ["s3fifo", "lfu"])
@pytest.mark.usefixtures("switching")
def test_memory_is_exact_under_threads(policy: str) -> None:
    memory = Memory(50, max_bytes=60_000, policy=policy)

    def work(rng: Random) -> tuple[int, int]:
        found = missed = 0
        for turn in range(TURNS):
            key = min(rng.randrange(KEYS), rng.randrange(KEYS))
            value = memory.get(key)
            if value is None:
                missed += 1
                memory.set(key, (key, b"x" * rng.randrange(1000)), None if turn % 7 else 1e-9)
            else:
                found += 1
                assert value[0] == key
            if turn % 50 == 0:
                memory.delete(rng.randrange(KEYS))
            if turn % 1000 == 999:
                memory.clear()
        return found, missed

    counts = together(work)
    stats = memory.stats()
    assert stats.hits == sum(found for found, _ in counts) > TURNS
    assert stats.misses == sum(missed for _, missed in counts)
    living = list(memory._index.values())
    assert stats.entries == len(living) <= 50
    assert stats.bytes == sum(entry.size for entry in living) <= 60_000
    queues = memory._policy
    if isinstance(queues, S3Fifo):
        queued = [entry for entry in (*queues.small, *queues.main) if entry.mark >= -1]
        assert queues.dead == len(queues.small) + len(queues.main) - len(living)
    else:
        queued = [*queues._window.values(), *queues._probation.values(), *queues._protected.values()]
    assert sorted(map(id, queued)) == sorted(map(id, living))


@pytest.mark.parametrize("policy", ["s3fifo", "lfu"])
@pytest.mark.usefixtures("switching")
def test_a_decorated_function_is_exact_and_never_stale_under_threads(policy: str) -> None:
    """Each call is counted once, and none gives a value older than the last invalidation before it began."""
    cache = Cache("t", max_items=40, policy=policy)
    versions = [0] * 60  # what the "database" holds
    acknowledged = [0] * 60  # what everybody must see at least
    writing = threading.Lock()

    @cache("1m", tags=["n:{number}"])
    def f(number: int) -> int:
        return versions[number]

    def work(rng: Random) -> int:
        for turn in range(TURNS):
            number = min(rng.randrange(60), rng.randrange(60))
            least = acknowledged[number]
            assert f(number) >= least
            if turn % 20 == 0:
                with writing:
                    versions[number] += 1
                    if turn % 40:
                        f.invalidate(number)
                    else:
                        cache.forgetting.here([], [f"n:{number}"])
                    acknowledged[number] = versions[number]
        return TURNS

    calls = sum(together(work))
    stats = cache.stats()
    assert stats.hits + stats.misses + stats.coalesced == calls
    assert stats.hits > calls // 4
    assert stats.load_errors == 0
    assert len(f.__globals__["_tf_home"]) <= stats.entries <= 40  # type: ignore[attr-defined]


@pytest.mark.usefixtures("switching")
def test_several_event_loops_in_threads_share_the_values() -> None:
    cache = Cache("t", max_items=100)
    versions = [0] * 20
    acknowledged = [0] * 20

    @cache("1m", tags=["n:{number}"])
    async def f(number: int) -> int:
        await asyncio.sleep(0)
        return versions[number]

    writing = threading.Lock()

    async def use(rng: Random) -> None:
        for turn in range(500):
            number = rng.randrange(20)
            least = acknowledged[number]
            assert await f(number) >= least
            if turn % 20 == 0:
                with writing:
                    versions[number] += 1
                    cache.forgetting.here([f.key(number)] if turn % 40 else [], [] if turn % 40 else [f"n:{number}"])
                    acknowledged[number] = versions[number]
        await cache.aclose()

    together(lambda rng: asyncio.run(use(rng)))
    assert cache.stats().hits > 100


FORK = """
import os, sys, threading
from tenfold.cache import Memory
from tenfold.cache.tags import Barriers
memory, barriers = Memory(10), Barriers()
memory.set("a", 1)
held, leave = threading.Event(), threading.Event()
def hold():
    with memory.lock, barriers._lock:
        held.set()
        leave.wait(30)
thread = threading.Thread(target=hold)
thread.start()
held.wait(30)
pid = os.fork()
if pid == 0:
    memory.set("b", 2)  # would wait for ever for a thread that does not exist here
    barriers.invalidate(["t"])
    good = not barriers.good(1, ()) and barriers.good(barriers.epoch, ("t",))
    os._exit(0 if good and memory.get("b") == 2 and len(memory) <= 2 else 1)
leave.set()
thread.join()
assert memory.get("a") == 1
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_fork_while_another_thread_holds_the_lock_does_not_block_the_child() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=30, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
