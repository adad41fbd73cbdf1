import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.health import Health


def told(health, results):
    return [health.observe(ok, float(at)) for at, ok in enumerate(results)]


def test_goes_down_after_fall_failures_in_a_row_and_up_after_rise_successes():
    health = Health(rise=2, fall=3)
    assert told(health, [False, False, False]) == [False, False, True]
    assert not health.up
    assert health.since == 2.0
    assert told(health, [True, True]) == [False, True]
    assert health.up


def test_a_success_between_failures_starts_the_count_anew():
    health = Health(rise=2, fall=2)
    assert told(health, [False, True, False, True, False]) == [False] * 5
    assert health.up


def test_a_failure_between_successes_starts_the_count_anew():
    health = Health(rise=2, fall=1, initial="down")
    assert told(health, [True, False, True, False, True]) == [False] * 5
    assert not health.up


def test_what_was_so_from_the_start_is_so_since_ever():
    assert Health().since == -math.inf
    assert Health(initial="down").up is False


def test_state_tells_how_many_more_checks_it_takes():
    health = Health(rise=2, fall=3)
    health.observe(False, 1.0)
    assert health.state() == {"up": True, "since": -math.inf, "left": 2, "passed": 0, "failed": 1, "changes": 0}
    assert repr(health) == "<Health up run=1 rise=2 fall=3>"


@pytest.mark.parametrize("wrong", [{"rise": 0}, {"fall": 0}, {"rise": True}, {"initial": "sideways"}])
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="expected"):
        Health(**wrong)
