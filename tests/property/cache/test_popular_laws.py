"""Laws of what stands behind `popular`: the sketch never counts too little, keys come back as they were."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.cache.declared import Unreadable, decode
from tenfold.cache.keys import encode
from tenfold.cache.popular import Life, Popularity, Sketch

words = st.text(max_size=3)


@given(st.lists(st.tuples(words, st.integers(1, 100)), max_size=60))
def test_a_sketch_never_says_too_little_and_together_no_more_than_all(added: list[tuple[str, int]]) -> None:
    sketch, truth = Sketch(16), Counter[str]()
    for key, count in added:
        sketch.add(key, count)
        truth[key] += count
    assert all(truth[key] <= sketch.estimate(key) <= truth.total() for key in truth)
    again = Sketch.read(16, sketch.dump())
    assert all(again.estimate(key) == sketch.estimate(key) for key in truth)


@given(st.lists(words, max_size=60), st.lists(words, max_size=60))
def test_merging_is_the_larger_count(one: list[str], two: list[str]) -> None:
    first, second = Sketch(16), Sketch(16)
    for key in one:
        first.add(key)
    for key in two:
        second.add(key)
    before = {key: (first.estimate(key), second.estimate(key)) for key in one + two}
    first.merge(second)
    assert all(first.estimate(key) >= max(pair) for key, pair in before.items())


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 8))
def test_whoever_is_asked_for_more_than_its_share_is_held(asked: list[int], capacity: int) -> None:
    """The promise of Space-Saving: a key with more than n / capacity of n requests is among those held."""
    known, truth = Popularity(capacity, width=1024), Counter(asked)
    for key in asked:
        known.missed(str(key))
    held = {one.key: one.times for one in known.top(capacity)}
    assert len(held) == min(capacity, len(truth))
    for key, count in truth.items():
        if count > len(asked) / capacity:
            assert held[str(key)] >= count


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=50))
def test_folding_in_any_slices_counts_each_hit_once(hits: list[tuple[int, int]]) -> None:
    known, counted = Popularity(100), Counter[int]()
    for key, more in hits:
        counted[key] += more
        known.fold([Life(key, str(key), counted[key])], 0.0)
    assert {one.key: one.times for one in known.top(100)} == {
        str(key): count for key, count in counted.items() if count
    }


scalars = (
    st.integers()
    | st.text()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.binary()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
)
arguments = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(arguments, max_size=4))
@settings(max_examples=200)
def test_what_a_key_encodes_comes_back(values: list[object]) -> None:
    text = ",".join(encode(value, "f", "a") for value in values)
    back = decode(text)
    assert ",".join(encode(value, "f", "a") for value in back) == text
    assert [type(value) for value in back] == [type(value) for value in values]
    if not any(isinstance(value, float | Decimal | tuple | frozenset) for value in values):
        assert list(back) == values


@given(st.text(alphabet='ab1,()"\\{}:-.eNone', max_size=30))
def test_any_text_is_values_or_refused(text: str) -> None:
    try:
        back = decode(text)
    except Unreadable:
        return
    assert isinstance(back, tuple)


@pytest.mark.parametrize("text", ["shop.Colour.RED", "(" * 200, '"open', "1,", "UUID:1", "date:x", "datetime:1"])
def test_what_does_not_come_back_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        decode(text)
