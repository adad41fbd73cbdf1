"""What stands in the headers: written rounded down, read without ever failing."""

import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.wire import (
    PRIORITY,
    Priority,
    at_priority,
    format_retry_after,
    format_timeout,
    parse_priority,
    parse_retry,
    parse_timeout,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"0", 0.0), (b"1500", 1.5), (b" 250\t", 0.25), (b"0007", 0.007), (b"99999999", 60.0), (b"9" * 18, 60.0)],
)
def test_a_timeout_is_milliseconds_and_capped(value, seconds):
    assert parse_timeout(value, most=60.0) == seconds


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+5", b"1.5", b"1e3", b"abc", b"10, 20", b"\xd9\xa3", b"0x10", b"1_000", b"9" * 19, b"nan"]
)
def test_garbage_is_no_timeout_and_no_error(value):
    assert parse_timeout(value) is None


@pytest.mark.parametrize(
    ("remaining", "text"),
    [(1.9999, "1999"), (0.0009, "0"), (-3.0, "0"), (2, "2000"), (math.inf, None), (0.0015, "1")],
)
def test_the_remaining_time_is_rounded_down(remaining, text):
    assert format_timeout(remaining) == text


@pytest.mark.parametrize("seconds", [0.0011, 0.25, 1.0007, 59.9999])
def test_what_is_told_is_never_more_than_there_is(seconds):
    told = parse_timeout(format_timeout(seconds).encode())
    assert seconds - 0.001 < told <= seconds


def test_priorities_are_read_in_any_case_and_capped():
    assert parse_priority(b"Critical") is Priority.CRITICAL
    assert parse_priority(b" batch ") is Priority.BATCH
    assert parse_priority(b"critical", most=Priority.NORMAL) is Priority.NORMAL
    assert parse_priority(b"sheddable", most=Priority.NORMAL) is Priority.SHEDDABLE
    assert parse_priority(b"urgent") is None
    assert parse_priority(b"3") is None


def test_only_caller_marks_a_retry():
    assert parse_retry(b"Caller") is True
    assert parse_retry(b"true") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.001, "2"), (29.5, "30"), (-4, "1"), (math.nan, "1"), (math.inf, "86400")],
)
def test_retry_after_is_whole_seconds_rounded_up_and_at_least_one(seconds, text):
    assert format_retry_after(seconds) == text


def test_the_priority_of_a_block_ends_with_it():
    with at_priority("batch") as taken:
        assert taken is PRIORITY.get() is Priority.BATCH
        with at_priority(Priority.CRITICAL):
            assert PRIORITY.get() is Priority.CRITICAL
        assert PRIORITY.get() is Priority.BATCH
    assert PRIORITY.get() is Priority.NORMAL


@pytest.mark.parametrize("value", ["urgent", "", 3, None])
def test_a_priority_that_is_none_is_refused_in_a_sentence(value):
    with pytest.raises(MisuseError, match=r'priority: expected one of "critical".*got .*correct the name'):
        Priority.of(value)
