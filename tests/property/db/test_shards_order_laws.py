"""Rows sorted a column at a time stand as under the key of each row, and as PostgreSQL's manual compares values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal, localcontext
from functools import cmp_to_key
from typing import Any
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from tenfold.db.shards.merge import combine
from tenfold.db.shards.order import OrderKey, ranked, sort_key
from tenfold.db.shards.shape import Merge

NAN = float("nan")
COLUMNS = [
    st.integers(-2, 2),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.sampled_from([0.0, -0.0, 1.5, -1.5, float("inf"), float("-inf")]),
    st.sampled_from([NAN, 0.0, -1.0, float("inf")]),
    st.sampled_from(["", "a", "B", "é", "\ufffd", "\U0001f600"]),
    st.sampled_from([Decimal(text) for text in ("1.0", "1.00", "-3", "0", "-0", f"1.{'0' * 40}1", f"1.{'0' * 40}2")]),
    st.sampled_from([Decimal("NaN"), Decimal(1), Decimal(-1), 1, 0]),  # as merged sums of numbers may be
    st.sampled_from([dt.date(2026, 1, day) for day in (1, 2, 3)]),
    st.sampled_from([dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC) for hour in (1, 2)]),
    st.sampled_from([b"", b"a", b"\xff"]),
    st.sampled_from([UUID(int=1), UUID(int=2)]),
    st.none(),
]


@st.composite
def cases(draw: Any) -> tuple[tuple[OrderKey, ...], list[tuple[Any, ...]]]:
    chosen = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4))
    nullable = [draw(st.sampled_from([one, st.one_of(st.none(), one)])) for one in chosen]
    rows = draw(st.lists(st.tuples(*nullable), max_size=40))
    places = draw(st.permutations(range(len(chosen))))
    return tuple(OrderKey(place, draw(st.booleans()), draw(st.booleans())) for place in places), rows


def naive(order: tuple[OrderKey, ...], rows: list[tuple[Any, ...]]) -> list[int]:
    """By comparing two values as the manual of PostgreSQL says it compares them."""

    def compare(one: int, other: int) -> int:
        for term in order:
            a, b = rows[one][term.position], rows[other][term.position]
            if a is None or b is None:
                found = (a is None) - (b is None)
                found = -found if term.nulls_first else found
            else:
                strange_a, strange_b = a != a, b != b
                found = strange_a - strange_b if strange_a or strange_b else (a > b) - (a < b)
                found = -found if term.descending else found
            if found:
                return found
        return 0

    return sorted(range(len(rows)), key=cmp_to_key(compare))


@given(cases())
@example(((OrderKey(0, True), OrderKey(1)), [(1, 2), (1, 1), (2, 0)]))
@example(((OrderKey(0, True, True), OrderKey(1, False, False)), [("a", 1), (None, 2), ("b", None), ("b", 3)]))
def test_sorted_by_columns_as_by_rows_and_as_by_hand(case: tuple[tuple[OrderKey, ...], list[tuple[Any, ...]]]) -> None:
    order, rows = case
    with localcontext() as context:
        context.prec = 5  # no key may be rounded to it
        assert ranked(order, rows) == naive(order, rows)
    kinds = [
        {isinstance(value, Decimal) for value in column if value is not None} for column in zip(*rows, strict=True)
    ]
    if all(len(found) < 2 for found in kinds):  # a key of one row cannot know what else is in its column
        assert ranked(order, rows) == sorted(range(len(rows)), key=lambda place: sort_key(order)(rows[place]))


@given(cases(), st.integers(1, 4), st.integers(0, 12), st.none() | st.integers(0, 12))
def test_runs_of_shards_are_merged_and_cut(
    case: tuple[tuple[OrderKey, ...], list[tuple[Any, ...]]], shards: int, offset: int, limit: int | None
) -> None:
    """Rows are told apart by a last column that is not sorted by: equal rows come in the order of the shards."""
    order, values = case
    rows = [(*row, number) for number, row in enumerate(values)]
    parts = [[rows[at] for at in naive(order, rows) if at % shards == shard] for shard in range(shards)]
    together = [row for part in parts for row in part]
    whole = [together[place] for place in naive(order, together)]
    merge = Merge(tuple(range(len(rows[0]) if rows else 1)), order, offset=offset, limit=limit)
    got = combine(merge, parts, max_groups=1)
    stop = None if limit is None else offset + limit
    assert [row[-1] for row in got] == [row[-1] for row in whole[offset:stop]]
