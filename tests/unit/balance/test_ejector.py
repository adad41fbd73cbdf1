import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.ejector import Ejector
from tenfold.balance.outlier import Ejected, OutlierEjection, Returned


def ejector(count=4, **options):
    made = Ejector(OutlierEjection(**{"jitter": 0, **options}), draw=lambda: 0.5)
    for number in range(count):
        made.add(f"e{number}")
    made.sweep(0.0)
    return made


def fail(made, id, now, times=5):
    return [made.record(id, now, False, 0.0) for _ in range(times)]


def work(made, id, now, good, bad=0, elapsed=0.01):
    for turn in range(max(good, bad)):  # mixed, so that no row of failures comes about
        if turn < good:
            made.record(id, now, True, elapsed)
        if turn < bad:
            made.record(id, now, False, elapsed)


def ids(told, kind):
    return [each.id for each in told if isinstance(each, kind)]


def test_failures_in_a_row_eject_at_once():
    made = ejector(base="30s")
    assert fail(made, "e1", 1.0) == [False] * 4 + [True]
    assert made.sweep(1.0) == [Ejected("e1", "5 failures in a row", 30.0, 31.0, 1)]
    assert made.ejected("e1")
    assert not made.ejected("e0")


def test_a_success_between_failures_starts_the_row_anew():
    made = ejector()
    fail(made, "e1", 1.0, 4)
    made.record("e1", 1.0, True, 0.01)
    assert True not in fail(made, "e1", 1.0, 4)
    assert made.sweep(1.0) == []


def test_returns_when_its_time_is_over_with_counters_at_nothing():
    made = ejector(base="30s")
    fail(made, "e1", 1.0)
    made.sweep(1.0)
    assert made.due <= 31.0
    assert made.sweep(30.9) == []
    assert made.sweep(31.0) == [Returned("e1", "its time was over")]
    assert not made.ejected("e1")
    assert fail(made, "e1", 32.0) == [False] * 4 + [True]


def test_results_from_before_the_return_are_not_counted():
    made = ejector(base="30s", consecutive=1)
    fail(made, "e1", 1.0, 1)
    made.sweep(1.0)
    assert made.record("e1", 5.0, False, 4.5) is False  # while it is out
    made.sweep(31.0)
    assert made.record("e1", 32.0, False, 31.5) is False  # begun before it was out
    assert made.ignored == 2
    assert made.record("e1", 32.0, False, 0.5) is True


def test_time_grows_with_repeats_up_to_the_most():
    made = ejector(base="10s", most="25s", consecutive=1)
    now, lasted = 0.0, []
    for _ in range(4):
        fail(made, "e1", now, 1)
        (out,) = made.sweep(now)
        lasted.append(out.seconds)
        now = out.until
        made.sweep(now)
    assert lasted == [10.0, 20.0, 25.0, 25.0]


def test_time_falls_with_good_time():
    made = ejector(base="10s", calm="60s", consecutive=1)
    now = 0.0
    for _ in range(3):
        fail(made, "e1", now, 1)
        (out,) = made.sweep(now)
        now = out.until
        made.sweep(now)
    fail(made, "e1", now + 125.0, 1)  # two times calm: two off the three
    (out,) = made.sweep(now + 125.0)
    assert (out.repeats, out.seconds) == (2, 20.0)
    made.sweep(out.until)
    fail(made, "e1", out.until + 10_000.0, 1)
    (out,) = [each for each in made.sweep(out.until + 10_000.0) if isinstance(each, Ejected)]
    assert out.repeats == 1


def test_jitter_only_lengthens():
    made = Ejector(OutlierEjection(base="10s", jitter=0.2, consecutive=1), draw=lambda: 0.5)
    made.add("a")
    made.add("b")
    made.sweep(0.0)
    made.record("a", 1.0, False, 0.0)
    assert made.sweep(1.0)[0].seconds == pytest.approx(11.0)


def test_never_more_than_the_share_and_who_waits_gets_its_turn():
    made = ejector(4, share=0.5, base="30s")
    for number in range(4):
        fail(made, f"e{number}", 1.0 + number)
    assert ids(made.sweep(5.0), Ejected) == ["e0", "e1"]
    assert made.sweep(6.0) == []
    told = made.sweep(35.0)
    assert ids(told, Returned) == ["e0", "e1"]
    assert ids(told, Ejected) == ["e2", "e3"]


def test_who_waits_and_succeeds_waits_no_more():
    made = ejector(2, share=0.5, base="30s")
    fail(made, "e0", 1.0)
    made.sweep(1.0)
    assert fail(made, "e1", 2.0) == [False] * 5
    assert made.withheld == 1
    made.record("e1", 3.0, True, 0.01)
    assert made.sweep(31.0) == [Returned("e0", "its time was over")]
    assert not made.ejected("e1")


def test_of_one_endpoint_none_is_ejected():
    made = ejector(1)
    fail(made, "e0", 1.0, 50)
    assert made.sweep(1.0) == []


def test_when_the_set_shrinks_the_surplus_returns():
    made = ejector(4, share=0.5, base="30s")
    fail(made, "e0", 1.0)
    fail(made, "e1", 2.0)
    made.sweep(2.0)
    made.remove("e3")
    assert made.due == -math.inf
    assert made.sweep(3.0) == [Returned("e0", "too large a share was ejected")]
    assert made.state()["share"] == pytest.approx(1 / 3)


def test_success_rate_against_peers():
    made = ejector(5, consecutive="off", volume=50)
    for number in range(4):
        work(made, f"e{number}", 1.0, 100)
    work(made, "e4", 1.0, 60, 40)
    assert made.sweep(9.9) == []
    (out,) = made.sweep(10.0)
    assert (out.id, out.reason) == ("e4", "60% of its requests succeed, 92% among its peers")


@pytest.mark.parametrize(
    ("count", "good", "bad", "why"),
    [
        (4, 60, 40, "too few hosts"),
        (5, 30, 15, "too few results"),
        (5, 99, 1, "an outlier, but by less than the gap"),
    ],
)
def test_success_rate_without_enough_evidence_ejects_nobody(count, good, bad, why):
    made = ejector(count, consecutive="off", volume=50)
    for number in range(count - 1):
        work(made, f"e{number}", 1.0, 100)
    work(made, f"e{count - 1}", 1.0, good, bad)
    assert made.sweep(10.0) == [], why


def test_when_all_fail_alike_nobody_is_ejected():
    made = ejector(6, consecutive="off")
    for number in range(6):
        work(made, f"e{number}", 1.0, 50, 50)
    assert made.sweep(10.0) == []


def test_few_results_are_kept_for_some_intervals_and_then_forgotten():
    made = ejector(5, consecutive="off", volume=50, stretch=3)
    for turn in range(3):
        for number in range(4):
            work(made, f"e{number}", 10.0 * turn + 1, 20)
        work(made, "e4", 10.0 * turn + 1, 10, 10)
        told = made.sweep(10.0 * turn + 10)
        assert ids(told, Ejected) == (["e4"] if turn == 2 else [])
    slow = ejector(5, consecutive="off", volume=50, stretch=2)
    for turn in range(6):
        for number in range(4):
            work(slow, f"e{number}", 10.0 * turn + 1, 20)
        work(slow, "e4", 10.0 * turn + 1, 10, 10)
        assert slow.sweep(10.0 * turn + 10) == []


def test_latency_against_the_median_of_the_others():
    made = ejector(3, consecutive="off", deviations="off", latency_factor=3.0, volume=10)
    work(made, "e0", 1.0, 10, elapsed=0.02)
    work(made, "e1", 1.0, 10, elapsed=0.04)
    work(made, "e2", 2.0, 10, elapsed=0.4)
    (out,) = made.sweep(10.0)
    assert (out.id, out.reason) == ("e2", "takes 400 ms on average, 30.0 ms is usual among its peers")


def test_latency_below_the_floor_and_without_peers_ejects_nobody():
    made = ejector(3, latency_factor=3.0, volume=10, latency_floor="500ms")
    twin = ejector(2, latency_factor=3.0, volume=10)
    for each, count in ((made, 3), (twin, 2)):
        for number in range(count - 1):
            work(each, f"e{number}", 1.0, 10, elapsed=0.02)
        work(each, f"e{count - 1}", 1.0, 10, elapsed=0.4)
        assert each.sweep(10.0) == []


def test_two_bad_ones_beyond_the_share_the_worst_first():
    made = ejector(8, consecutive="off", share=0.125, deviations=1.2)
    for number in range(6):
        work(made, f"e{number}", 1.0, 100)
    work(made, "e6", 1.0, 40, 60)
    work(made, "e7", 1.0, 20, 80)
    assert ids(made.sweep(10.0), Ejected) == ["e7"]
    assert made.withheld == 1


def test_a_share_of_a_hundred_is_not_one_short():
    made = ejector(100, share=0.29, consecutive=1)
    for number in range(100):
        fail(made, f"e{number}", 1.0, 1)
    assert len(made.sweep(1.0)) == 29


def test_results_of_the_unknown_change_nothing():
    made = ejector()
    assert made.record("gone", 1.0, False, 0.1) is False
    made.remove("gone")
    assert made.state()["ignored"] == 1


def test_an_endpoint_added_twice_keeps_what_is_known_and_one_added_again_starts_anew():
    made = ejector()
    fail(made, "e1", 1.0)
    made.sweep(1.0)
    made.add("e1")
    assert made.ejected("e1")
    made.remove("e1")
    made.add("e1")
    assert not made.ejected("e1")
    assert made.sweep(2.0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive": 0},
        {"consecutive": "off", "deviations": "off"},
        {"deviations": 2.0},  # of five hosts none can be that far off
        {"deviations": -1},
        {"latency_factor": 1.0},
        {"interval": 0},
        {"share": 0},
        {"share": 1.5},
        {"base": "10s", "most": "5s"},
        {"volume": 0},
        {"hosts": 1},
    ],
)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="ejection"):
        OutlierEjection(**wrong)


def test_state_and_repr():
    made = ejector(consecutive=1)
    fail(made, "e1", 1.0, 1)
    made.sweep(1.0)
    assert made.state()["ejected"] == {"e1": {"until": 31.0, "repeats": 1}}
    assert repr(made) == "<Ejector 1 of 4 out, 2 allowed>"
