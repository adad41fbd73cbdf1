"""Buyers who look at what they have just done, while the peak goes on: is their own write there?

A buyer reads the stock of a product, puts one into the cart and reads the cart, buys it, and reads order and product
again, each time on a fresh connection, so that another worker may answer, from whichever replica it likes. After a
purchase the stock may only be lower than before: others buy too, nobody returns anything. Anything else is a stale
read.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import httpx2

from blackfriday.journeys import CUSTOMERS, RESERVED_CUSTOMERS

PERIOD: Final = 0.25
PRODUCTS: Final = range(1, 400)  # the best sellers: cached everywhere, and bought by others meanwhile


@dataclass(slots=True)
class OwnReads:
    """``async with OwnReads(url) as reads`` buys until the block ends; the numbers stand afterwards."""

    url: str
    reads: int = 0
    stale: int = 0
    orders: list[int] = field(default_factory=list)
    skipped: int = 0
    """Rounds that ended without a purchase: sold out, or an answer other than 2xx."""
    _enough: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> OwnReads:
        self._task = asyncio.create_task(self._buy_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if kind is None:
            # A purchase that was begun is seen through: its order is acknowledged, so it must be counted. Every request
            # of it has a time-out.
            self._enough.set()
        else:
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _buy_on(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=self.url, timeout=10, limits=limits) as client:
            number = 0
            while not self._enough.is_set():
                number += 1
                try:
                    await self._round(client, number)
                except httpx2.HTTPError:
                    self.skipped += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._enough.wait()

    async def _round(self, client: httpx2.AsyncClient, number: int) -> None:
        product = PRODUCTS[number * 37 % len(PRODUCTS)]
        customer = {"X-Customer": str(CUSTOMERS - number % RESERVED_CUSTOMERS)}
        before = await self._json(client, f"/products/{product}", customer)
        cart = await client.post("/cart/items", json={"product_id": product, "quantity": 1}, headers=customer)
        shown = await self._json(client, "/cart", customer)
        key = {"Idempotency-Key": f"own-reads-{number}", **customer}
        receipt = await client.post("/checkout", headers=key)
        if before is None or cart.status_code != 201 or receipt.status_code != 201:
            self.skipped += 1
            return
        self.reads += 1
        self.stale += shown is None or product not in [line["product_id"] for line in shown["items"]]
        order = receipt.json()["order_id"]
        self.orders.append(int(order))
        after, stored = await asyncio.gather(
            self._json(client, f"/products/{product}", customer), self._json(client, f"/orders/{order}", customer)
        )
        self.reads += 2
        self.stale += after is None or after["stock"] > before["stock"] - 1
        self.stale += stored is None or product not in [line["product_id"] for line in stored["lines"]]

    async def _json(self, client: httpx2.AsyncClient, path: str, headers: dict[str, str]) -> dict[str, Any] | None:
        answer = await client.get(path, headers=headers)
        return answer.json() if answer.status_code == 200 else None
