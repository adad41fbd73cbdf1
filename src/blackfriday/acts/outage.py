"""The payment service goes away in the middle of the peak, and comes back.

Frozen, not killed: it still takes connections, so that only patience tells that it is gone. Who browses must not
notice. Who checks out gets an order whose money is pending, at once after the first few have waited, and the money is
collected when the service is back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final

from blackfriday.acts.stage import Stage
from blackfriday.journeys import BROWSE
from blackfriday.shop import Shop
from blackfriday.story import Outage
from tenfold.load import RunResult

BEGIN: Final = 6.0  # seconds after the run was started
SECONDS: Final = 10.0
POLL: Final = 0.25
SETTLED_WITHIN: Final = 15.0


@dataclass(slots=True)
class PaymentOutage:
    """``async with PaymentOutage(stage, shop) as outage`` around a run; then `told` has what it did."""

    stage: Stage
    shop: Shop
    checkouts: int = 0
    pending: int = 0
    seconds: float = 0.0
    paid_again: float | None = None
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PaymentOutage:
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
        await asyncio.sleep(BEGIN)
        before = await self.shop.stats()
        began = monotonic()
        async with self.stage.payment.frozen():
            await asyncio.sleep(SECONDS)
            during = await self.shop.stats()
        back = monotonic()
        self.seconds = back - began
        self.checkouts = during["checkouts"] - before["checkouts"]
        self.pending = during["payment_failures"] - before["payment_failures"]
        while monotonic() - back < SETTLED_WITHIN:
            # The first checkout whose order was paid at once, not later by the cashier.
            now = await self.shop.stats()
            paid = now["checkouts"] - now["payment_failures"]
            if paid > during["checkouts"] - during["payment_failures"]:
                self.paid_again = monotonic() - back
                return
            await asyncio.sleep(POLL)

    async def told(self, result: RunResult) -> Outage:
        """What customers noticed, by the whole run around it; waits for the money that is still pending."""
        began = monotonic()
        left = await self.stage.unpaid()
        while left and monotonic() - began < SETTLED_WITHIN:
            await asyncio.sleep(POLL)
            left = await self.stage.unpaid()
        browsing = [step for step in result.steps if step.name in BROWSE]
        return Outage(
            seconds=self.seconds,
            browsed=sum(step.attempts for step in browsing),
            failed_browses=sum(sum(step.errors.values()) for step in browsing),
            checkouts=self.checkouts,
            pending=self.pending,
            failed_checkouts=sum(sum(step.errors.values()) for step in result.steps if step.name == "checkout"),
            paid_again=self.paid_again,
            never_paid=left,
        )
