"""Seed data, contract helpers, documents, settings, counters, the payment service's temper: no server."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys

import pytest
from fastapi import HTTPException

from blackfriday.counters import NAMES, Counters, hit_rate
from blackfriday.domain import CATEGORIES, Scale, contract
from blackfriday.domain import seed as seeding
from blackfriday.payment import Behaviour
from blackfriday.settings import RUNGS, Settings
from blackfriday.tuned import documents

SMALL = Scale(products=500, customers=50)


def digest(scale: Scale) -> str:
    rows = [list(source(scale)) for _, source in seeding.SOURCES]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib;from blackfriday.domain import Scale, seed;s=Scale(products=500,customers=50);"
        "print(hashlib.sha256(repr([list(f(s)) for _, f in seed.SOURCES]).encode()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert other.stdout.strip() == digest(SMALL)
    assert digest(Scale(products=500, customers=50, seed=2)) != digest(SMALL)


def test_categories_are_485_in_six_levels_with_parents_first() -> None:
    rows = list(seeding.categories(SMALL))
    depth = {number: level for number, _, level, _ in rows}
    assert len(rows) == CATEGORIES == 485
    assert sorted(set(depth.values())) == [1, 2, 3, 4, 5, 6]
    assert all((parent is None) == (level == 1) for _, parent, level, _ in rows)
    assert all(depth[parent] == level - 1 and parent < number for number, parent, level, _ in rows if parent)


def test_products_and_reviews_have_the_shape_that_is_promised() -> None:
    scale = Scale(products=4000)
    products, reviews = list(seeding.products(scale)), list(seeding.reviews(scale))
    stocks = [row[8] for row in products]
    assert all(row[7] == row[8] for row in products)
    assert 4.3 < len(reviews) / len(products) < 4.7
    assert 0.01 < sum(stock == 0 for stock in stocks) / 4000 < 0.03
    assert min(stocks[: 4000 // 50]) > 40, "the best sellers are in stock"
    assert [row[5] for row in products] == sorted((row[5] for row in products), reverse=True)
    assert {row[4] for row in products if row[4] <= 0} == set()


@pytest.mark.parametrize("wrong", [{"products": 0}, {"customers": 2_000_000}])
def test_a_scale_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be from 1 to 1,000,000"):
        Scale(**wrong)


@pytest.mark.parametrize(
    ("total", "count", "mean"),
    [(0, 0, None), (5, 1, 5.0), (10, 3, 3.33), (14, 3, 4.67), (9, 8, 1.13), (1, 8, 0.13)],
)
def test_ratings_round_half_up_by_integers(total: int, count: int, mean: float | None) -> None:
    assert contract.rating(total, count) == mean


def test_search_patterns_take_wildcards_literally() -> None:
    assert contract.pattern("50%_\\") == "%50\\%\\_\\\\%"


def test_a_cursor_survives_the_way_there_and_back_and_nothing_else_does() -> None:
    assert contract.unpack(contract.pack("newest", 17, 3), str, int, int) == ["newest", 17, 3]
    for wrong in (
        "",
        "x",
        "%%%",
        contract.pack("newest"),
        contract.pack("newest", -1, 3),
        contract.pack(1, 1, 1),
    ):
        with pytest.raises(HTTPException) as caught:
            contract.unpack(wrong, str, int, int)
        assert caught.value.status_code == 422
    with pytest.raises(HTTPException):
        documents.start(contract.pack("price", 1, 1), "newest")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_rendered_shelf_is_the_json_of_the_contract(count: int) -> None:
    rows = [
        {
            "id": n,
            "name": 'a "b" é',
            "price_cents": 5,
            "category": "c",
            "total": 9,
            "reviews": 2,
            "created_at": None,
        }
        for n in range(1, count + 1)
    ]
    stocks = {1: 0, 2: 5, 3: 6}
    body = documents.shelf(rows, b',"next":null}').render(stocks)
    page = contract.Page.model_validate_json(body)
    assert [item.availability for item in page.items] == ["sold_out", "low", "in_stock"][:count]
    assert page.model_dump_json().encode() == body


def test_settings_survive_the_environment() -> None:
    told = Settings(
        variant="tuned", rung="cache", database="postgresql://x/y", replicas=("a", "b"), shards=("c", "d"),
        valkey="redis://z", causality="secret",
    )  # fmt: skip
    assert Settings.from_environment(told.to_environment()) == told
    assert [rung for rung in RUNGS if told.includes(rung)] == ["shapes", "indexes", "cache"]
    assert not Settings(variant="baseline", database="x").includes("shapes")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({}, "database must be the URL"),
        ({"database": "x", "variant": "best"}, "variant must be one of draft, "),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(**wrong)  # type: ignore[arg-type]


def test_counters_of_several_processes_are_summed_also_of_dead_ones(tmp_path: object) -> None:
    mine = Counters(str(tmp_path))
    code = (
        f"import os; from blackfriday.counters import Counters; c = Counters({str(tmp_path)!r}); "
        "c.add('requests', 41); os._exit(9)"
    )
    died = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, timeout=60, check=False)
    mine.add("requests")
    try:
        assert died.returncode == 9
        assert mine.total() == {**dict.fromkeys(NAMES, 0), "requests": 42, "workers": 2}
        assert mine.own("requests") == 1
    finally:
        mine.close()


def test_the_hit_rate_counts_every_statement_but_those_of_warming() -> None:
    nothing = dict.fromkeys(NAMES, 0)
    after = {**nothing, "requests": 100, "document_loads": 14, "stock_loads": 3, "warm_loads": 10}
    assert hit_rate(nothing, after) == pytest.approx(0.93)
    assert hit_rate(nothing, nothing) == 0.0


def test_the_payment_service_is_as_slow_and_as_unreliable_as_it_says() -> None:
    temper = Behaviour(seed=3)
    drawn = [temper.attempt(f"key-{number}", 0) for number in range(20_000)]
    seconds = sorted(wait for wait, _ in drawn)
    assert 0.024 < statistics.median(seconds) < 0.026
    assert 0.080 < seconds[int(0.99 * len(seconds))] < 0.105
    assert 0.007 < sum(not good for _, good in drawn) / len(drawn) < 0.013
    assert 0.001 < sum(wait > 0.9 for wait in seconds) / len(drawn) < 0.004
    assert drawn == [Behaviour(seed=3).attempt(f"key-{number}", 0) for number in range(20_000)]
    assert Behaviour.prompt().attempt("k", 0) == (0.0, True)


def test_documents_survive_the_codec_of_the_shared_cache() -> None:
    import msgspec

    shelf = documents.Shelf([1], [b"a"], b"b", "c")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(shelf), type=documents.Shelf) == shelf
    assert json.loads(documents.Sheet(b'{"id":1,"availability":').render(3)) == {
        "id": 1, "availability": "low", "stock": 3,
    }  # fmt: skip
