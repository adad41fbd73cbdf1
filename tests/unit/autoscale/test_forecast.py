"""Forecasts of series whose future is known, and when none is given."""

import math
from random import Random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Forecast, NoForecast, forecast

DAY = 24


def hours(days, *, growth=0.0, noise=0.0, seed=1, jump=0.0):
    random = Random(seed)
    return [
        100 + 60 * math.sin(2 * math.pi * hour / DAY) + growth * hour + jump * (hour >= days * DAY / 2)
        + random.gauss(0, noise) * (noise > 0)
        for hour in range(days * DAY)
    ]  # fmt: skip


@pytest.mark.parametrize("ahead", [1, 6, 24])
def test_what_comes_again_exactly_is_foreseen_exactly(ahead):
    found = forecast(hours(2), season=DAY, ahead=ahead)
    assert isinstance(found, Forecast)
    assert found.value == pytest.approx(100 + 60 * math.sin(2 * math.pi * (2 * DAY + ahead - 1) / DAY))
    assert found.error == pytest.approx(0, abs=1e-9)
    assert (found.method, found.tested) == ("seasonal naive", DAY)


def test_less_than_two_seasons_is_refused_with_the_reason():
    refused = forecast(hours(2)[:-1], season=DAY)
    assert isinstance(refused, NoForecast)
    assert refused.why == "two seasons are 48 values, and there are 47"
    assert isinstance(forecast(hours(2), season=DAY), Forecast)


def test_growth_is_followed_by_a_method_that_knows_of_it():
    series = hours(6, growth=0.5)
    found = forecast(series, season=DAY, ahead=3)
    truth = 100 + 60 * math.sin(2 * math.pi * (6 * DAY + 2) / DAY) + 0.5 * (6 * DAY + 2)
    assert found.method == "seasonal naive with drift"
    assert found.value == pytest.approx(truth)


def test_after_a_lasting_jump_smoothing_does_better_than_repeating():
    series = hours(8, jump=150, noise=6)
    found = forecast(series, season=DAY, ahead=1)
    assert found.method.startswith("Holt-Winters")
    assert found.error < 0.06


def test_the_error_shown_is_that_of_forecasts_made_without_the_future():
    """The last season is forecast again, moment by moment, from series that end where each forecast was made."""
    series = hours(2, noise=10) + hours(1, noise=10, seed=2)[:-1]  # short of three seasons: one method throughout
    shown = forecast(series, season=DAY, ahead=2)
    end, missed = len(series), 0.0
    for target in range(end - DAY, end):
        known = series[: target - 1]
        expected = forecast(known, season=DAY, ahead=2).value if len(known) >= 2 * DAY else known[target - DAY]
        missed += abs(series[target] - expected)
    assert shown.error == pytest.approx(missed / sum(series[-DAY:]))


def test_the_error_of_seasonal_naive_is_the_difference_of_two_seasons():
    series = [10.0, 20.0, 30.0, 40.0, 12.0, 18.0, 33.0, 37.0]
    found = forecast(series, season=4, ahead=1)
    assert found.error == pytest.approx((2 + 2 + 3 + 3) / 100)
    assert (found.value, found.upper) == (12.0, 15.0)


def test_noise_is_refused_and_its_error_told():
    random = Random(3)
    found = forecast([random.expovariate(0.1) for _ in range(10 * DAY)], season=DAY, most_error="30%")
    assert isinstance(found, NoForecast)
    assert found.error > 0.3
    assert "off by" in found.why


def test_nine_of_ten_values_stay_below_the_upper_bound():
    series = hours(30, noise=15, seed=5)
    below = 0
    for end in range(20 * DAY, 30 * DAY - 1, 5):
        found = forecast(series[:end], season=DAY)
        below += series[end] <= found.upper
    assert below / len(range(20 * DAY, 30 * DAY - 1, 5)) >= 0.8


def test_nothing_is_ever_expected_below_zero():
    falling = [max(0.0, 200 - 4 * hour) for hour in range(4 * DAY)]
    found = forecast(falling, season=DAY, most_error=1)
    assert isinstance(found, NoForecast) or found.value >= 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_gaps_are_refused(bad):
    series = hours(3)
    series[30] = bad
    assert "gaps" in forecast(series, season=DAY).why


def test_silence_is_foreseen_as_silence():
    found = forecast([0.0] * 96, season=DAY)
    assert (found.value, found.error) == (0.0, 0.0)


@pytest.mark.parametrize(("season", "ahead"), [(1, 1), (24, 0), (24, 25)])
def test_what_makes_no_sense_is_refused(season, ahead):
    with pytest.raises(MisuseError):
        forecast(hours(3), season=season, ahead=ahead)
