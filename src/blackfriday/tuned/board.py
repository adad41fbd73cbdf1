"""The stock board: every worker's own copy of the stock figures, never older than the last sale that was
answered.

A listing shows the stock of twenty products. Fetching twenty figures from Valkey for each page costs more
than all the rest of a cached answer, and copies in the workers' memory that are invalidated by a broadcast
may be read a moment too
early: the customer whose checkout one worker has just answered would see the old figure from another.

So the copies are *validated*, not trusted. Sales are written to a log in Valkey, after the commit and before
the checkout is answered. A reader first asks for what was logged since it last looked, forgets those
figures, and only then reads its copy. The question is a few bytes, usually answered with "nothing", and
requests that arrive while one is under way share the next. What a request sees is therefore at least as new
as every sale answered before the request came:

    checkout   commit → log → answer
    reader                             request → read log → forget → copy, or the primary

A load that began before a figure was forgotten does not bring the old figure back: it no longer owns the
entry. Without Valkey (none, frozen, cut) there is no log to ask, and the figures come from the primary;
after a reconnection the board starts empty, because what was logged meanwhile may be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

import hiredis

from blackfriday.tuned.wire import Wire, pack

LOG = "blackfriday:sales"
LOG_LENGTH = 10_000
READ_AT_ONCE = 1_000
PATIENCE = 1.0
BACK_OFF = 1.0
UNTOLD = 10_000

Stocks = dict[int, int]
Load = Callable[[list[int]], Coroutine[Any, Any, Stocks]]

_APPEND = ("XADD", LOG, "MAXLEN", "~", str(LOG_LENGTH), "*", "ids")


class StockBoard:
    """Stock figures of one worker.

    valkey: URL, or empty for none. load: reads figures from the primary. An entry is a figure, or the load
    under way.
    """

    def __init__(self, valkey: str, load: Load) -> None:
        self._valkey = valkey
        self._load = load
        self._wire: Wire | None = None
        self._lost = asyncio.Event()
        self._popular: list[int] = []
        self._figures: Stocks = {}
        self._loading: dict[int, asyncio.Task[Stocks]] = {}
        self._next: asyncio.Future[bool] | None = None
        self._asking = False
        self._question = b""
        self._untold: dict[int, None] = {}
        self._all_untold = False
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "valid" if self._wire is not None else "bypassed"
        return f"<StockBoard {state}, {len(self._figures)} figures, {len(self._untold)} sales untold>"

    async def open(self, popular: Iterable[int] = ()) -> None:
        """Connect to Valkey and stay connected; one that is away now is used when it is back.

        The figures of ``popular`` products are loaded by one statement, now and after each reconnection.
        """
        self._popular = list(popular)
        if self._valkey:
            with suppress(OSError, TimeoutError, hiredis.HiredisError):
                await self._connect()
                await self._refill()
            self._keeper = asyncio.create_task(self._keep(), name="stock board")

    async def aclose(self) -> None:
        """Stop, and close the connection."""
        tasks = [self._keeper, *self._loading.values()]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        if self._wire is not None:
            self._wire.close()

    async def stocks(self, numbers: list[int]) -> Mapping[int, int]:
        """The stock of these products; those that do not exist are left out."""
        if not await self._validate():
            return await self._load(numbers)
        figures = self._figures
        missing = [number for number in numbers if number not in figures]
        return figures if not missing else await self._fill(numbers, missing)

    async def tell(self, numbers: Iterable[int]) -> None:
        """These figures have changed and the change is committed: log it, so that no later request misses it.

        Should Valkey not take the entry, it is logged at the reconnection; workers that still reach Valkey
        may show the old figure until then.
        """
        told = list(numbers)
        self._forget(told)
        if self._valkey and not await self._append(" ".join(map(str, told))):
            self._keep_untold(told)

    async def tell_all(self) -> None:
        """As :meth:`tell`, for whoever has changed the stock behind the shop's back and does not know
        which.
        """
        self._forget_all()
        if self._valkey and not await self._append("*"):
            self._all_untold = True

    async def _append(self, what: str) -> bool:
        wire = self._wire
        if wire is None:
            return False
        try:
            await wire.send(*_APPEND, what)
        except (ConnectionError, hiredis.HiredisError):
            wire.close()  # also after a refusal: the reconnection is what repeats it
            return False
        return True

    def _keep_untold(self, told: list[int]) -> None:
        self._untold.update(dict.fromkeys(told))
        if len(self._untold) > UNTOLD:
            self._untold.clear()
            self._all_untold = True

    # -- the log

    async def _validate(self) -> bool:
        """Read the log as of now; False where it cannot be read.

        A question already sent may have been answered before the latest sale, so it is not shared; one that
        is about to be sent is.
        """
        if self._wire is None:
            return False
        shared = self._next
        if shared is None:
            loop = asyncio.get_running_loop()
            shared = self._next = loop.create_future()
            if not self._asking:
                self._asking = True
                loop.call_soon(self._ask)  # whoever comes in this turn of the loop shares the question
        return await asyncio.shield(shared)

    def _ask(self) -> None:
        shared, self._next = self._next, None
        if shared is None:
            self._asking = False
        elif self._wire is None:
            self._asking = False
            shared.set_result(False)
        else:
            self._wire.send_packed(self._question).add_done_callback(lambda reply: self._answer(shared, reply))

    def _answer(self, shared: asyncio.Future[bool], reply: asyncio.Future[object]) -> None:
        good = reply.exception() is None
        if good:
            self._hear(reply.result())
        if not shared.done():
            shared.set_result(good)
        self._ask()

    def _stand_at(self, position: str) -> None:
        self._question = pack("XREAD", "COUNT", str(READ_AT_ONCE), "STREAMS", LOG, position)

    def _hear(self, reply: Any) -> None:
        if not reply:
            return
        entries = reply[0][1]
        self._stand_at(entries[-1][0].decode())
        if len(entries) >= READ_AT_ONCE or any(fields[1] == b"*" for _, fields in entries):
            # All is void, or this worker is too far behind to know what is.
            self._forget_all()
            if self._popular:
                self._begin(self._popular)
        else:
            for _, fields in entries:
                self._forget(map(int, fields[1].split()))

    # -- figures

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._figures.pop(number, None)
            self._loading.pop(number, None)  # goes on for those who wait, but may not store

    def _forget_all(self) -> None:
        self._figures.clear()
        self._loading.clear()

    async def _fill(self, numbers: list[int], missing: list[int]) -> Mapping[int, int]:
        tasks: set[asyncio.Task[Stocks]] = set()
        mine = [number for number in missing if number not in self._loading]
        for number in missing:
            if number in self._loading:
                tasks.add(self._loading[number])
        found = {number: self._figures[number] for number in numbers if number in self._figures}
        if mine:
            tasks.add(self._begin(mine))
        for task in tasks:
            found.update(await asyncio.shield(task))
        return found

    def _begin(self, numbers: list[int]) -> asyncio.Task[Stocks]:
        task = asyncio.create_task(self._load(numbers))
        for number in numbers:
            self._loading[number] = task
        task.add_done_callback(lambda done: self._store(numbers, done))
        return task

    def _store(self, numbers: list[int], task: asyncio.Task[Stocks]) -> None:
        failed = task.cancelled() or task.exception() is not None
        for number in numbers:
            if self._loading.get(number) is task:
                del self._loading[number]
                if not failed and number in task.result():
                    self._figures[number] = task.result()[number]

    # -- the connection

    async def _connect(self) -> None:
        self._lost.clear()
        wire = await Wire.connect(self._valkey, PATIENCE, self._lost.set)
        try:
            newest: Any = await wire.send("XREVRANGE", LOG, "+", "-", "COUNT", "1")
            self._stand_at(newest[0][0].decode() if newest else "0")
            self._forget_all()
            if self._untold or self._all_untold:
                await wire.send(*_APPEND, "*" if self._all_untold else " ".join(map(str, self._untold)))
                self._untold.clear()
                self._all_untold = False
        except BaseException:
            wire.close()
            raise
        self._wire = wire

    async def _refill(self) -> None:
        """Load at once what would else be loaded a page at a time; if that fails, it is."""
        missing = [number for number in self._popular if number not in self._figures]
        if missing:
            await asyncio.wait({self._begin(missing)})

    async def _keep(self) -> None:
        while True:
            if self._wire is not None:
                await self._lost.wait()
                self._wire = None
                self._forget_all()
            try:
                await self._connect()
                await self._refill()
            except (OSError, TimeoutError, hiredis.HiredisError):
                await asyncio.sleep(BACK_OFF)
