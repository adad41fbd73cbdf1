"""Plain functions on a real Valkey: what coroutines get, for threads; the loader stays in the thread that called."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache, LoadCancelled, LoadTimeout, load_context
from tenfold.servers import Valkey

PATIENCE = 10.0


class Origin:
    """Counts loads and the threads they ran in; holds them back until it is opened."""

    def __init__(self) -> None:
        self.loads = 0
        self.threads: list[str] = []
        self.error: BaseException | None = None
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def load(self) -> int:
        self.loads += 1
        number = self.loads
        self.threads.append(threading.current_thread().name)
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return number


@contextmanager
def processes(url: str | None, count: int, origin: Origin, **options: Any) -> Iterator[tuple[list[Cache], list[Any]]]:
    caches = [Cache("shop", redis=url, timeout="2s", jitter=0) for _ in range(count)]
    functions = []
    for cache in caches:

        @cache("1h", name="f", tags=["t:{a}"], **options)
        def f(a: int) -> int:
            return origin.load()

        functions.append(f)
        cache.__enter__()
    try:
        yield caches, functions
    finally:
        origin.open.set()
        for cache in caches:
            cache.close()


def until(condition: Callable[[], bool]) -> None:
    tick, end = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        tick.wait(0.002)


def age(cache: Cache, url: str | None, seconds: float = 3700) -> None:
    """Its value of 1 is stale, in both levels."""
    entry = cache._memory._index["f(1)"]
    entry.life.fresh_until -= seconds
    entry.until = entry.life.fresh_until
    if url is not None:
        with redis.Redis.from_url(url) as client:
            record: Any = client.get("tenfold:1:shop:e:f(1)")
            expiry = b"%013d" % (int(record[9:22]) - int(seconds * 1000))
            client.set("tenfold:1:shop:e:f(1)", record[:9] + expiry + record[22:], keepttl=True)


def test_processes_share_what_one_of_them_has_loaded(valkey_sync: str) -> None:
    origin = Origin()
    with processes(valkey_sync, 2, origin) as ((first, second), (f, g)):
        assert [f(1), f(1), g(1), g(1)] == [1] * 4
        assert origin.threads == [threading.current_thread().name]
        assert (second.stats().l2_hits, second.stats().hits, second.stats().loads) == (1, 1, 0)
        assert f(a=2) == 2
        assert f.invalidate(1)
        until(lambda: second.stats().remote_invalidations == 1)
        assert [g(1), f(1)] == [3, 3]
        assert g.refresh(1) == 4
        until(lambda: first.stats().remote_invalidations >= 1)
        assert f(1) == 4
        assert first.run(first.invalidate_tags("t:1"))
        assert f(1) == 5


def test_one_load_however_many_threads_ask_in_two_processes(valkey_sync: str) -> None:
    origin = Origin()
    origin.open.clear()
    with processes(valkey_sync, 2, origin) as (caches, (f, g)), ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(one, 1) for one in (f, g) for _ in range(10)]
        assert origin.entered.wait(PATIENCE)
        until(lambda: sum(cache.stats().coalesced for cache in caches) == 18)
        origin.open.set()
        assert [call.result(PATIENCE) for call in calls] == [1] * 20
        assert origin.loads == 1


def test_an_error_reaches_each_and_is_not_kept(valkey_sync: str) -> None:
    origin = Origin()
    origin.open.clear()
    origin.error = LookupError("down")
    with processes(valkey_sync, 1, origin) as ((cache,), (f,)), ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(f, 1) for _ in range(5)]
        until(lambda: cache.stats().coalesced == 4)
        origin.open.set()
        for call in calls:
            with pytest.raises(LookupError, match="down"):
                call.result(PATIENCE)
        assert origin.loads == 1
        origin.error = None
        assert f(1) == 2


def test_an_interrupted_loader_cancels_the_load_for_the_others(valkey_sync: str) -> None:
    origin = Origin()
    origin.open.clear()
    origin.error = KeyboardInterrupt()
    with processes(valkey_sync, 1, origin) as ((cache,), (f,)), ThreadPoolExecutor(1) as pool:

        def interrupted() -> None:
            with pytest.raises(KeyboardInterrupt):
                f(1)

        owner = threading.Thread(target=interrupted)
        owner.start()
        assert origin.entered.wait(PATIENCE)
        waiter = pool.submit(f, 1)
        until(lambda: cache.stats().coalesced == 1)
        origin.open.set()
        owner.join(PATIENCE)
        with pytest.raises(LoadCancelled):
            waiter.result(PATIENCE)
        origin.error = None
        assert f(1) == 2


@pytest.mark.parametrize("level2", [True, False])
def test_stale_values_are_served_and_refreshed_elsewhere(valkey_sync: str, level2: bool) -> None:
    origin = Origin()
    url = valkey_sync if level2 else None
    with processes(url, 1, origin, stale="2h") as ((cache,), (f,)):
        assert f(1) == 1
        age(cache, url)
        origin.open.clear()
        assert [f(1), f(1)] == [1, 1]
        until(lambda: origin.loads == 2)
        origin.open.set()
        until(lambda: f(1) == 2)
        assert origin.loads == 2
        assert origin.threads[0] == threading.current_thread().name
        assert origin.threads[1].startswith("tenfold-cache-shop-load")


def test_soft_and_hard_time_outs(valkey_sync: str) -> None:
    origin = Origin()
    options = {"stale": "2h", "soft_timeout": "50ms", "hard_timeout": "300ms"}
    with processes(valkey_sync, 1, origin, **options) as ((cache,), (f,)):
        assert f(1) == 1
        age(cache, valkey_sync)
        origin.open.clear()
        assert f(1) == 1  # after 50 ms, while the loader still sleeps
        assert cache.stats().stale_rescues == 1
        with pytest.raises(LoadTimeout):
            f(2)
        origin.open.set()


def test_the_loader_knows_its_load(valkey_sync: str) -> None:
    with Cache("shop", redis=valkey_sync, timeout="2s", jitter=0) as cache:

        @cache("1h", name="f", stale="1h")
        def f(a: int) -> int:
            ctx = load_context()
            ctx.etag = "v1"
            return ctx.not_modified() if ctx.has_stale else 7

        assert f(1) == 7
        assert f.refresh(1) == 7
        assert cache._memory._index["f(1)"].life.etag == "v1"


def test_values_in_level_two_alone(valkey_sync: str) -> None:
    origin = Origin()
    with processes(valkey_sync, 2, origin, memory=False) as (_, (f, g)):
        assert [f(1), g(1)] == [1, 1]
        assert g.invalidate(1)
        assert [f(1), g(1)] == [2, 2]  # without a message, and without a copy


def test_the_thread_of_the_loop_is_refused(valkey_sync: str) -> None:
    origin = Origin()
    with processes(valkey_sync, 1, origin) as ((cache,), (f,)):

        async def inside() -> int:
            value: int = f(1)
            return value

        with pytest.raises(MisuseError, match="in the very thread that would have to answer it"):
            cache.run(inside())
        assert asyncio.run(inside()) == 1  # another loop's thread may: it blocks, as plain functions do


def test_loads_that_wait_for_each_other_end(valkey_sync: str) -> None:
    with Cache("shop", redis=valkey_sync, timeout="2s") as cache, ThreadPoolExecutor(2) as pool:
        cache.bridge._patience = 0.3
        meeting = threading.Barrier(2)
        depth = threading.local()

        @cache("1h", name="f")
        def f(a: int) -> int:
            if not getattr(depth, "inside", False):
                depth.inside = True
                meeting.wait(PATIENCE)
                return f(1 - a) + 1
            return 10

        calls = [pool.submit(f, a) for a in (0, 1)]
        assert sorted(call.result(PATIENCE) for call in calls) == [11, 11]


def test_closing_ends_the_threads_and_it_may_be_used_again(valkey_sync: str) -> None:
    origin = Origin()
    with processes(valkey_sync, 1, origin) as ((cache,), (f,)):
        assert f(1) == 1
        assert any(thread.name == "tenfold-cache-shop" for thread in threading.enumerate())
        cache.close()
        assert not any(thread.name == "tenfold-cache-shop" for thread in threading.enumerate())
        assert len(cache._memory) == 0  # nobody would hear of invalidations
        assert f(1) == 1
        assert (origin.loads, cache.stats().l2_hits) == (1, 1)


def test_a_server_that_freezes_or_goes_holds_nobody_up() -> None:
    origin = Origin()
    with asyncio.Runner() as runner:
        server = Valkey()
        runner.run(server.start())
        try:
            with Cache("shop", redis=server.url, jitter=0) as cache:

                @cache("1h", name="f")
                def f(a: int) -> int:
                    return origin.load()

                assert f(0) == 1
                runner.run(server.pause())
                began = time.monotonic()
                assert [f(0), *[f(a) for a in range(1, 40)]] == [1, *range(2, 41)]
                assert time.monotonic() - began < 1.5  # one time-out of 50 ms, and 39 loads
                runner.run(server.resume())
                until(lambda: cache.stats().l2_up)
                assert f(100) == 41
        finally:
            runner.run(server.close())


_FORK = """
import os, sys
from tenfold.cache import Cache

cache = Cache("shop", redis=sys.argv[1], timeout="2s")
loads = []

@cache("1h", name="f")
def f(a: int) -> int:
    loads.append(a)
    return os.getpid()

with cache:
    parent = f(1)
    assert parent == os.getpid()
    pid = os.fork()
    if pid == 0:
        # What the parent has is not trusted without a subscription of one's own; level 2 has it.
        ok = f(1) == parent and f(2) == os.getpid() and loads == [1, 2] and f.invalidate(1)
        cache.close()
        os._exit(0 if ok else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    while f(1) != os.getpid() or loads != [1, 1]:
        pass
    assert f(2) == pid
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_has_a_thread_and_connections_of_its_own(valkey_sync: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, valkey_sync], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
