"""Both ways to fold samples say what a walk over single samples says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.histogram import Histogram
from tenfold.load.fold import Fold, Folded, best_fold, fold_arrays, fold_plain
from tenfold.load.recorder import MAX_NAMES, OTHER, Recorder

START = 5000.25
WARM_UNTIL = START + 1.5
samples = st.lists(
    st.tuples(
        st.floats(0, 4),
        st.floats(0, 3) | st.sampled_from([0.0, 0.000_255, 0.000_256, 0.000_257]),
        st.floats(0, 3000) | st.sampled_from([0.0, 1e-6, 0.000_256]),
    ),
    max_size=60,
)


def flatten(drawn: list[tuple[float, float, float]]) -> list[float]:
    flat = []
    for at, waited, took in drawn:
        sent = START + at + waited
        flat += [START + at, sent, sent + took]
    return flat


def naive(flat: list[float]) -> Folded:
    into = Folded()
    for intended, sent, answered in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        warm = intended < WARM_UNTIL
        into.sent[int(sent - START)] += 1
        into.answered[int(answered - START)] += 1
        into.corrected[int(intended - START), warm].record(int((answered - intended) * 1e6))
        into.uncorrected[warm].record(int((answered - sent) * 1e6))
    return into


@pytest.mark.parametrize("fold", [fold_plain, fold_arrays, best_fold()[0]])
@given(first=samples, second=samples)
def test_every_way_to_fold_gives_the_same_sums(
    fold: Fold, first: list[tuple[float, float, float]], second: list[tuple[float, float, float]]
) -> None:
    into = Folded()
    for part in (flatten(first), flatten(second)):
        if part:
            fold(into, part, START, WARM_UNTIL)
    expected = naive(flatten(first) + flatten(second))
    assert into.sent == expected.sent
    assert into.answered == expected.answered
    assert into.corrected == expected.corrected
    assert into.uncorrected == expected.uncorrected
    assert sum(each.count for each in into.uncorrected.values()) == len(first) + len(second)


@given(by_step=st.dictionaries(st.sampled_from("abc"), samples), failures=samples)
def test_what_a_recorder_hands_over_adds_up(
    by_step: dict[str, list[tuple[float, float, float]]], failures: list[tuple[float, float, float]]
) -> None:
    recorder = Recorder(START, 1.5)
    flats = {name: flatten(drawn) for name, drawn in by_step.items()}
    for name, flat in flats.items():
        recorder.good[name].extend(flat)
        recorder.fold()
    bad = flatten(failures)
    for at in range(0, len(bad), 3):
        recorder.failed("a", bad[at], bad[at + 1], bad[at + 2], "timeout")
    steps, intervals = recorder.take()
    assert recorder.take() == ([], [])
    everything = [time for flat in flats.values() for time in flat] + bad
    assert Counter({each.at: each.intended for each in intervals if each.intended}) == Counter(
        int(time - START) for time in everything[::3]
    )
    assert sum(each.sent for each in intervals) == sum(each.answered for each in intervals) == len(everything) // 3
    for step in steps:
        flat = flats.get(step.name, [])
        failed = len(failures) if step.name == "a" else 0
        assert step.attempts + step.warmup.attempts == len(flat) // 3 + failed
        for counts, warm in ((step, False), (step.warmup, True)):
            times = [
                (flat[at], flat[at + 1], flat[at + 2])
                for at in range(0, len(flat), 3)
                if (flat[at] < WARM_UNTIL) is warm
            ]
            assert counts.corrected == Histogram(int((end - intended) * 1e6) for intended, _, end in times)
            assert counts.uncorrected == Histogram(int((end - sent) * 1e6) for _, sent, end in times)
        of_step = Histogram()
        for interval in intervals:
            of_step.merge(interval.steps.get(step.name, Histogram()))
        assert of_step == step.corrected.copy().merge(step.warmup.corrected)


def test_names_beyond_the_bound_share_one() -> None:
    recorder = Recorder(START, 0.0)
    for number in range(MAX_NAMES + 30):
        recorder.good[f"s{number}"].extend((START, START, START + 0.001))
    steps, _ = recorder.take()
    assert len(steps) == MAX_NAMES + 1
    assert next(step for step in steps if step.name == OTHER).attempts == 30
    assert len(recorder.good) == MAX_NAMES
