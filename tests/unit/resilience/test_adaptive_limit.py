"""`AdaptivePlaces`, one property of the experiment at a time; whole overloads are in test_adaptive_simulated."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.adaptive import AdaptiveLimit, AdaptivePlaces, LimitMoved
from tenfold.resilience.errors import Overloaded


def flood(places: AdaptivePlaces, rounds: int, latency: Any, ok: bool | None = True, now: float = 0.0) -> float:
    """As many calls as are let in, all the time: each that ends makes room for the next. ``latency`` of the calls in
    flight at admission."""
    running: deque[tuple[float, Any]] = deque()
    for _ in range(rounds):
        while True:
            try:
                token = places.enter(now)
            except Overloaded:
                break
            running.append((now + latency(places.in_flight), token))
        due, token = running.popleft()
        now = max(now, due)
        places.leave(token, now, ok)
    for due, token in running:
        now = max(now, due)
        places.leave(token, now, None)
    return now


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"initial": 0}, "1 or more"),
        ({"initial": 5, "minimum": 6}, "minimum <= initial <= maximum"),
        ({"maximum": 19}, "minimum <= initial <= maximum"),
        ({"initial": 2.5}, "whole number"),
        ({"tolerance": 1.0}, r"0\.1 … 0\.95"),
        ({"tolerance": "200%"}, "between 0 and 1"),
        ({"smoothing": 0}, "above 0"),
        ({"smoothing": "a lot"}, "share"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MisuseError, match=says) as refusal:
        AdaptiveLimit(**options)
    assert "\n" not in str(refusal.value)


def test_options_as_a_file_has_them() -> None:
    limit = AdaptiveLimit(tolerance="80%", smoothing="5%")
    assert (limit.tolerance, limit.smoothing) == (0.8, 0.05)


def test_beyond_the_limit_calls_are_turned_away_with_a_usual_round_trip() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=2, maximum=2), name="shop")
    first, second = places.enter(0.0), places.enter(0.0)
    with pytest.raises(Overloaded) as refusal:
        places.enter(0.0)
    assert (refusal.value.policy, refusal.value.retry_after) == ("shop", None)
    places.leave(first, 0.25, True)
    places.enter(0.3)
    with pytest.raises(Overloaded) as refusal:
        places.enter(0.3)
    assert refusal.value.retry_after == 0.25
    places.leave(second, 1.0, None)
    assert places.in_flight == 1
    assert places.refused == 2


def test_it_grows_while_more_at_once_costs_no_latency() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=10, maximum=400))
    flood(places, 60_000, lambda crowd: 0.01)
    assert places.limit > 300
    assert places.elasticity == pytest.approx(0.0, abs=0.01)


def test_it_shrinks_while_more_at_once_is_only_slower() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=200))
    flood(places, 60_000, lambda crowd: 0.001 * crowd)
    assert places.limit < 50
    assert places.elasticity == pytest.approx(1.0, abs=0.1)


def test_it_finds_the_knee() -> None:
    for initial in (10, 100):
        places = AdaptivePlaces(AdaptiveLimit(initial=initial))
        flood(places, 60_000, lambda crowd: 0.01 * max(1.0, crowd / 40))
        assert 34 <= places.limit <= 46


def test_time_outs_never_make_it_grow() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=50))
    highest = 0.0
    now = 0.0
    for _ in range(40):
        now = flood(places, 25, lambda crowd: 1.0, ok=False, now=now)
        highest = max(highest, places.limit)
    assert highest < 50
    assert places.limit == 1.0
    assert places.lost == 1000


def test_losses_in_a_row_take_half_a_place_each_and_what_says_nothing_takes_none() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=10))
    after = []
    for call in range(12):
        places.leave(places.enter(float(call)), call + 0.5, False)
        after.append(places.limit)
    assert after == [10.0] * 7 + [9.5, 9.0, 8.5, 8.0, 7.5]  # seven among the 256 of late may be habit
    places.leave(places.enter(20.0), 21.0, None)
    assert places.limit == 7.5
    assert places.in_flight == 0


@pytest.mark.parametrize("every", [100, 50])
def test_a_dependency_with_a_habit_of_losing_a_call_now_and_then_is_not_crushed(every: int) -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=20, maximum=60))
    now = 0.0
    for _ in range(800):
        now = flood(places, every - 1, lambda crowd: 0.01, now=now)
        now = flood(places, 1, lambda crowd: 0.01, ok=False, now=now)
    assert places.lost == 800
    assert places.limit > 40


def test_losses_beyond_a_habit_forbid_growth() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=20, maximum=60))
    now, highest = 0.0, 0.0
    for _ in range(20):  # let it know that they are beyond
        now = flood(places, 1, lambda crowd: 0.01, ok=False, now=now)
    for _ in range(400):
        now = flood(places, 19, lambda crowd: 0.01, now=now)
        now = flood(places, 1, lambda crowd: 0.01, ok=False, now=now)
        highest = max(highest, places.limit)
    assert highest <= 20
    assert places.limit < 10


def test_idle_it_stays_where_it_is() -> None:
    """One call after another is no evidence that a hundred at once would do."""
    places = AdaptivePlaces(AdaptiveLimit(initial=20))
    for call in range(50_000):
        places.leave(places.enter(call * 0.02), call * 0.02 + 0.01, True)
    assert places.limit == 20.0
    assert places.experiments == 0


def test_a_dependency_that_gets_slower_of_its_own_accord_does_not_shrink_it() -> None:
    """Ten times slower in the middle, whatever the load: concurrency did not cause it, so it is no reason."""
    places = AdaptivePlaces(AdaptiveLimit(initial=30, maximum=60))
    now = flood(places, 20_000, lambda crowd: 0.01)
    before = places.limit
    lowest = before
    for _ in range(40):
        now = flood(places, 500, lambda crowd: 0.1, now=now)
        lowest = min(lowest, places.limit)
    assert lowest > 0.75 * before
    assert places.limit > 0.9 * before


def test_a_trend_is_no_correlation() -> None:
    """Each call a bit slower than the one before, for a long time. The order of the phases alternates, so that the
    trend counts against growth as often as for it."""
    places = AdaptivePlaces(AdaptiveLimit(initial=40, maximum=60))
    slow = 0.01

    def latency(crowd: int) -> float:
        nonlocal slow
        slow *= 1.0002
        return slow

    flood(places, 40_000, latency)
    assert slow > 10
    assert places.limit > 35


def test_the_limit_in_force_is_never_far_from_the_estimate_so_nothing_is_drained() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=40))
    lowest, now = 1.0, 0.0
    for _ in range(4000):
        now = flood(places, 5, lambda crowd: 0.01 * max(1.0, crowd / 40), now=now)
        lowest = min(lowest, places.in_force / places.limit)
    assert lowest > 0.85


@pytest.mark.parametrize(("minimum", "maximum"), [(1, 1), (1, 2), (3, 3), (7, 9)])
def test_the_bounds_hold_for_what_is_in_force(minimum: int, maximum: int) -> None:
    places = AdaptivePlaces(AdaptiveLimit(minimum=minimum, maximum=maximum, initial=minimum))
    seen = set()
    now = 0.0
    for turn in range(600):
        ok = turn % 200 < 150  # losses between growth
        now = flood(places, 20, lambda crowd: 0.01, ok=ok, now=now)
        seen.add(places.in_force)
    assert minimum <= min(seen)
    assert max(seen) <= maximum


def test_reconfigure_keeps_the_estimate_within_the_new_bounds() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=100))
    token = places.enter(0.0)
    places.reconfigure(AdaptiveLimit(initial=10, maximum=50))
    assert (places.limit, places.in_flight) == (50.0, 1)
    assert places.in_force <= 50
    places.leave(token, 1.0, True)
    assert places.in_flight == 0


def test_state_and_repr_tell_what_a_person_would_ask() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=20), name="shop")
    places.enter(0.0)
    state = places.state()
    assert state["elasticity"] is None  # JSON knows no NaN
    assert (state["limit"], state["in_flight"], state["admitted"]) == (20.0, 1, 1)
    assert repr(places) == "<AdaptivePlaces 'shop' 1 of 18 in flight, limit=20.0>"


def test_moves_are_told_in_whole_places() -> None:
    hub, told = Hub(), []
    hub.subscribe(LimitMoved, told.append)
    places = AdaptivePlaces(AdaptiveLimit(initial=10), name="shop", hub=hub)
    for call in range(11):
        places.leave(places.enter(float(call)), call + 0.5, False)
    assert told == [LimitMoved("shop", 10.0, 9.0), LimitMoved("shop", 9.0, 8.0)]


def test_threads_lose_no_place() -> None:
    places = AdaptivePlaces(AdaptiveLimit(initial=3, maximum=8))
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for call in range(3000):
            try:
                token = places.enter(call * 1e-3)
            except Overloaded:
                continue
            places.leave(token, call * 1e-3 + 1e-3, (True, True, None, False)[call % 4])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places.in_flight == 0
    assert places.admitted + places.refused == 24_000
