"""Plain functions: they stay plain, load once however many threads ask, and keep the rules of invalidation."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.cache.codec import Codec
from tenfold.cache.counters import Counters
from tenfold.cache.freshness import Freshness
from tenfold.cache.lookup import Spec
from tenfold.cache.memory import Memory
from tenfold.cache.shared import Shared
from tenfold.cache.tags import Barriers
from tenfold.cache.threads import Threads

PATIENCE = 10.0


class Gate:
    """A loader that waits to be let through."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def load(self, argument: Any) -> int:
        self.calls.append(argument)
        number = len(self.calls)
        self.entered.release()
        assert self.open.wait(PATIENCE)
        return number


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    tick, ticks = threading.Event(), 0
    while not condition():
        ticks += 1
        assert ticks < PATIENCE * 1000, "it did not happen"
        tick.wait(0.001)


def gated(**options: Any) -> tuple[Cache, Gate, Any]:
    cache, gate = Cache("t"), Gate()

    @cache("1m", **options)
    def f(a: int) -> int:
        return gate.load(a)

    return cache, gate, f


def test_it_stays_a_plain_function() -> None:
    cache = Cache("t")
    calls = 0

    @cache("1m", name="f")
    def f(a: int, b: str = "x") -> int:
        """Doc."""
        nonlocal calls
        calls += 1
        return calls

    assert not inspect.iscoroutinefunction(f)
    assert (f.__name__, f.__doc__) == ("f", "Doc.")
    assert [f(1), f(1, "x"), f(b="x", a=1)] == [1, 1, 1]
    assert f.key(1) == 'f(1,"x")'
    assert [f.refresh(1), f(1)] == [2, 2]
    assert f.invalidate(1)
    assert f(1) == 3
    assert (cache.stats().loads, cache.stats().hits) == (3, 3)


def test_many_threads_one_load() -> None:
    cache, gate, f = gated()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(f, 1) for _ in range(8)]
        until(lambda: cache.stats().coalesced == 7)
        gate.open.set()
        assert [one.result(PATIENCE) for one in answers] == [1] * 8
    assert gate.calls == [1]
    assert f(1) == 1


def test_an_error_reaches_each_thread_and_is_not_cached() -> None:
    cache = Cache("t")
    gate, calls = threading.Event(), 0

    @cache("1m")
    def f() -> int:
        nonlocal calls
        calls += 1
        assert gate.wait(PATIENCE)
        if calls == 1:
            raise LookupError("no")
        return calls

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(f) for _ in range(4)]
        until(lambda: cache.stats().coalesced == 3)
        gate.set()
        assert [type(one.exception(PATIENCE)) for one in answers] == [LookupError] * 4
    assert f() == 2
    assert (cache.stats().load_errors, cache.stats().loads) == (1, 2)


@pytest.mark.parametrize("how", ["key", "tag", "clear", "refresh"])
def test_what_was_invalidated_during_its_load_does_not_survive(how: str) -> None:
    cache, gate, f = gated(tags=["a:{a}"])
    with ThreadPoolExecutor(3) as pool:
        before = pool.submit(f, 1)
        assert gate.entered.acquire(timeout=PATIENCE)
        newer: Future[int] | None = None
        if how == "key":
            f.invalidate(1)
        elif how == "tag":
            asyncio.run(cache.invalidate_tags("a:1"))
        elif how == "clear":
            asyncio.run(cache.clear())
        else:
            newer = pool.submit(f.refresh, 1)
        after = newer or pool.submit(f, 1)  # must not join the load that began before
        assert gate.entered.acquire(timeout=PATIENCE)
        gate.open.set()
        assert (before.result(PATIENCE), after.result(PATIENCE)) == (1, 2)
    assert f(1) == 2
    assert len(gate.calls) == 2
    assert cache.stats().refused == 1


def test_a_function_that_asks_for_itself_does_not_wait_for_itself() -> None:
    cache = Cache("t")
    depth = 0

    @cache("1m")
    def f(a: int) -> int:
        nonlocal depth
        depth += 1
        return 1 if depth == 2 else 10 + int(f(a))

    assert f(1) == 11


def test_who_waits_too_long_loads_for_itself(clock: Any) -> None:
    """Two loads that wait for each other come to an end."""
    memory, counters = Memory(10, clock=clock), Counters()
    shared = Shared(memory=memory, barriers=Barriers(), counters=counters, clock=clock, random=Random(1))
    threads = Threads(shared, jitter=0.0, patience=0.01)
    spec = Spec(name="f", memory=True, codec=Codec(Any, "f"), fresh=Freshness(ttl=60.0))
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(threads.fetch, spec, "k", (), lambda: gate.load("first"))
        assert gate.entered.acquire(timeout=PATIENCE)
        assert threads.fetch(spec, "k", (), lambda: "mine") == "mine"
        gate.open.set()
        assert first.result(PATIENCE) == 1
    assert memory.get("k") == "mine"  # the younger load's
    assert (counters.loads, counters.coalesced, counters.refused) == (2, 1, 1)


def test_a_loader_that_is_broken_off_leaves_nobody_waiting() -> None:
    cache, entered = Cache("t"), threading.Event()
    open_ = threading.Event()

    @cache("1m")
    def f() -> int:
        entered.set()
        assert open_.wait(PATIENCE)
        raise SystemExit

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(f)
        assert entered.wait(PATIENCE)
        second = pool.submit(f)
        until(lambda: cache.stats().coalesced == 1)
        open_.set()
        assert isinstance(first.exception(PATIENCE), SystemExit)
        assert "was broken off" in str(second.exception(PATIENCE))
