"""Cursors: every value comes back as it was, nobody else's is taken; and lists without a total order are refused."""

from __future__ import annotations

import base64
import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Enum, ForeignKey, Integer, MetaData, Table, Text, func, select

from tenfold._core.errors import MisuseError
from tenfold.db.cursors import CursorError, Place, Signer, decode, encode
from tenfold.db.keyset import Keyset

SECRET = b"0123456789abcdef"
OTHER = b"fedcba9876543210"
META = MetaData()
SHOPS = Table("shops", META, Column("id", Integer, primary_key=True), Column("name", Text, nullable=False))
THINGS = Table(
    "things",
    META,
    Column("id", Integer, primary_key=True),
    Column("shop", ForeignKey("shops.id")),
    Column("a", Integer),
)


class Colour(enum.Enum):
    RED = "r"


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.binary(),
    st.lists(st.integers()),
)


@given(st.lists(values, max_size=4), st.sampled_from(["after", "before"]))
def test_values_come_back_as_they_were(given: list[Any], way: Any) -> None:
    signer = Signer(SECRET)
    place = Place(way, tuple(given))
    found = signer.read(signer.sign(place, "q"), "q", [None] * len(given))
    assert found == place
    assert [type(one) for one in found.values or ()] == [type(one) for one in given]


def test_enums_and_nan() -> None:
    assert decode(encode(Colour.RED), Enum(Colour)) is Colour.RED
    assert math.isnan(decode(encode(math.nan)))
    with pytest.raises(MisuseError, match="fit into 4096 characters"):
        Signer(SECRET).sign(Place("after", ("x" * 4096,)), "q")
    with pytest.raises(MisuseError, match="type object cannot be told in a cursor"):
        encode(object())


@given(st.integers(0, 200), st.integers(1, 255))
def test_one_altered_byte_is_a_forgery(at: int, by: int) -> None:
    signer = Signer(SECRET)
    raw = bytearray(base64.urlsafe_b64decode(signer.sign(Place("after", (1, "x")), "q") + "=="))
    raw[at % len(raw)] ^= by
    with pytest.raises(CursorError) as caught:
        signer.read(base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode(), "q", [None, None])
    assert caught.value.reason == "forged"


def test_secrets_are_replaced_without_a_break() -> None:
    old = Signer(OTHER).sign(Place("after", (7,)), "q")
    assert Signer([SECRET, OTHER]).read(old, "q", [None]) == Place("after", (7,))
    with pytest.raises(CursorError, match="not signed by this service"):
        Signer(SECRET).read(old, "q", [None])
    with pytest.raises(MisuseError, match="expected 16 bytes or more"):
        Signer("short")


@pytest.mark.parametrize("cursor", ["", "!!", "a", "é", "A" * 5000])
def test_what_is_no_cursor(cursor: str) -> None:
    with pytest.raises(CursorError) as caught:
        Keyset(select(THINGS), [THINGS.c.a], secret=SECRET).statement(cursor)
    assert caught.value.reason in ("malformed", "forged")


def test_a_cursor_is_bound_to_order_filters_and_their_values() -> None:
    def keyset(by: Any, shop: int = 1) -> Keyset[Any]:
        return Keyset(select(THINGS).where(THINGS.c.shop == shop), [by], secret=SECRET)

    cursor = keyset(THINGS.c.a).last()
    assert keyset(THINGS.c.a).statement(cursor) is not None  # made anew, as in another process
    for other in (keyset(THINGS.c.a.desc()), keyset(THINGS.c.shop), keyset(THINGS.c.a, shop=2)):
        with pytest.raises(CursorError, match="in another order or with other filters") as caught:
            other.statement(cursor)
        assert caught.value.reason == "foreign"


JOINED = select(THINGS, SHOPS.c.name).outerjoin(SHOPS)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Keyset(select(THINGS).order_by(THINGS.c.a), [], secret=SECRET), "has ORDER BY of its own"),
        (lambda: Keyset(select(THINGS).limit(1), [], secret=SECRET), "has LIMIT of its own"),
        (lambda: Keyset(select(THINGS.c.a).distinct(), [], secret=SECRET), "has DISTINCT of its own"),
        (lambda: Keyset(select(func.max(THINGS.c.a)).group_by(THINGS.c.shop), [], secret=SECRET), "has GROUP BY"),
        (lambda: Keyset(JOINED, [THINGS.c.a], secret=SECRET), r"name columns that are unique.*unique=\["),
        (lambda: Keyset(select(THINGS), ["a"], secret=SECRET), "order: expected columns"),
        (lambda: Keyset(select(THINGS), [], secret=SECRET, size=0), "size: expected a whole number"),
        (lambda: Keyset(select(THINGS), [], secret=SECRET, size=10**6), "size: expected 10000 at most"),
    ],
)
def test_refusals(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        make()


def test_the_key_is_appended_once() -> None:
    assert repr(Keyset(select(THINGS), [THINGS.c.a.desc()], secret=SECRET)) == (
        "<Keyset by things.a DESC, things.id DESC, 20 a page>"
    )
    assert "things.id, things.a" in repr(Keyset(select(THINGS), [THINGS.c.id, THINGS.c.a], secret=SECRET)).replace(
        " ASC", ""
    )


def test_a_column_of_an_outer_join_may_be_null_after_all() -> None:
    keyset: Keyset[Any] = Keyset(JOINED, [SHOPS.c.name], secret=SECRET, unique=[THINGS.c.id])
    cursor = keyset._cursor(Place("after", ("x", 1)))
    assert "shops.name IS NULL" in str(keyset.statement(cursor))


def test_the_types_that_are_told() -> None:
    told = [date(2024, 2, 29), datetime(2024, 1, 1, tzinfo=UTC), time(1), timedelta(days=-1, microseconds=3), b"\0"]
    told += [UUID(int=5), Decimal("1.50"), float("-inf")]
    assert [decode(encode(one)) for one in told] == told
    assert str(decode(encode(Decimal("1.50")))) == "1.50"
