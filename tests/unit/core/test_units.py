import math

import pytest

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import duration, format_duration, format_size, rate, share, size, whole_number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        (" 2 d ", 172800.0),
        ("1w", 604800.0),
        ("0s", 0.0),
        ("1.5S", 1.5),
        ("10us", 1e-5),
        ("10\u00b5s", 1e-5),  # micro sign
        ("10\u03bcs", 1e-5),  # Greek mu
        (3, 3.0),
        (0.5, 0.5),
    ],
)
def test_durations(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "5",
        "s",
        "-5s",
        "5 parsecs",
        "1e3s",
        "5s!",
        "10ſ",
        "٥s",
        "9" * 400 + "s",
        -1,
        math.nan,
        math.inf,
        10**400,
        True,
        None,
        [5],
    ],
)
def test_what_is_no_duration_is_refused(bad):
    with pytest.raises(MisuseError, match=r"^ttl: expected "):
        duration(bad, "ttl")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64MB", 64000000),
        ("1.5GiB", 1610612736),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("7B", 7),
        (" 2 TB ", 2 * 10**12),
        (512, 512),
        ("0B", 0),
    ],
)
def test_sizes(text, count):
    assert size(text) == count


@pytest.mark.parametrize(
    "bad",
    ["", "64", "64mb", "1kiB", "-1B", "1 PB", "MB", "9" * 400 + "B", -1, math.nan, math.inf, False, None],
)
def test_what_is_no_size_is_refused(bad):
    with pytest.raises(MisuseError, match=r"^limit: expected "):
        size(bad, "limit")


@pytest.mark.parametrize(
    ("text", "fraction"),
    [("0.1%", 0.001), (0.25, 0.25), ("0.25", 0.25), ("100%", 1.0), (" 50 % ", 0.5), (0, 0.0), (1, 1.0)],
)
def test_shares(text, fraction):
    assert share(text) == pytest.approx(fraction)


@pytest.mark.parametrize("bad", ["", "%", "101%", 1.1, -0.1, "-1%", "half", "nan", "inf%", True, None])
def test_what_is_no_share_is_refused(bad):
    with pytest.raises(MisuseError, match=r"^errors: expected "):
        share(bad, "errors")


@pytest.mark.parametrize(
    ("text", "each_second"), [("500/s", 500.0), ("3000/m", 50.0), ("36 / h", 0.01), ("7", 7.0), (0.5, 0.5)]
)
def test_rates(text, each_second):
    assert rate(text) == pytest.approx(each_second)


@pytest.mark.parametrize(
    "bad", ["", "/s", "5/", "5/year", "-5/s", "five/s", "1e308/us", "nan", -1, math.inf, True, None]
)
def test_what_is_no_rate_is_refused(bad):
    with pytest.raises(MisuseError, match=r"^rate: expected "):
        rate(bad)


def test_whole_numbers():
    assert whole_number(3, "n", least=1) == 3
    for bad in (0, -1, 1.0, "1", True, None):
        with pytest.raises(MisuseError, match=r"^n: expected a whole number of 1 or more, got "):
            whole_number(bad, "n", least=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.27, "1.27 s"),
        (0.83, "830 ms"),
        (830e-6, "830 µs"),
        (0.0, "0 s"),
        (12.34, "12.3 s"),
        (0.9999, "1.00 s"),
        (0.00099999, "1.00 ms"),
        (9.996, "10.0 s"),
        (99.96, "100 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (320, "5 min 20 s"),
        (3600, "1 h"),
        (90_061, "25 h 1 min 1 s"),
        (-0.5, "-500 ms"),
        (1e-9, "0.00 µs"),
        (math.inf, "never"),
        (-math.inf, "-never"),
        (math.nan, "-"),
    ],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.00 kB"),
        (13600000, "13.6 MB"),
        (999999, "1.00 MB"),
        (5000000000000000.0, "5000 TB"),
        (-2048, "-2.05 kB"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_sizes_for_people(count, text):
    assert format_size(count) == text


def test_a_misuse_is_a_value_error_and_one_of_the_family():
    assert issubclass(MisuseError, ValueError)
    assert issubclass(MisuseError, TenfoldError)
