"""The search against simulated targets: exact, noisy, flaky, limited by the client, hopeless and endless."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from tenfold._core.errors import MisuseError
from tenfold.load.search import BreakpointSearch, Probe, SearchOptions, SearchResult, Vote, knee

Target = Callable[[float], Vote]


def drive(target: Target, **options: float) -> SearchResult:
    search = BreakpointSearch(SearchOptions(**options))  # type: ignore[arg-type]
    elapsed = 0.0
    while (ask := search.next(elapsed)) is not None:
        elapsed += ask.seconds
        search.record(Probe(rate=ask.rate, vote=target(ask.rate), seconds=ask.seconds))
    return search.result


def breaks_at(limit: float) -> Target:
    return lambda rate: "pass" if rate <= limit else "fail"


@pytest.mark.parametrize("limit", [21, 33.3, 77, 160, 1024, 2591, 4999])
@pytest.mark.parametrize("precision", [0.02, 0.05, 0.2])
def test_an_exact_target_is_found_within_precision(limit: float, precision: float) -> None:
    found = drive(breaks_at(limit), precision=precision)
    assert found.stopped == "precision"
    assert found.lowest_failing is not None
    assert found.highest_passing <= limit < found.lowest_failing
    assert found.lowest_failing / found.highest_passing <= 1 + precision
    assert found.client_limit is None
    assert f"{found.highest_passing:.4g}/s passes" in found.why


def test_a_search_takes_few_probes() -> None:
    assert len(drive(breaks_at(1024)).probes) <= 17


def test_both_ends_of_the_answer_rest_on_two_votes() -> None:
    found = drive(breaks_at(300))
    for end in (found.highest_passing, found.lowest_failing):
        assert sum(probe.rate == end for probe in found.probes) >= 2


@pytest.mark.parametrize("seed", range(40))
def test_a_noisy_boundary_is_found_about_where_it_is(seed: int) -> None:
    """Within 10 % of the limit the vote is a coin whose bias is linear in the rate; outside it is certain."""
    draw = random.Random(seed)
    limit = draw.uniform(30, 3000)

    def target(rate: float) -> Vote:
        return "pass" if draw.random() < min(1.0, max(0.0, 0.5 + (limit - rate) / (0.2 * limit))) else "fail"

    found = drive(target)
    assert found.stopped == "precision"
    assert 0.87 * limit < found.highest_passing < 1.1 * limit


def test_one_hiccup_on_the_way_up_does_not_become_the_answer() -> None:
    seen: list[float] = []

    def target(rate: float) -> Vote:
        seen.append(rate)
        return "fail" if len(seen) == 2 else breaks_at(1000)(rate)

    found = drive(target)
    assert seen[1] == 40
    assert 950 < found.highest_passing <= 1000


def test_one_lucky_probe_at_the_top_does_not_become_the_answer() -> None:
    """The first vote above the limit passes; two more overrule it."""
    lucky = iter(["pass"])

    def target(rate: float) -> Vote:
        return "pass" if rate <= 100 else next(lucky, "fail")  # type: ignore[return-value]

    found = drive(target, start=20)
    assert 95 < found.highest_passing <= 100


def test_a_saturated_client_is_a_result_of_its_own() -> None:
    found = drive(lambda rate: "pass" if rate < 700 else "invalid")
    assert found.stopped == "client saturated"
    assert found.lowest_failing is None
    assert found.client_limit is not None
    assert found.highest_passing < 700 <= found.client_limit <= found.highest_passing * 1.05
    assert found.why.startswith(f"client saturated at {found.client_limit:.4g}/s")
    assert "the target may take more" in found.why


def test_a_client_saturated_from_the_start_passes_nothing() -> None:
    found = drive(lambda rate: "invalid")
    assert (found.stopped, found.highest_passing) == ("client saturated", 0)
    assert "no rate passed" in found.why


def test_one_invalid_probe_is_repeated_and_forgotten() -> None:
    votes: dict[float, int] = {}

    def target(rate: float) -> Vote:
        votes[rate] = votes.get(rate, 0) + 1
        return "invalid" if votes[rate] == 1 else breaks_at(300)(rate)

    found = drive(target)
    assert found.stopped == "precision"
    assert found.client_limit is None
    assert 285 < found.highest_passing <= 300


def test_nothing_passes() -> None:
    found = drive(breaks_at(0))
    assert (found.stopped, found.highest_passing, found.lowest_failing) == ("nothing passes", 0, 1.25)
    assert found.why == "no rate passes: even 1.25/s, the lowest tried, fails"


def test_a_start_that_is_too_high_is_descended_from() -> None:
    found = drive(breaks_at(13), start=100)
    assert found.highest_passing <= 13 < (found.lowest_failing or 0) <= found.highest_passing * 1.05


def test_everything_passes_up_to_the_ceiling() -> None:
    found = drive(lambda rate: "pass", ceiling=1000)
    assert (found.stopped, found.highest_passing, found.lowest_failing) == ("ceiling", 1000, None)
    assert max(probe.rate for probe in found.probes) == 1000
    assert "ceiling" in found.why


def test_the_descent_takes_longer_steps_and_more_time_than_the_climb() -> None:
    found = drive(breaks_at(10), start=100, floor=1, factor=1.3, samples=700, max_seconds=7, budget=11)
    assert [round(probe.rate, 1) for probe in found.probes] == [100.0, 76.9, 45.5, 20.7, 7.3]
    assert found.stopped == "budget"
    assert found.highest_passing == pytest.approx(7.25, abs=0.01)


def test_a_budget_that_runs_out_leaves_the_best_bracket_so_far() -> None:
    found = drive(breaks_at(1024), budget=120)
    assert found.stopped == "budget"
    assert found.highest_passing <= 1024 < (found.lowest_failing or 2000)
    assert sum(probe.seconds for probe in found.probes) <= 120
    assert "ran out: so far" in found.why
    assert "one vote only" in found.why


def test_the_first_probe_is_made_whatever_the_budget() -> None:
    found = drive(breaks_at(1024), budget=1)
    assert (len(found.probes), found.highest_passing) == (1, 20)


def test_a_target_without_any_pattern_ends_the_search_too() -> None:
    draw = random.Random(3)
    found = drive(lambda rate: draw.choice(["pass", "fail", "invalid"]))
    assert len(found.probes) <= 100


def test_a_probe_lasts_long_enough_for_samples_and_for_a_queue() -> None:
    options = SearchOptions(samples=1000, min_seconds=3)
    assert options.seconds(20) == 50
    assert options.seconds(5000) == 3


def test_a_result_before_its_end_says_so_and_a_foreign_probe_is_refused() -> None:
    search = BreakpointSearch(SearchOptions())
    with pytest.raises(MisuseError, match="at least one probe"):
        _ = search.result
    ask = search.next()
    assert ask is not None
    with pytest.raises(MisuseError, match="expected the probe at 20"):
        search.record(Probe(rate=21, vote="pass"))
    search.record(Probe(rate=20, vote="pass", p95=0.01))
    assert search.result.why.startswith("the search was cut short: so far 20/s passes")
    assert msgspec.json.decode(msgspec.json.encode(search.result), type=SearchResult) == search.result


@pytest.mark.parametrize(
    "options",
    [
        {"start": 0},
        {"start": 10, "ceiling": 5},
        {"floor": 30},
        {"factor": 1},
        {"precision": 0},
        {"samples": 0},
        {"budget": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(MisuseError, match="breakpoint"):
        SearchOptions(**options)  # type: ignore[arg-type]


def test_the_knee_of_a_queue_is_where_it_starts_to_climb() -> None:
    points = [(rate, 0.005 / (1 - rate / 1000)) for rate in range(50, 1000, 50)]
    found = knee(points)
    assert found is not None
    assert 700 <= found <= 900


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1.0, 1.0), (2.0, 9.0)],
        [(float(rate), 0.01) for rate in range(10)],
        [(float(rate), 0.01 * rate) for rate in range(10)],
        [(float(rate), None) for rate in range(10)],
    ],
)
def test_a_curve_without_a_knee_has_none(points: list[tuple[float, float | None]]) -> None:
    assert knee(points) is None
