"""The plan and the order of steps of a reshard: pure, so every state that a kill can leave is tried."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.db.reshard import CannotMove, Different, ReshardError
from tenfold.db.reshard.choose import emptied, even, named, numbers
from tenfold.db.reshard.refresh import different
from tenfold.db.reshard.sequences import Counter, raised
from tenfold.db.reshard.steps import Course, Do, Intent, Leg, Phase, Reshard, group, next_step, turned
from tenfold.db.shards import ShardMap

AB = ShardMap.hash(["a", "b"], buckets=8)


def test_numbers_are_read_or_refused() -> None:
    assert numbers("3, 0-2,7") == (0, 1, 2, 3, 7)
    for wrong in ("", "x", "3-1", "-1", "1-", "1,,2", "99999"):
        with pytest.raises(CannotMove, match="buckets: expected numbers"):
            numbers(wrong)


def test_what_makes_no_sense_is_refused_with_what_to_do() -> None:
    for call, reason in (
        (lambda: named(AB, ["a", "b"], (0,), "c"), "expected one of a, b, got 'c'; give its URL"),
        (lambda: named(AB, ["a", "b"], (8,), "b"), "expected 0 to 7, got 8"),
        (lambda: named(AB, ["a", "b"], (1,), "b"), "bucket 1 is on b already"),
        (lambda: named(AB, ["a", "b"], (), "b"), "one at least"),
        (lambda: emptied(AB, ["a", "b", "c"], "c"), "c holds no bucket"),
        (lambda: emptied(AB, ["a"], "a"), "another shard"),
        (lambda: even(AB, ["a", "b"]), "evenly already"),
    ):
        with pytest.raises(CannotMove, match=reason):
            call()


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(0, 3))
def test_even_and_empty_do_what_they_say_with_the_fewest_moves(owners: list[str], extra: int) -> None:
    names = sorted({*owners, *"wxyz"[:extra]})
    before = replace(ShardMap.hash(["a"], buckets=len(owners)), shards=tuple(owners))
    low, odd = divmod(len(owners), len(names))
    try:
        legs = even(before, names)
    except CannotMove:
        legs = ()
    after = before
    for leg in legs:
        assert all(after.shards[bucket] == leg.source for bucket in leg.buckets)
        after = after.moved(leg.buckets, leg.target)
    counts = sorted((after.shards.count(name) for name in names), reverse=True)
    assert counts == [low + 1] * odd + [low] * (len(names) - odd)
    had = sorted((owners.count(name) for name in names), reverse=True)
    assert sum(len(leg.buckets) for leg in legs) == sum(max(0, h - w) for h, w in zip(had, counts, strict=True))
    if len(names) > 1:
        for leg in emptied(before, names, owners[0]):
            before = before.moved(leg.buckets, leg.target)
        assert owners[0] not in before.shards


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 50)), min_size=1, unique_by=lambda one: one[0]),
    st.integers(1, 60),
)
def test_groups_are_bounded_and_leave_nothing_out(rows: list[tuple[int, int]], most: int) -> None:
    counts = dict(rows)
    left, taken = tuple(counts), []
    while left:
        first = group(left, counts, most)
        assert first == left[: len(first)]
        assert first
        assert len(first) == 1 or sum(counts[bucket] for bucket in first) <= most
        taken += first
        left = left[len(first) :]
    assert taken == list(counts)


def walk(state: Reshard, map: ShardMap, turn: int | None = None) -> tuple[list[Do], ShardMap]:
    """Take every step; at step number ``turn`` the operator rolls back. A switch moves one bucket."""
    done: list[Do] = []
    for number in range(100):
        if number == turn:
            state = turned(state, Course.BACK)
        step = next_step(state, map.shards)
        done.append(step.do)
        if step.do in (Do.REST, Do.FORGET):
            return done, map
        leg = state.legs[step.leg]
        if step.do is Do.SWITCH:
            assert all(map.shards[bucket] == step.giver for bucket in step.buckets)
            assert leg.phase in (Phase.SWITCHING, Phase.MOVED)
            map = map.moved(step.buckets[:1], step.taker)
        else:
            if step.do is Do.CLEAN and state.course is Course.BACK:
                assert all(map.shards[bucket] == leg.source for bucket in leg.buckets)
            phase = {
                Do.PREPARE: Phase.COPYING,
                Do.COPY: Phase.SWITCHING,
                Do.MARK_MOVED: Phase.MOVED,
                Do.CLEAN: Phase.CLEAN,
            }[step.do]
            state = state.with_leg(step.leg, replace(leg, phase=phase))
        state = msgspec.json.decode(msgspec.json.encode(state), type=Reshard)  # as after a kill
    raise AssertionError(f"no end: {done}")


PLANNED = Reshard(
    legs=(Leg(source="a", target="b", buckets=(0, 2)), Leg(source="b", target="a", buckets=(1,))), tables=("t",)
)


def test_forth_then_finish() -> None:
    done, map = walk(PLANNED, AB)
    assert [str(do) for do in done] == [
        *("prepare", "copy", "switch", "switch", "mark moved"),
        *("prepare", "copy", "switch", "mark moved", "rest"),
    ]
    assert map.shards == ("b", "a", "b", "b", "a", "b", "a", "b")
    moved = replace(PLANNED, legs=tuple(replace(leg, phase=Phase.MOVED) for leg in PLANNED.legs))
    done, after = walk(turned(moved, Course.FINISH), map)
    assert done == [Do.CLEAN, Do.CLEAN, Do.FORGET]
    assert after is map


def test_rolled_back_at_any_step_every_bucket_is_where_it_was() -> None:
    for turn in range(10):
        done, map = walk(PLANNED, AB, turn)
        assert done[-1] is Do.FORGET
        assert done.count(Do.CLEAN) == 2
        assert map.shards == AB.shards


def test_a_rollback_that_has_cleaned_nothing_can_be_turned_forth_again() -> None:
    done, map = walk(PLANNED, AB)
    moved = replace(PLANNED, legs=tuple(replace(leg, phase=Phase.MOVED) for leg in PLANNED.legs))
    back = turned(moved, Course.BACK)
    step = next_step(back, map.shards)
    assert (step.do, step.leg, step.giver, step.taker) == (Do.SWITCH, 1, "a", "b")
    half = map.moved(step.buckets, step.taker)
    done, after = walk(turned(back, Course.FORTH), half)
    assert done == [Do.SWITCH, Do.REST]
    assert after.shards == map.shards


def test_an_intent_comes_before_everything() -> None:
    intent = Intent(number=1, leg=0, giver="a", taker="b", buckets=(0,))
    for course in Course:
        assert next_step(replace(PLANNED, intent=intent, course=course), AB.shards).do is Do.RECOVER


def test_courses_that_cannot_be_taken_are_refused() -> None:
    for state, course, reason in (
        (PLANNED, Course.FINISH, "not all buckets have moved"),
        (
            replace(PLANNED, course=Course.BACK).with_leg(1, replace(PLANNED.legs[1], phase=Phase.CLEAN)),
            Course.FORTH,
            "rolled back in part",
        ),
        (replace(PLANNED, course=Course.FINISH), Course.BACK, "nothing leads back"),
    ):
        with pytest.raises(ReshardError, match=reason):
            turned(state, course)


def test_a_bucket_on_a_third_shard_stops_it() -> None:
    with pytest.raises(ReshardError, match="bucket 0 goes from a to b, and the map has it on c"):
        next_step(PLANNED, AB.moved([0], "c").shards)


@given(
    st.integers(-60, 60).filter(bool),
    st.integers(-200, 200),
    st.booleans(),
    st.lists(st.integers(-200, 200), min_size=1),
)
def test_a_sequence_that_was_raised_meets_no_row_and_keeps_its_steps(
    increment: int, last: int, called: bool, rows: list[int]
) -> None:
    counter = Counter("s", increment, min(rows), max(rows))
    after = raised(counter, last, called)
    if after is not None:
        assert (after - last) % increment == 0
        assert -200 <= after <= 200
        assert (after - last) * increment >= 0
    draws = last if after is None and not called else (last if after is None else after) + increment
    drawn = {n for n in range(draws, 201 if increment > 0 else -201, increment) if -200 <= n <= 200}
    assert not drawn & set(rows)


def test_a_difference_is_told_with_its_place() -> None:
    different({("t", 1): (2, 5)}, {("t", 1): (2, 5)})
    with pytest.raises(
        Different, match=r"t bucket 1: 2 rows live, 2 in the copy, of other content; t bucket 2: 0 rows"
    ):
        different({("t", 1): (2, 5)}, {("t", 1): (2, 6), ("t", 2): (1, 1)})
