"""What `Breaker` takes, what it makes of it, and what it refuses with a sentence."""

from __future__ import annotations

import dataclasses

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.breaker import TABLE, Breaker, Signal, State


def test_what_stands_in_a_file_becomes_plain_numbers():
    options = Breaker(
        ratio="25%",
        minimum=5,
        window="1m",
        consecutive=3,
        slow_call="250ms",
        slow_ratio="80%",
        open="2s",
        open_max="1m30s",
        jitter="10%",
        calm="2m",
        lease="15s",
        ramp="500ms",
    )
    assert (options.ratio, options.window, options.slow_call, options.slow_ratio) == (0.25, 60.0, 0.25, 0.8)
    assert (options.open, options.open_max, options.jitter) == (2.0, 90.0, 0.1)
    assert (options.calm, options.lease, options.ramp) == (120.0, 15.0, 0.5)


def test_each_trip_can_be_switched_off():
    options = Breaker(ratio="off", consecutive=5, slow_call="off")
    assert (options.ratio, options.slow_call) == (None, None)
    assert Breaker(consecutive="off").consecutive is None
    assert dataclasses.replace(options, consecutive=7) == Breaker(ratio=None, consecutive=7)


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Breaker().permits = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"ratio": 0}, 'breaker ratio: expected more than 0.*"off"'),
        ({"ratio": 1.5}, "breaker ratio: expected a share between 0 and 1"),
        ({"ratio": "many"}, "breaker ratio: expected a share such as"),
        ({"ratio": "off", "consecutive": "off"}, "could never open"),
        ({"minimum": 0}, "breaker minimum: expected a whole number of 1 or more, got 0"),
        ({"minimum": 2.5}, "breaker minimum: expected a whole number"),
        ({"window": "30"}, "breaker window: expected a duration"),
        ({"window": 0}, "breaker window: expected more than 0"),
        ({"window": -1}, "breaker window: expected a finite number that is not negative"),
        ({"stretch": 0}, "breaker stretch: expected a whole number of 1"),
        ({"consecutive": 0}, "breaker consecutive: expected a whole number of 1"),
        ({"consecutive": "on"}, "breaker consecutive: expected a whole number"),
        ({"slow_call": 0}, 'breaker slow_call: expected more than 0.*"off"'),
        ({"slow_ratio": 0}, "breaker slow_ratio: expected more than 0"),
        ({"open": 0}, "breaker open: expected more than 0"),
        ({"open": "2m"}, "breaker open_max: expected open .120 s. or more, got 60 s"),
        ({"jitter": 1.0}, "breaker jitter: expected at most 0.9"),
        ({"permits": 0}, "breaker permits: expected a whole number of 1"),
        ({"permits": True}, "breaker permits: expected a whole number of 1"),
        ({"lease": 0}, "breaker lease: expected more than 0"),
        ({"ramp": "soon"}, "breaker ramp: expected a duration"),
        ({"calm": -3}, "breaker calm: expected a finite number"),
        ({"key": "shop"}, "breaker key: expected a function"),
        ({"max_keys": 0}, "breaker max_keys: expected a whole number of 1"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(wrong, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Breaker(**wrong)


def test_every_state_is_in_the_table_and_every_state_can_be_left_and_reached():
    assert set(TABLE) == set(State)
    for start in State:
        reached = {start}
        while True:
            more = {after for state in reached for after in TABLE[state].values()} - reached
            if not more:
                break
            reached |= more
        assert reached == set(State), f"from {start}"


def test_nothing_but_a_hand_leads_out_of_a_state_set_by_hand():
    by_hand = {Signal.FORCE, Signal.DISABLE, Signal.RESET}
    for state in (State.FORCED_OPEN, State.DISABLED):
        assert set(TABLE[state]) == by_hand
    for state in set(State) - {State.FORCED_OPEN, State.DISABLED}:
        reached = {after for signal, after in TABLE[state].items() if signal not in by_hand}
        assert not reached & {State.FORCED_OPEN, State.DISABLED}
