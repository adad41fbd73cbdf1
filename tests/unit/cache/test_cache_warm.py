"""Warming: in order, at a rate, bounded, told of, and not fatal for one bad key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache, PopularKey, WarmFailed, WarmReport
from tenfold.cache.warm import Pace
from tenfold.testing import FakeClock


def made(clock: FakeClock, seconds: float = 0.0) -> tuple[Cache, Any, list[tuple[float, int, str]]]:
    cache, calls = Cache("t", clock=clock), list[tuple[float, int, str]]()

    @cache("1h", name="page")
    async def page(number: int, *, language: str = "en") -> str:
        calls.append((clock.monotonic(), number, language))
        await asyncio.sleep(seconds)
        if number < 0:
            raise ValueError(f"no page {number}")
        return f"{number} {language}"

    return cache, page, calls


def test_keys_are_cached_in_their_order_and_the_report_says_so() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)

        async def main() -> WarmReport:
            report = await cache.warm(page, [1, (2,), (3, "de")], concurrency=1)
            before = len(calls)
            assert [await page(1), await page(2), await page(3, language="de")] == ["1 en", "2 en", "3 de"]
            assert len(calls) == before
            return report

        report = clock.run(main())
    assert [call[1:] for call in calls] == [(1, "en"), (2, "en"), (3, "de")]
    assert report == WarmReport(warmed=3, errors=0, skipped=0, total=3, seconds=0.0, complete=True)


def test_the_rate_spreads_the_starts_and_a_stall_is_not_made_up_for() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)
        clock.run(cache.warm(page, range(11), rate="10/s"))
        assert [round(call[0], 6) for call in calls] == [n / 10 for n in range(11)]
    pace = Pace(10, 0.0)
    assert [pace.wait(0.0), pace.wait(0.0)] == [0.0, pytest.approx(0.1)]
    assert pace.wait(5.0) == 0.0  # late: it starts at once,
    assert pace.wait(5.0) == pytest.approx(0.1)  # and the next keeps its distance from it


def test_no_more_calls_than_asked_for_run_at_a_time() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock, seconds=1.0)
        report = clock.run(cache.warm(page, range(9), concurrency=3))
        assert [call[0] for call in calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert report.seconds == 3


def test_many_are_warmed_in_batches_of_which_two_overlap() -> None:
    with FakeClock() as clock:
        cache, batches = Cache("t", clock=clock), list[tuple[float, list[int]]]()

        @cache.many("1h")
        async def products(ids: list[int]) -> dict[int, str]:
            batches.append((clock.monotonic(), ids))
            await asyncio.sleep(1)
            return {one: str(one) for one in ids}

        report = clock.run(cache.warm(products, iter(range(250)), batch=50))
        assert [(when, len(ids)) for when, ids in batches] == [(0, 50), (0, 50), (1, 50), (1, 50), (2, 50)]
        assert [one for _, ids in batches for one in ids] == list(range(250))
        assert (report.warmed, report.total, report.complete) == (250, None, True)


def test_a_rate_counts_the_ids_and_not_the_batches() -> None:
    with FakeClock() as clock:
        cache, when = Cache("t", clock=clock), list[float]()

        @cache.many("1h")
        async def products(ids: list[int]) -> dict[int, int]:
            when.append(clock.monotonic())
            return {one: one for one in ids}

        clock.run(cache.warm(products, range(100), batch=20, rate=10))
        assert when == pytest.approx([0, 2, 4, 6, 8])


def test_some_errors_are_counted_and_told() -> None:
    with FakeClock() as clock:
        cache, page, _ = made(clock)
        report = clock.run(cache.warm(page, [-1, *range(20)]))
        assert (report.warmed, report.errors, report.complete) == (20, 1, True)
        ((arguments, error),) = report.examples
        assert (arguments, str(error)) == ((-1,), "no page -1")


def test_too_many_errors_end_it_and_the_rest_is_spared() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)
        with pytest.raises(WarmFailed, match=r"warm page: 101 of 101 .*max_errors=10%.*no page") as failed:
            clock.run(cache.warm(page, range(-1000, 0), concurrency=1))
        assert len(calls) == failed.value.report.errors == 101
        assert failed.value.report.complete is False
        calls.clear()
        with pytest.raises(WarmFailed):  # nobody knows how many there are: a share of those tried
            clock.run(cache.warm(page, iter(range(-1000, 0)), concurrency=1))
        assert len(calls) == 3


def test_a_few_keys_are_all_tried_before_it_is_called_a_failure() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)
        with pytest.raises(WarmFailed):
            clock.run(cache.warm(page, [-1, -2, 3, 4]))
        assert len(calls) == 4
        assert clock.run(cache.warm(page, [-1, -2, 3, 4], max_errors=0.5)).errors == 2


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    with FakeClock() as clock:
        cache, page, _ = made(clock)
        told: list[WarmReport] = []
        last = clock.run(cache.warm(page, range(101), rate=20, on_progress=told.append))
        assert 9 <= len(told) <= 12
        assert [one.warmed for one in told] == sorted(one.warmed for one in told)
        assert told[-1] == last
        assert [one.complete for one in told] == [False] * (len(told) - 1) + [True]


def test_a_callback_that_fails_ends_it_with_its_own_error() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)

        def tell(report: WarmReport) -> None:
            raise RuntimeError("the screen is gone")

        with pytest.raises(RuntimeError, match="the screen is gone"):
            clock.run(cache.warm(page, range(1000), rate=10, on_progress=tell))
        assert len(calls) < 20


def test_after_the_time_out_it_says_how_far_it_came() -> None:
    with FakeClock() as clock:
        cache, page, _ = made(clock)
        report = clock.run(cache.warm(page, range(1000), rate=10, timeout="1s"))
        assert report.complete is False
        assert report.warmed in (10, 11)


def test_who_cancels_it_stops_it_and_no_task_is_left() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)

        async def main() -> None:
            warming = asyncio.create_task(cache.warm(page, range(1000), rate=10))
            await asyncio.sleep(1.05)
            warming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await warming
            at = len(calls)
            await asyncio.sleep(10)
            assert len(calls) == at == 11
            assert asyncio.all_tasks() == {asyncio.current_task()}

        clock.run(main())


def test_popular_keys_come_back_as_arguments_and_others_are_skipped() -> None:
    with FakeClock() as clock:
        cache, page, calls = made(clock)
        keys = [
            PopularKey(page.key(7, language='say "hi", (you)'), 9),
            PopularKey("other(1)", 8),
            PopularKey("page(nonsense,1)", 7),
            PopularKey("page(1)", 6),  # of an older version that had one parameter
            PopularKey(page.key(8), 5),
        ]
        report = clock.run(cache.warm(page, keys, concurrency=1))
        assert [call[1:] for call in calls] == [(7, 'say "hi", (you)'), (8, "en")]
        assert (report.warmed, report.skipped) == (2, 3)
        assert report.complete


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"concurrency": 0}, "concurrency: expected a whole number of 1"),
        ({"rate": 0}, "rate: expected more than 0 keys a second"),
        ({"rate": "often"}, "rate: expected a rate"),
        ({"max_errors": 2}, "max_errors: expected a share"),
        ({"timeout": "soon"}, "timeout: expected a duration"),
    ],
)
async def test_options_that_make_no_sense_are_refused(options: Any, sentence: str) -> None:
    cache = Cache("t")

    @cache("1h")
    async def f(a: int) -> int:
        return a

    with pytest.raises(MisuseError, match=sentence):
        await cache.warm(f, [1], **options)


async def test_what_cannot_be_warmed_is_refused() -> None:
    cache, other = Cache("t"), Cache("other")

    async def plain(a: int) -> int:
        return a

    decorated = other("1h")(plain)
    for function in (plain, decorated):
        with pytest.raises(MisuseError, match=r"expected a function that this cache \('t'\) decorated"):
            await cache.warm(function, [1])
    with pytest.raises(MisuseError, match="keys: expected an iterable of arguments"):
        await other.warm(decorated, "abc")
