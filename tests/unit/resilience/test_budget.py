"""The retry budget, example by example."""

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.budget import Budget, Purse


def purse(**options):
    return Purse(Budget(**{"floor": 0, "burst": 2, **options}))


def test_a_fifth_of_a_token_a_call():
    live = purse(burst=1)
    assert live.reserve(0.0) is not None
    for _ in range(4):
        live.deposit()
        assert live.reserve(0.0) is None
    live.deposit()
    assert live.reserve(0.0) is not None
    assert live.refused == 4


def test_the_floor_comes_with_time_and_both_stop_at_the_burst():
    live = purse(floor="1/s", burst=3)
    for _ in range(3):
        assert live.reserve(100.0)
    assert live.reserve(100.5) is None
    assert live.reserve(101.0) is not None
    for _ in range(100):
        live.deposit()
    assert live.tokens == live.cap == 3
    live.reserve(200.0)
    assert live.tokens == 2


def test_time_that_runs_backwards_earns_nothing():
    live = purse(floor="1/s", burst=1)
    assert live.reserve(100.0)
    assert live.reserve(50.0) is None
    assert live.reserve(100.5) is None
    assert live.reserve(101.0)


def test_a_reservation_is_settled_once():
    live = purse()
    held = live.reserve(0.0)
    assert live.tokens == 1
    assert live.confirm(held, 1.0)
    assert not live.confirm(held, 1.0)
    live.refund(held)
    assert (live.tokens, live.spent) == (1, 1)
    back = live.reserve(1.0)
    live.refund(back)
    live.refund(back)
    assert not live.confirm(back, 1.0)
    assert (live.tokens, live.spent) == (1, 1)


def test_an_old_reservation_is_taken_anew_or_fails():
    live = purse(window="10s")
    first, second = live.reserve(0.0), live.reserve(0.0)
    assert live.confirm(first, 10.0)  # just young enough
    assert not live.confirm(second, 10.1)
    for _ in range(10):
        live.deposit()
    third = live.reserve(20.0)
    assert live.confirm(third, 40.0)
    assert live.tokens == pytest.approx(0)  # one was lost, another taken
    assert live.spent == 2


def test_other_numbers_keep_the_tokens_that_fit():
    live = purse(burst=10)
    live.reconfigure(Budget(burst=4, floor=0))
    assert (live.tokens, live.cap) == (4, 4)
    live.reserve(0.0)
    live.reconfigure(Budget(burst=100, floor=0))
    assert (live.tokens, live.cap) == (3, 100)
    assert live.state() == {"tokens": 3.0, "cap": 100.0, "spent": 0, "refused": 0}
    assert repr(live) == "<Purse 3.0 of 100 tokens, spent=0 refused=0>"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"share": 0, "floor": 0}, "expected a share or a floor above 0"),
        ({"share": "20"}, "expected a share between 0 and 1"),
        ({"burst": 0}, "burst: expected a whole number of 1"),
        ({"window": 0}, "window: expected a duration above 0"),
        ({"floor": "often"}, "expected a rate"),
    ],
)
def test_what_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Budget(**options)
