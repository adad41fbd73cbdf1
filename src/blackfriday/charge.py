"""Ask the payment service for money, with a deadline; any trouble means "not yet", never an error of the
shop's own.
"""

from __future__ import annotations

import asyncio

import httpx2


class Payments:
    """A client of the payment service that keeps its connections.

    timeout: seconds for one charge, connection included. An empty ``url`` stands for a service that is down.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url or "http://127.0.0.1:9",
            limits=httpx2.Limits(max_connections=100, max_keepalive_connections=100),
            timeout=timeout,
            trust_env=False,
        )
        self._timeout = timeout

    async def charge(self, key: str, amount_cents: int) -> str | None:
        """The reference of the payment, or None if the service refused, failed or took too long.

        Charging again with the same key is safe: the service pays a key once.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self.ask(key, amount_cents)
        except (httpx2.HTTPError, TimeoutError):
            return None

    async def ask(self, key: str, amount_cents: int) -> str:
        """The reference of the payment, from one request. Raises `httpx2.HTTPError` for anything but a payment."""
        answer = await self._client.post(
            "/payments", json={"amount_cents": amount_cents}, headers={"Idempotency-Key": key}
        )
        answer.raise_for_status()
        reference: str = answer.json()["reference"]
        return reference

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
