"""An editor changes prices in the middle of the peak: for how long does anybody still see the old one?

Each change is written to the primary, waits for the replicas, and is told to the shop, which forgets what it made of
the product and purges the edge. A watcher asks for the page all the while, on fresh connections through the gateway.
An old price in an answer to a question that was asked *after* the shop had confirmed the change counts as late.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Final

import httpx2

from blackfriday.acts.stage import Stage
from blackfriday.shop import Shop
from blackfriday.story import Prices
from blackfriday.tuned.edge import LIFE
from tenfold import TenfoldError

BEGIN: Final = 19.0  # seconds after the run was started: payments are back by then
BETWEEN: Final = 0.5
WATCHED: Final = 2.0  # seconds after a change, the second purge included
POLL: Final = 0.02
PRODUCTS: Final = (1, 2, 3)  # the best sellers, which the edge has for certain


@dataclass(slots=True)
class PriceChanges:
    """``async with PriceChanges(stage, shop) as prices`` around a run; then `told` has what was seen."""

    stage: Stage
    shop: Shop
    begin: float = BEGIN
    changes: int = 0
    asked: int = 0
    """Requests of the watcher."""
    reads: int = 0
    """Of these, those that were asked after a change was confirmed."""
    late: int = 0
    longest: float = 0.0
    taken: list[float] = field(default_factory=list)
    """Seconds from the commit to the shop's confirmation, a change each; waiting for the replicas included."""
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PriceChanges:
        self._task = asyncio.create_task(self._happen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if kind is not None:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=kind is not None)

    async def _happen(self) -> None:
        await asyncio.sleep(self.begin)
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=self.shop.url, timeout=10, limits=limits, trust_env=False) as client:
            for product in PRODUCTS:
                # A replica that lags, or a shop that does not answer, is no change: the number of changes tells.
                with suppress(TenfoldError, OSError, TimeoutError):
                    await self._change(client, product)
                await asyncio.sleep(BETWEEN)

    async def _change(self, client: httpx2.AsyncClient, product: int) -> None:
        connection = self.stage.connection
        old: int = await connection.fetchval("SELECT price_cents FROM product WHERE id = $1", product)
        confirmed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(self._watch(client, product, old, confirmed))
        try:
            await connection.execute("UPDATE product SET price_cents = price_cents + 1 WHERE id = $1", product)
            began = monotonic()
            for replica in self.stage.servers.replicas:
                await replica.caught_up()
            await self.shop.edited(product)
            confirmed.set_result(monotonic())
            self.taken.append(monotonic() - began)
            self.changes += 1
            await watching
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _watch(
        self, client: httpx2.AsyncClient, product: int, old: int, confirmed: asyncio.Future[float]
    ) -> None:
        while not confirmed.done() or monotonic() < confirmed.result() + WATCHED:
            after = confirmed.done()
            asked = monotonic()
            self.asked += 1
            with suppress(httpx2.HTTPError):
                answer = await client.get(f"/products/{product}")
                if answer.status_code == 200 and after:
                    self.reads += 1
                    if answer.json()["price_cents"] == old:
                        self.late += 1
                        self.longest = max(self.longest, asked - confirmed.result())
            await asyncio.sleep(POLL)

    def told(self) -> Prices:
        """What was seen."""
        return Prices(
            changes=self.changes,
            reads=self.reads,
            late=self.late,
            longest=self.longest,
            confirmed_within=max(self.taken, default=0.0),
            promised=float(LIFE),
        )
