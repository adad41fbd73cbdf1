import logging
import threading
import timeit
from dataclasses import FrozenInstanceError, dataclass

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub


@dataclass(frozen=True, slots=True)
class Happened(Event):
    what: str


@dataclass(frozen=True, slots=True)
class HappenedTwice(Happened):
    again: int = 2


@dataclass(frozen=True, slots=True)
class Other(Event):
    pass


@pytest.fixture
def hub():
    return Hub()


def test_a_subscriber_gets_its_type_and_derived_ones_in_order(hub):
    seen = []
    hub.subscribe(Event, lambda event: seen.append(("all", event)))
    hub.subscribe(Happened, lambda event: seen.append(("happened", event)))
    hub.subscribe(HappenedTwice, lambda event: seen.append(("twice", event)))
    events = Happened("x"), HappenedTwice("y"), Other()
    for event in events:
        hub.emit(event)
    assert seen == [
        ("all", events[0]),
        ("happened", events[0]),
        ("all", events[1]),
        ("happened", events[1]),
        ("twice", events[1]),
        ("all", events[2]),
    ]


def test_a_type_first_seen_before_a_subscription_is_routed_anew(hub):
    seen = []
    hub.subscribe(Other, seen.append)
    hub.emit(Happened("lost"))
    hub.subscribe(Happened, seen.append)
    hub.emit(Happened("kept"))
    assert seen == [Happened("kept")]


def test_cancel_ends_it_once_and_for_all(hub):
    seen = []
    subscription = hub.subscribe(Happened, seen.append)
    assert subscription.active
    subscription.cancel()
    subscription.cancel()
    hub.emit(Happened("x"))
    assert not subscription.active
    assert seen == []
    with hub.subscribe(Happened, seen.append):
        hub.emit(Happened("inside"))
    hub.emit(Happened("outside"))
    assert seen == [Happened("inside")]


def test_the_same_handler_subscribed_twice_is_two_subscriptions(hub):
    seen = []
    first = hub.subscribe(Happened, seen.append)
    hub.subscribe(Happened, seen.append)
    hub.emit(Happened("x"))
    first.cancel()
    hub.emit(Happened("y"))
    assert [event.what for event in seen] == ["x", "x", "y"]


def test_a_failing_handler_harms_nobody_and_is_reported_once(hub, caplog):
    seen = []
    broken = hub.subscribe(Happened, lambda event: 1 / 0)
    hub.subscribe(Happened, seen.append)
    with caplog.at_level(logging.ERROR, "tenfold.events"):
        for _ in range(3):
            hub.emit(Happened("x"))
    assert len(seen) == 3
    assert (broken.failures, hub.failures) == (3, 3)
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text
    assert repr(broken) == "<Subscription Happened active failures=3>"


def test_a_handler_may_interrupt_the_program(hub):
    def stop(event):
        raise KeyboardInterrupt

    hub.subscribe(Happened, stop)
    with pytest.raises(KeyboardInterrupt):
        hub.emit(Happened("x"))


def test_handlers_may_change_the_subscriptions_while_an_event_is_under_way(hub):
    seen = []

    def once(event):
        seen.append("once")
        subscription.cancel()
        hub.subscribe(Happened, lambda event: seen.append("late"))

    subscription = hub.subscribe(Happened, once)
    hub.emit(Happened("x"))
    assert seen == ["once"]
    hub.emit(Happened("x"))
    assert seen == ["once", "late"]


def test_wants_tells_whether_building_an_event_is_worth_it(hub):
    assert not hub.wants(HappenedTwice)
    with hub.subscribe(Happened, print):
        assert hub.wants(HappenedTwice)
        assert not hub.wants(Other)
    assert not hub.wants(HappenedTwice)


def test_what_makes_no_sense_is_refused(hub):
    async def later(event):
        pass

    with pytest.raises(MisuseError, match="plain function"):
        hub.subscribe(Happened, later)
    with pytest.raises(MisuseError, match="plain function"):
        hub.subscribe(Happened, None)
    for kind in (int, "Happened", Happened("x")):
        with pytest.raises(MisuseError, match="event type"):
            hub.subscribe(kind, print)


def test_events_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Happened("x").what = "y"


def test_emitting_without_a_subscriber_costs_next_to_nothing(hub):
    event = Happened("x")
    calls = 20_000
    ours = min(timeit.repeat(lambda: hub.emit(event), number=calls, repeat=5))
    nothing = min(timeit.repeat(lambda: len(()), number=calls, repeat=5))
    assert ours < 10 * nothing


def test_threads_that_subscribe_cancel_and_emit_at_once_lose_nothing(hub):
    counts = [0] * 4
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            hub.subscribe(Happened, lambda event: None).cancel()

    def emit(n):
        with hub.subscribe(Other, lambda event: None):
            for _ in range(3000):
                hub.emit(Happened("x"))

    def count(event):
        counts[0] += 1

    lock = threading.Lock()

    def locked(event):
        with lock:
            count(event)

    hub.subscribe(Happened, locked)
    churners = [threading.Thread(target=churn) for _ in range(2)]
    emitters = [threading.Thread(target=emit, args=(n,)) for n in range(3)]
    for thread in (*churners, *emitters):
        thread.start()
    for thread in emitters:
        thread.join()
    stop.set()
    for thread in churners:
        thread.join()
    assert counts[0] == 9000
    assert repr(hub) == "<Hub subscriptions=1 failures=0>"


def test_there_is_a_default_hub():
    assert isinstance(EVENTS, Hub)
