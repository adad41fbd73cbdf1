"""The stock board on a real Valkey: fresh after every sale, and harmless when Valkey is frozen, killed or
flooded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from blackfriday.tuned import board as boards
from blackfriday.tuned.board import StockBoard
from tenfold.servers import Valkey


class Primary:
    """The stock as the database has it, and how often it was asked. ``gate`` holds loads after they have
    read.
    """

    def __init__(self) -> None:
        self.stock = {1: 100, 2: 200, 3: 300}
        self.loads: list[list[int]] = []
        self.gate: asyncio.Event | None = None

    async def load(self, numbers: list[int]) -> dict[int, int]:
        self.loads.append(numbers)
        read = {number: self.stock[number] for number in numbers if number in self.stock}
        if self.gate is not None:
            await self.gate.wait()
        return read


@pytest_asyncio.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


@asynccontextmanager
async def worker(url: str, primary: Primary) -> AsyncIterator[StockBoard]:
    board = StockBoard(url, primary.load)
    await board.open()
    try:
        yield board
    finally:
        await board.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_a_figure_is_loaded_once_and_again_after_a_sale_in_any_worker(valkey: Valkey) -> None:
    primary = Primary()
    async with worker(valkey.url, primary) as one, worker(valkey.url, primary) as other:
        for board in (one, other, one, other):
            assert (await board.stocks([1, 2]))[1] == 100
        assert primary.loads == [[1, 2], [1, 2]]
        for left in range(99, 49, -1):
            primary.stock[1] = left
            await one.tell([1])
            assert (await other.stocks([1, 2]))[1] == left
            assert (await one.stocks([1]))[1] == left
        assert primary.loads[2:] == [[1]] * 100
        assert "valid" in repr(one)


async def test_unknown_products_are_left_out(valkey: Valkey) -> None:
    async with worker(valkey.url, Primary()) as board:
        assert 4 not in await board.stocks([1, 4])


async def test_a_load_that_read_before_a_sale_does_not_bring_the_old_figure_back(valkey: Valkey) -> None:
    primary = Primary()
    async with worker(valkey.url, primary) as one, worker(valkey.url, primary) as other:
        primary.gate = asyncio.Event()
        early = asyncio.create_task(other.stocks([1]))
        await until(lambda: bool(primary.loads))  # it has read 100 and waits
        primary.stock[1] = 99
        await one.tell([1])
        late = asyncio.create_task(other.stocks([1]))
        await until(lambda: len(primary.loads) == 2)  # the second question does not share the first load
        primary.gate.set()
        assert (await early)[1] == 100  # asked before the sale was answered
        assert (await late)[1] == 99
        assert (await other.stocks([1]))[1] == 99


async def test_many_at_once_share_questions_and_loads_and_one_that_leaves_hurts_nobody(
    valkey: Valkey,
) -> None:
    primary = Primary()
    async with worker(valkey.url, primary) as board:
        asking = [asyncio.create_task(board.stocks([1, 2])) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(not isinstance(answer, BaseException) and answer[2] == 200 for answer in answers[1:])
        assert primary.loads == [[1, 2]]


async def test_a_worker_far_behind_forgets_everything(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "READ_AT_ONCE", 5)
    primary = Primary()
    async with worker(valkey.url, primary) as one, worker(valkey.url, primary) as other:
        await other.stocks([1, 2, 3])
        primary.stock = {1: 1, 2: 2, 3: 3}
        for number in (1, 2, 3, 1, 2, 3, 1, 2, 3):
            await one.tell([number])
        assert dict(await other.stocks([1, 2, 3])) == primary.stock


async def test_a_frozen_valkey_costs_its_patience_once(valkey: Valkey) -> None:
    primary = Primary()
    async with worker(valkey.url, primary) as board:
        assert (await board.stocks([1]))[1] == 100
        await valkey.pause()
        try:
            primary.stock[1] = 99
            started = time.monotonic()
            await board.tell([1])  # kept, to be told later
            assert (await board.stocks([1]))[1] == 99
            assert time.monotonic() - started < 3 * boards.PATIENCE
            await until(lambda: "bypassed" in repr(board))
            started = time.monotonic()
            for _ in range(20):
                assert (await board.stocks([1]))[1] == 99
            assert time.monotonic() - started < boards.PATIENCE
        finally:
            await valkey.resume()
        await until(lambda: "valid" in repr(board))
        assert "0 sales untold" in repr(board)
        loads = len(primary.loads)
        await board.stocks([1])
        await board.stocks([1])
        assert len(primary.loads) == loads + 1


async def test_a_valkey_that_was_killed_comes_back_to_an_empty_board(valkey: Valkey) -> None:
    primary = Primary()
    async with worker(valkey.url, primary) as one, worker(valkey.url, primary) as other:
        assert (await other.stocks([1]))[1] == 100
        await valkey.kill()
        primary.stock[1] = 98
        await one.tell([1])
        assert (await other.stocks([1]))[1] == 98
        await valkey.restart()
        await until(lambda: "valid, " in repr(one) and "valid, " in repr(other))
        assert (await other.stocks([1]))[1] == 98
        primary.stock[1] = 97
        await one.tell([1])
        assert (await other.stocks([1]))[1] == 97


async def test_without_a_valkey_the_primary_is_asked_each_time() -> None:
    primary = Primary()
    async with worker("", primary) as board:
        await board.stocks([1])
        await board.tell([1])
        await board.stocks([1])
        assert primary.loads == [[1], [1]]


async def test_popular_figures_come_by_one_statement_at_the_start_and_whenever_all_is_void(
    valkey: Valkey,
) -> None:
    primary = Primary()
    one, other = StockBoard(valkey.url, primary.load), StockBoard(valkey.url, primary.load)
    try:
        for board in (one, other):
            await board.open([1, 2, 3])
        assert primary.loads == [[1, 2, 3]] * 2
        primary.stock = {1: 7, 2: 8, 3: 9}
        await one.tell_all()
        for _ in range(3):
            for number in (1, 2, 3):
                assert (await other.stocks([number]))[number] == primary.stock[number]
        assert primary.loads[2:] == [[1, 2, 3]]
    finally:
        await one.aclose()
        await other.aclose()
