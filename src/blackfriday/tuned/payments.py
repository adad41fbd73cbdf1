"""The payment service behind a policy, and the orders that wait for their money.

A checkout never waits for a payment service that is down, and never fails with it: the order stands, its
status says ``payment_pending``, and the `Cashier` asks again until the money is there. Both go through one
policy, so that the cashier stops asking when the checkouts find nobody, and its questions are what finds the
service back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import httpx2

from blackfriday.charge import Payments
from blackfriday.tuned.orders import Orders
from tenfold.resilience import Breaker, Bulkhead, Policy, Rejected, Retry

_log = logging.getLogger("blackfriday.payments")

PERIOD = 1.0  # seconds between two looks at what is pending
GRACE = 3.0  # seconds in which an order is still its checkout's own
AT_ONCE = 20
FAILURES = (httpx2.HTTPError, TimeoutError, Rejected)


def policy() -> Policy:
    """Charging is idempotent (the service pays a key once), so a lost answer is asked for again. Nearly all
    answers come within 100 ms: one that takes 400 will not come.
    """
    return Policy(
        "payments",
        deadline="1500ms",
        timeout="400ms",
        idempotent=True,
        retry=Retry(3, base="20ms", cap="200ms"),
        breaker=Breaker(consecutive=5, open="1s", open_max="4s", ramp="2s"),
        bulkhead=Bulkhead(64, queue=0),
        registry=None,
    )


class GuardedPayments(Payments):
    """As `Payments`, under `policy`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=5.0)  # of the client, for what no policy stops
        self.policy = policy()

    async def charge(self, key: str, amount_cents: int) -> str | None:
        """The reference of the payment, or None if there is none yet."""
        try:
            return await self.policy.call(self.ask, key, amount_cents)
        except FAILURES:
            return None


class Cashier:
    """Settles pending orders in the background: ``async with Cashier(orders, payments)``.

    Several workers may ask for the same order: the service pays a key once, and an order becomes paid once.
    """

    def __init__(self, orders: Orders, payments: Payments) -> None:
        self._orders = orders
        self._payments = payments
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Cashier:
        self._task = asyncio.create_task(self._work(), name="cashier")
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                while await self.settle():
                    pass
            except self._orders.away as error:
                _log.warning("pending payments have to wait: %s", error)

    async def settle(self) -> bool:
        """Ask for the money of some pending orders; whether all of them were paid and there may be more."""
        pending = await self._orders.pending(GRACE, AT_ONCE)
        for row in pending:
            reference = await self._payments.charge(
                f"{row['customer_id']}-{row['idempotency_key']}", row["total_cents"]
            )
            if reference is None:
                return False
            await self._orders.paid(row["id"], row["customer_id"], reference, row["total_cents"])
        return len(pending) >= AT_ONCE
