"""The registry: weak, one of a name, safe while others come and go."""

import gc
import json
import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.registry import Registry


class Member:
    def __init__(self, name, **state):
        self.name = name
        self._state = state

    def state(self):
        return dict(self._state)


def test_it_finds_the_living_by_name():
    registry = Registry()
    first, second = Member("a", calls=1), Member("b", calls=2)
    registry.add(first)
    registry.add(second)
    registry.add(first)  # twice is once
    assert registry.get("a") is first
    assert registry.get("c") is None
    assert registry.get("c", 7) == 7
    assert list(registry) == [first, second]
    assert registry.names() == ["a", "b"]
    assert first in registry
    assert Member("a") not in registry
    assert json.loads(json.dumps(registry.state())) == {"a": {"calls": 1}, "b": {"calls": 2}}
    assert repr(registry) == "<Registry of a, b>"
    assert repr(Registry()) == "<Registry of nobody>"
    assert Registry()


def test_it_keeps_nobody_alive():
    registry = Registry()
    registry.add(Member("a"))
    assert len(registry) == 0
    assert registry.get("a") is None
    registry.add(second := Member("a"))
    assert registry.get("a") is second


def test_two_living_ones_of_a_name_are_refused_with_a_sentence():
    registry = Registry()
    registry.add(first := Member("payments"))
    with pytest.raises(MisuseError, match="policy 'payments': expected a name of its own, got that of a living policy"):
        registry.add(Member("payments"))
    assert registry.get("payments") is first
    Registry().add(Member("payments"))  # another registry is another matter


def test_one_that_only_a_cycle_keeps_does_not_live():
    registry = Registry()
    gc.disable()
    try:
        first = Member("a")
        first.itself = first
        registry.add(first)
        del first
        registry.add(second := Member("a"))
    finally:
        gc.enable()
    assert registry.get("a") is second


def test_discarded_its_name_is_free():
    registry = Registry()
    registry.add(first := Member("a"))
    registry.discard(Member("a"))
    assert registry.get("a") is first
    registry.discard(first)
    assert registry.get("a") is None


def test_the_dead_do_not_pile_up():
    registry = Registry()
    for number in range(10_000):
        registry.add(Member(f"policy-{number}"))
    assert len(registry._members) <= 64


def test_members_may_die_and_come_while_others_are_read():
    """Half of the members are cycles, so that the collector drops them at a moment of its own, in any thread."""
    registry, errors, stop = Registry(), [], threading.Event()
    keep = [Member(f"kept-{number}") for number in range(50)]
    for member in keep:
        registry.add(member)

    def read():
        while not stop.is_set():
            try:
                assert set(registry.names()) >= {member.name for member in keep}
                registry.state()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test shows it
                errors.append(exc)
                return

    def write(worker):
        for number in range(1500):
            member = Member(f"{worker}-{number}")
            if number % 2:
                member.itself = member
            registry.add(member)

    threshold = gc.get_threshold()
    gc.set_threshold(20)
    try:
        readers = [threading.Thread(target=read) for _ in range(2)]
        writers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join(60)
        stop.set()
        for thread in readers:
            thread.join(60)
    finally:
        gc.set_threshold(*threshold)
    assert errors == []
    gc.collect()
    assert set(registry.names()) == {member.name for member in keep}


def test_of_many_threads_that_claim_one_name_one_gets_it():
    registry, won = Registry(), []
    barrier = threading.Barrier(8)

    def claim():
        member = Member("payments")
        barrier.wait(10)
        try:
            registry.add(member)
        except MisuseError:
            return
        won.append(member)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert registry.get("payments") is won[0]


def test_a_finalizer_that_makes_a_policy_does_not_lock_up():
    registry, made = Registry(), []

    class Last(Member):
        def __del__(self):
            made.append(Member("from the finalizer"))
            registry.add(made[0])

    last = Last("a")
    last.itself = last
    registry.add(last)
    del last
    registry.add(Member("a"))  # collects under way
    assert made
    assert registry.get("from the finalizer") is made[0]


def test_nor_does_one_that_runs_while_the_lock_is_held():
    """A collection can happen at any object made. Here it happens where the name is looked up, under the lock."""
    registry, made = Registry(), []

    class Name(str):
        __slots__ = ()

        def __hash__(self):
            gc.collect()
            return str.__hash__(self)

    class Last(Member):
        def __del__(self):
            made.append(Member("from the finalizer"))
            registry.add(made[0])

    def add():
        last = Last("garbage")
        last.itself = last
        del last
        registry.add(named)

    named = Member(Name("a"))
    gc.disable()
    thread = threading.Thread(target=add, daemon=True)
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert registry.names() == ["from the finalizer", "a"]  # the first came in while the second was on its way
