"""The recorded top keys: what hits and misses make of them, ageing, keeping and reading back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.popular import SLICE, Life, Popularity


def test_an_entry_is_counted_once_however_often_it_is_looked_at() -> None:
    known = Popularity()
    for hits in (0, 5, 5, 9):
        known.fold([Life(1, "a", hits)], 0.0)
    assert known.top(5) == [("a", 9)]
    known.fold([Life(2, "a", 4)], 0.0)  # another entry: another life
    assert known.top(5) == [("a", 13)]
    known.fold([Life(2, "a", 3)], 0.0)  # lowered by the eviction
    assert known.top(5) == [("a", 13)]


def test_entries_without_a_hit_are_not_held() -> None:
    known = Popularity()
    known.fold([Life(1, "a", 0)], 0.0)
    assert len(known) == 0


def test_a_frequent_key_displaces_the_least_and_may_come_back_with_its_count() -> None:
    known = Popularity(2)
    known.fold([Life(1, "a", 10), Life(2, "b", 5), Life(3, "c", 7)], 0.0)
    assert known.top(5) == [("a", 10), ("c", 7)]
    for _ in range(3):
        known.missed("b")  # 5 were kept in the sketch: 8 now
    assert known.top(5) == [("a", 10), ("b", 8)]


def test_each_half_life_halves() -> None:
    known = Popularity(half_life=100)
    known.fold([Life(1, "old", 64)], 0.0)
    known.fold([Life(1, "old", 64), Life(2, "new", 20)], 250.0)
    assert known.top(2) == [("new", 20), ("old", 16)]
    known.fold([], 300.0)
    assert known.top(2) == [("new", 10), ("old", 8)]
    known.fold([], 1e9)
    assert known.top(2) == [("new", 0), ("old", 0)]


def test_slices_go_round() -> None:
    known = Popularity()
    entries = range(2 * SLICE + 10)
    seen = [one for _ in range(3) for one in known.next_slice(entries)]
    assert sorted(seen) == list(entries)
    assert len(known.next_slice(entries)) == SLICE


def test_a_dump_comes_back_and_merging_twice_changes_nothing() -> None:
    first, second = Popularity(), Popularity()
    first.fold([Life(1, "a", 10), Life(2, "b", 3)], 0.0)
    second.fold([Life(1, "b", 7), Life(2, "c", 1)], 0.0)
    for _ in range(2):
        assert second.merge(first.dump()) == 2
        assert second.top(5) == [("a", 10), ("b", 7), ("c", 1)]


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x94\x02\x80\x01\xc4\x00", b"\x94\x01\x80\x08\xc4\x02xx"])
def test_what_is_no_dump_is_refused(garbage: bytes) -> None:
    with pytest.raises(MisuseError, match="popular keys: expected what `save_popular` wrote"):
        Popularity().merge(garbage)


async def used(cache: Cache) -> Any:
    @cache("1h", name="page")
    async def page(number: int) -> int:
        return number

    for number, times in ((1, 2), (2, 4), (3, 1)):
        for _ in range(times):
            await page(number)
    return page


async def test_the_cache_knows_what_is_asked_for() -> None:
    cache = Cache("t")
    page = await used(cache)
    assert cache.popular() == [(page.key(2), 4), (page.key(1), 2), (page.key(3), 1)]
    assert cache.popular(1) == [(page.key(2), 4)]
    assert cache.popular() == cache.popular()  # looking changes nothing


async def test_what_was_evicted_long_ago_is_still_known() -> None:
    cache = Cache("t", max_items=300)

    @cache("1h", name="page")
    async def page(number: int) -> int:
        return number

    for _ in range(3):
        await page(-1)
    for number in range(2000):
        await page(number)
        await page(number)  # a hit moves it to the main queue, where the first one is in the way
    assert page.key(-1) not in cache._memory
    assert cache.popular(1)[0].key == page.key(-1)


async def test_a_new_process_warms_what_was_popular(tmp_path: Path) -> None:
    old = Cache("t")
    await used(old)
    await old.save_popular(tmp_path / "popular")
    new, loads = Cache("t"), []

    @new("1h", name="page")
    async def page(number: int) -> int:
        loads.append(number)
        return number

    assert await new.load_popular(tmp_path / "popular") == 3
    report = await new.warm(page, new.popular(2), concurrency=1)
    assert (loads, report.warmed) == ([2, 1], 2)
    assert os.listdir(tmp_path) == ["popular"]  # and no half-written one beside it


async def test_no_file_is_no_error_and_a_wrong_one_is(tmp_path: Path) -> None:
    cache = Cache("t")
    assert await cache.load_popular(tmp_path / "absent") == 0
    (tmp_path / "wrong").write_text("wrong")
    with pytest.raises(MisuseError, match="save_popular"):
        await cache.load_popular(tmp_path / "wrong")
    with pytest.raises(MisuseError, match="no level 2 to keep them in; give a path"):
        await cache.save_popular()
    with pytest.raises(MisuseError, match="count: expected a whole number"):
        cache.popular(0)
