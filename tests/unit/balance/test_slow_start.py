import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.balance.slow_start import SlowStart


def test_grows_in_a_straight_line_from_the_floor_to_all():
    start = SlowStart("10s", floor=0.1)
    assert [start.factor(100.0, 100.0 + age) for age in (0, 1, 5, 9, 10, 99)] == pytest.approx(
        [0.1, 0.1, 0.5, 0.9, 1, 1]
    )


def test_aggression_bends_the_line():
    assert SlowStart("10s", aggression=2).factor(0.0, 2.5) == pytest.approx(0.5)
    assert SlowStart("10s", aggression=0.5).factor(0.0, 5.0) == pytest.approx(0.25)


def test_what_was_always_there_has_its_whole_weight():
    start = SlowStart()
    assert start.factor(-math.inf, 0.0) == 1.0
    assert start.over(-math.inf, 0.0)


def test_starts_anew_at_every_recovery():
    start = SlowStart("10s")
    assert start.factor(0.0, 50.0) == 1.0
    assert start.factor(50.0, 50.0) == 0.1
    assert not start.over(50.0, 59.9)
    assert start.over(50.0, 60.0)


@given(
    window=st.floats(0.001, 1e6),
    floor=st.floats(0.001, 1.0),
    aggression=st.floats(0.01, 100),
    ages=st.lists(st.floats(-1e6, 1e7), min_size=2, max_size=5),
)
def test_never_nothing_never_more_than_all_and_never_falls(window, floor, aggression, ages):
    start = SlowStart(window, floor=floor, aggression=aggression)
    factors = [start.factor(0.0, age) for age in sorted(ages)]
    assert all(floor <= factor <= 1.0 for factor in factors)
    assert factors == sorted(factors)


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"floor": 0}, {"floor": 2}, {"aggression": 0}, {"aggression": math.inf}]
)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="expected"):
        SlowStart(**wrong)
