"""Keys: different arguments never share one, equal calls always do, the rest is refused in a sentence."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import uuid
from decimal import Decimal

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.keys import encode


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


DISTINCT = [
    1,
    True,
    1.0,
    "1",
    b"1",
    None,
    "None",
    "True",
    Colour.RED,
    Level.ONE,
    (1,),
    ("1",),
    ((1,), 2),
    (1, (2,)),
    (1, 2),
    (),
    frozenset(),
    frozenset({1, 2}),
    frozenset({"1", 2}),
    'a","b',
    ("a", "b"),
    'a\\","b',
    uuid.UUID(int=1),
    str(uuid.UUID(int=1)),
    Decimal(1),
    dt.date(2026, 1, 1),
    dt.datetime(2026, 1, 1),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.time(1),
    dt.timedelta(1),
    0.0,
    -0.0,
    0,
    False,
]


def test_values_of_different_types_or_contents_have_different_texts() -> None:
    for one, other in itertools.combinations(DISTINCT, 2):
        assert encode(one, "f", "a") != encode(other, "f", "a"), (one, other)


def test_a_frozenset_is_encoded_in_one_order() -> None:
    assert encode(frozenset(["a", "b", "c"]), "f", "a") == '{"a","b","c"}'


@pytest.mark.parametrize("value", [[1], {1: 2}, {1}, object(), lambda: None, ([1],)])
def test_what_cannot_be_a_key_is_refused_with_function_and_argument(value: object) -> None:
    with pytest.raises(MisuseError, match=r"shop\.product: argument 'filters' is of type \w+"):
        encode(value, "shop.product", "filters")


def test_defaults_keywords_and_positions_make_one_key() -> None:
    cache = Cache("t")

    @cache("1m", name="f")
    async def f(a: int, b: str = "x", /, c: int = 3, *, d: bool = False) -> int:
        return a

    assert f.key(1) == f.key(1, "x", 3) == f.key(1, "x", c=3, d=False) == 'f(1,"x",3,False)'
    assert f.key(1, "x", 3, d=True) != f.key(1)
    with pytest.raises(TypeError):
        f.key()
    with pytest.raises(TypeError):
        f.key(1, b="y")


async def test_a_function_without_arguments_and_one_that_shadows_names() -> None:
    cache = Cache("t")

    @cache("1m", name="nothing")
    async def nothing() -> int:
        return 5

    @cache("1m", name="shadow")
    async def shadow(str: int, type: int, len: int) -> int:
        return str + type + len

    assert nothing.key() == "nothing()"
    assert await nothing() == 5
    assert await shadow(1, 2, 3) == 6
