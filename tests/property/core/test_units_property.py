from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration, format_duration, format_size, rate, share, size

PARSERS = (duration, size, share, rate)


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9.]{0,6} ?[a-zA-Zµμſ%/]{0,4}"), st.floats(), st.integers()))
def test_a_parser_gives_a_finite_number_that_is_not_negative_or_refuses(value):
    for parse in PARSERS:
        try:
            number = parse(value)
        except MisuseError:
            continue
        assert 0 <= number < float("inf")


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h"])), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts):
    whole = "".join(f"{number}{unit}" for number, unit in parts)
    assert abs(duration(whole) - sum(duration(f"{number}{unit}") for number, unit in parts)) < 1e-6


@given(st.floats(1e-6, 119.4))
def test_a_formatted_duration_is_right_to_three_digits_and_never_reads_1000(seconds):
    number, unit = format_duration(seconds).split()
    assert float(number) < 1000
    factor = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit]
    assert abs(float(number) * factor - seconds) <= 0.0051 * seconds


@given(st.floats(120, 1e7))
def test_a_long_duration_reads_back_to_the_second(seconds):
    text = format_duration(seconds).replace("min", "m").replace(" ", "")
    assert abs(duration(text) - seconds) <= 0.5


@given(st.integers(0, 10**15 - 10**13))
def test_a_formatted_size_reads_back_to_three_digits(count):
    assert abs(size(format_size(count)) - count) <= 0.0051 * count
