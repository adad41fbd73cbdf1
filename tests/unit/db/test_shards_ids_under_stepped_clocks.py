"""UUIDv7 and Snowflake when the clock stands, leaps and steps back."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.db.shards import ClockWentBack, Snowflake, Uuid7, snowflake_parts, uuid7
from tenfold.db.shards.ids import SNOWFLAKE_EPOCH_MS, Wait

STEPS = st.lists(st.integers(-5000, 5000), min_size=1, max_size=200)
NOW = 1_800_000_000_000


def test_the_layout_is_that_of_rfc_9562() -> None:
    """Appendix A.6 of the RFC: the example's time in front, version 7, variant 10."""
    made = Uuid7(clock=lambda: 0x017F22E279B0 / 1000 + 1e-6, randbits=lambda n: (1 << n) - 1)()
    assert made.hex[:12] == "017f22e279b0"
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int & 0xFFFFFFFF == 0xFFFFFFFF


@given(STEPS)
def test_uuids_ascend_whatever_the_clock_does(steps: list[int]) -> None:
    now = [NOW]
    source = Uuid7(clock=lambda: now[0] / 1000)
    made = []
    for step in steps:
        now[0] += step
        made += [source(), source()]
    assert made == sorted(set(made))
    assert all((one.version, one.variant) == (7, uuid.RFC_4122) for one in made)


def test_a_full_counter_borrows_a_millisecond() -> None:
    bits = iter([(1 << 41) - 1, 0, 0, 0])
    source = Uuid7(clock=lambda: NOW / 1000, randbits=lambda n: next(bits))
    first = source()
    source._counter = (1 << 42) - 1
    second = source()
    assert second.int >> 80 == (first.int >> 80) + 1


def test_the_process_source_makes_different_ones() -> None:
    made = [uuid7() for _ in range(10_000)]
    assert made == sorted(set(made))


@given(st.lists(st.integers(-300, 300), max_size=300), st.integers(0, 1023))
def test_snowflakes_are_unique_and_ascend_or_are_refused(steps: list[int], worker: int) -> None:
    flake, now, made = Snowflake(worker), NOW, []
    for step in steps:
        now += step
        try:
            found = flake.take(now)
        except ClockWentBack as error:
            assert error.behind == (flake.last_ms - now) / 1000 > flake.patience  # noqa: PT017
            continue
        if isinstance(found, Wait):
            assert 0 < found.seconds <= flake.patience
            continue
        made.append(found)
        assert snowflake_parts(found)[:2] == (now, worker)
    assert made == sorted(set(made))


def test_a_millisecond_holds_4096_and_then_waits() -> None:
    flake = Snowflake(5)
    made: list[Any] = [flake.take(NOW) for _ in range(4097)]
    assert isinstance(made.pop(), Wait)
    assert len(set(made)) == 4096
    assert snowflake_parts(made[-1]) == (NOW, 5, 4095)
    assert isinstance(flake.take(NOW + 1), int)
    assert made[-1] < 2**63


def test_a_successor_does_not_use_what_its_predecessor_may_have_used() -> None:
    flake = Snowflake(5, last_ms=NOW)
    assert isinstance(flake.take(NOW), Wait)
    assert isinstance(flake.take(NOW - 50), Wait)
    with pytest.raises(ClockWentBack):
        flake.take(NOW - 101)
    assert isinstance(flake.take(NOW + 1), int)
    held = Snowflake(5, horizon_ms=NOW)
    assert isinstance(held.take(NOW - 1), int)
    assert isinstance(held.take(NOW), Wait)


def test_refusals() -> None:
    for worker in (-1, 1024, True, 1.0):
        with pytest.raises(MisuseError, match="worker: expected 0 to 1023"):
            Snowflake(worker)  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="between 2020 and 2089"):
        Snowflake(1).take(SNOWFLAKE_EPOCH_MS - 1)
