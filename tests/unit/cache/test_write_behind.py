"""Writes that are stored later: together, the newest of each key, at least once, and never more than fit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache, WriteError
from tenfold.testing import FakeClock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as made:
        yield made


class Origin:
    """Stores batches, or fails as told; ``batches`` has (time, batch) of each call."""

    def __init__(self, clock: FakeClock, **options: Any) -> None:
        self.clock, self.cache = clock, Cache("t", clock=clock)
        self.batches: list[tuple[float, dict[Any, Any]]] = []
        self.rows: dict[Any, Any] = {}
        self.failures, self.seconds = 0, 0.0
        self.told: list[tuple[dict[Any, Any], Exception]] = []
        options.setdefault("on_error", lambda batch, error: self.told.append((batch, error)))

        @self.cache.write_behind(**options)
        async def save(batch: dict[Any, Any]) -> None:
            self.batches.append((clock.monotonic(), batch))
            await asyncio.sleep(self.seconds)
            if self.failures > 0:
                self.failures -= 1
                raise OSError("down")
            self.rows.update(batch)

        self.save = save


def test_a_batch_goes_out_after_the_delay_with_the_newest_values(clock: FakeClock) -> None:
    origin = Origin(clock, delay="200ms")

    async def main() -> None:
        await origin.save("a", 1)
        await asyncio.sleep(0.15)
        await origin.save("a", 2)  # does not put it off
        await origin.save("b", 3)
        assert (origin.save.pending("a"), origin.save.pending("x", 0)) == (2, 0)
        await asyncio.sleep(0.06)
        assert origin.batches == [(pytest.approx(0.2), {"a": 2, "b": 3})]
        assert origin.save.pending("a") is None

    clock.run(main())
    stats = origin.save.stats()
    assert (stats.put, stats.coalesced, stats.stored, stats.batches, stats.pending) == (3, 1, 2, 1, 0)


def test_a_full_batch_does_not_wait(clock: FakeClock) -> None:
    origin = Origin(clock, batch=3, delay="1h")

    async def main() -> None:
        for key in range(7):
            await origin.save(key, key)
        await asyncio.sleep(0.001)
        assert [list(batch) for _, batch in origin.batches] == [[0, 1, 2], [3, 4, 5]]
        assert origin.save.stats().pending == 1
        assert await origin.save.flush()
        assert origin.rows == {key: key for key in range(7)}
        assert clock.monotonic() < 1

    clock.run(main())


def test_closing_the_cache_stores_what_waits(clock: FakeClock) -> None:
    origin = Origin(clock, delay="1h")

    async def main() -> None:
        async with origin.cache:
            await origin.save("a", 1)
        assert origin.rows == {"a": 1}
        await origin.save("a", 2)  # used again afterwards
        await origin.cache.aclose()
        assert origin.rows == {"a": 2}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    clock.run(main())


def test_a_failure_is_tried_again_and_a_newer_value_takes_the_place_of_the_failed(clock: FakeClock) -> None:
    origin = Origin(clock, delay=0)
    origin.failures = 2

    async def main() -> None:
        await origin.save("a", 1)
        await origin.save("b", 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(origin.batches) == 1
        await origin.save("a", 2)
        assert origin.save.pending("a") == 2
        await origin.save.flush()

    clock.run(main())
    assert origin.rows == {"a": 2, "b": 1}
    # The old value of "a" is not sent a second time, and so cannot come after the new one.
    assert [batch for _, batch in origin.batches] == [{"a": 1, "b": 1}, {"b": 1}, {"b": 1}, {"a": 2}]
    assert origin.save.stats().retries == 2
    assert origin.told == []


def test_after_the_deadline_it_is_given_up_told_and_the_next_go_on(clock: FakeClock) -> None:
    origin = Origin(clock, delay=0, retry_for="10s")
    origin.failures = 10**6

    async def main() -> None:
        await origin.save("a", 1)
        await origin.save.flush()
        assert clock.monotonic() <= 10
        origin.failures = 0
        await origin.save("b", 2)
        await origin.save.flush()

    clock.run(main())
    ((batch, error),) = origin.told
    assert (batch, str(error)) == ({"a": 1}, "down")
    assert origin.rows == {"b": 2}
    assert origin.save.stats().lost == 1
    assert len(origin.batches) > 4


def test_a_store_that_hangs_is_stopped_and_tried_again(clock: FakeClock) -> None:
    origin = Origin(clock, delay=0, timeout="2s", retry_for="30s")
    origin.seconds = 3600

    async def main() -> None:
        await origin.save("a", 1)
        await asyncio.sleep(1)
        origin.seconds = 0
        await origin.save.flush()

    clock.run(main())
    assert origin.rows == {"a": 1}
    assert 2 <= origin.batches[1][0] <= 3


def test_a_full_buffer_holds_the_writers_back_in_their_order(clock: FakeClock) -> None:
    origin = Origin(clock, batch=2, max_pending=4, delay=0, patience="1m")
    origin.seconds = 1.0
    when: list[tuple[int, float]] = []

    async def write(key: int) -> None:
        await origin.save(key, key)
        when.append((key, clock.monotonic()))

    async def main() -> None:
        await asyncio.gather(*[write(key) for key in range(10)])
        assert origin.save.stats().pending <= 4
        await origin.save.flush()

    clock.run(main())
    assert [key for key, _ in when] == list(range(10))
    assert [time for _, time in when] == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert list(origin.rows) == list(range(10))


def test_a_key_that_waits_can_be_written_though_the_buffer_is_full(clock: FakeClock) -> None:
    origin = Origin(clock, batch=1, max_pending=1, delay="1h", patience=0)

    async def main() -> None:
        origin.seconds = 1
        await origin.save("a", 1)
        await origin.save("a", 2)
        with pytest.raises(WriteError, match=r"was full for 0 s; slow down") as refused:
            await origin.save("b", 1)
        assert refused.value.writes == {"b": 1}
        assert origin.save.stats().refused == 1
        await origin.save.flush()

    clock.run(main())
    assert origin.rows == {"a": 2}


def test_a_writer_that_goes_while_it_waits_leaves_its_place_to_the_next(clock: FakeClock) -> None:
    origin = Origin(clock, batch=1, max_pending=1, delay=0, patience="1m")
    origin.seconds = 1.0

    async def main() -> None:
        await origin.save(0, 0)
        writers = [asyncio.create_task(origin.save(key, key)) for key in (1, 2)]
        await asyncio.sleep(0.5)
        writers[0].cancel()
        await asyncio.wait(writers)
        await origin.save.flush()

    clock.run(main())
    assert origin.rows == {0: 0, 2: 2}


def test_what_cannot_be_stored_before_closing_ends_is_told_and_raised(clock: FakeClock) -> None:
    origin = Origin(clock, delay=0, retry_for="1h")
    origin.failures = 10**6

    async def main() -> None:
        await origin.save("a", 1)
        await asyncio.sleep(1)
        await origin.save("b", 2)
        with pytest.raises(WriteError, match="closed with 2 keys that could not be stored") as lost:
            await origin.cache.aclose()
        assert lost.value.writes == {"a": 1, "b": 2}
        assert clock.monotonic() == pytest.approx(31)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    clock.run(main())
    assert [batch for batch, _ in origin.told] == [{"a": 1, "b": 2}]
    assert origin.save.stats().lost == 2


def test_nothing_is_taken_while_it_closes(clock: FakeClock) -> None:
    origin = Origin(clock, delay=0)
    origin.seconds = 1

    async def main() -> None:
        await origin.save("a", 1)
        closing = asyncio.create_task(origin.save.aclose())
        await asyncio.sleep(0.5)
        with pytest.raises(WriteError, match="is closing and takes no more writes"):
            await origin.save("b", 1)
        await closing

    clock.run(main())
    assert origin.rows == {"a": 1}


def test_the_entries_of_stored_keys_are_invalidated_after_the_store(clock: FakeClock) -> None:
    cache, rows = Cache("t", clock=clock), {1: 0, 2: 0}

    @cache("1h")
    async def views(number: int) -> int:
        return rows[number]

    @cache.many("1h")
    async def all_views(ids: list[int]) -> dict[int, int]:
        return {one: rows[one] for one in ids}

    @cache.write_behind(views)
    async def save(batch: dict[int, int]) -> None:
        rows.update(batch)

    @cache.write_behind(all_views)
    async def save_also(batch: dict[int, int]) -> None:
        rows.update(batch)

    async def main() -> None:
        assert (await views(1), await all_views([1, 2])) == (0, {1: 0, 2: 0})
        await save(1, 5)
        assert await views(1) == 0  # not stored yet
        await save.flush()
        assert await views(1) == 5
        await save_also(2, 6)
        await save_also.flush()
        assert await all_views([1, 2]) == {1: 0, 2: 6}

    clock.run(main())


def test_a_callback_that_fails_stops_nothing(clock: FakeClock, caplog: Any) -> None:
    def fails(batch: Any, error: Exception) -> None:
        raise RuntimeError("and the pager is down")

    origin = Origin(clock, delay=0, retry_for=0, on_error=fails)
    origin.failures = 1

    async def main() -> None:
        for key in ("a", "b"):
            await origin.save(key, 1)
            await origin.save.flush()

    clock.run(main())
    assert origin.rows == {"b": 1}
    assert "on_error failed" in caplog.text


def test_a_loop_that_ended_without_closing_loses_nothing_that_the_process_still_has(clock: FakeClock) -> None:
    origin = Origin(clock, delay="1h")

    async def first() -> None:
        await origin.save("a", 1)
        await asyncio.sleep(0.1)

    async def second() -> None:
        await origin.save.aclose()

    clock.run(first())
    clock.run(second())
    assert origin.rows == {"a": 1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 0}, "batch: expected a whole number of 1"),
        ({"batch": 10, "max_pending": 5}, r"batch: expected at most max_pending \(5\), got 10"),
        ({"delay": "soon"}, "delay: expected a duration"),
        ({"timeout": 0}, "timeout: expected a duration above zero"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        Cache("t").write_behind(**options)


def test_a_plain_function_is_refused() -> None:
    with pytest.raises(MisuseError, match="expected a function declared with `async def`"):
        Cache("t").write_behind()(lambda batch: None)  # type: ignore[arg-type, return-value]
