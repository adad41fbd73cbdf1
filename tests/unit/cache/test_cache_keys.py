"""Keys: different arguments never share one, equal calls always do, the rest is refused in a sentence."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import uuid
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import pydantic
import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.keys import encode


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


@dataclass
class Filter:
    words: str
    limit: int = 10
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Range:
    words: str
    limit: int = 10


class Page(msgspec.Struct):
    number: int
    filter: Filter | None = None


class Model(pydantic.BaseModel):
    number: int
    ids: frozenset[int] = frozenset()


class Open(pydantic.BaseModel, extra="allow"):
    number: int


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
    set(),
    {1, 2},
    {1},
    {"1"},
    Filter("a"),
    Filter("a", 11),
    Filter('a",limit=10'),
    Range("a"),
    ("a", 10),
    Page(1),
    Page(2),
    Page(1, Filter("a")),
    Model(number=1),
    Model(number=1, ids=frozenset({1})),
    Open(number=1),
    Open(number=1, colour="red"),  # type: ignore[call-arg]
]


def test_values_of_different_types_or_contents_have_different_texts() -> None:
    for one, other in itertools.combinations(DISTINCT, 2):
        assert encode(one, "f", "a") != encode(other, "f", "a"), (one, other)


def test_a_frozenset_is_encoded_in_one_order() -> None:
    assert encode(frozenset(["a", "b", "c"]), "f", "a") == '{"a","b","c"}'


def test_equal_models_have_one_text_and_say_where_they_come_from() -> None:
    assert encode({"b", "a"}, "f", "a") == 'set{"a","b"}'
    assert encode(Filter("a", note="x"), "f", "a") == encode(Filter("a", note="y"), "f", "a")
    assert encode(Filter("a"), "f", "a") == f'{__name__}.Filter(words="a",limit=10)'
    assert encode(Page(1), "f", "a") == encode(Page(number=1), "f", "a")
    assert encode(Model(number=1, ids=frozenset({2, 1})), "f", "a") == f"{__name__}.Model(number=1,ids={{1,2}})"


def test_a_field_that_cannot_be_a_key_is_named() -> None:
    with pytest.raises(MisuseError, match=r"argument 'page.filter.words' is of type list"):
        encode(Page(1, Filter(["a"])), "f", "page")  # type: ignore[arg-type]


async def test_a_model_that_is_changed_is_another_key() -> None:
    cache = Cache("t")

    @cache("1m")
    async def f(a: Filter) -> str:
        return a.words

    one = Filter("a")
    assert [await f(one), await f(Filter("a"))] == ["a", "a"]
    one.words = "b"
    assert await f(one) == "b"
    assert (cache.stats().hits, cache.stats().misses) == (1, 2)


@pytest.mark.parametrize("value", [[1], {1: 2}, object(), lambda: None, ([1],)])
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
