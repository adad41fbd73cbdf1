"""What the shop tells the cache in front of it: how long a page may be kept, by which words it is purged, and when.

A product page carries ``product:7``, a list ``shown:7`` for each of its products. A sale changes the figure on the
product page, so it purges ``product:7``. A list shows the figure only as a word (in stock, low, sold out), so it is
purged when the word changes: one sale in dozens, and that is what keeps lists in the edge at all.

The purge is *awaited*, after the stock board and before the checkout is answered::

    checkout   commit ─▶ board ─▶ purge ─▶ answer
    edge                            │ what is stored goes; what is under way is passed on and not stored
    reader                                      request ─▶ a worker ─▶ the board

so that what a request sees is at least as new as every sale that was answered before it came, as it is without an edge.
A gateway that cannot be reached within `PATIENCE` makes a checkout late and not wrong: the sale stands, is counted in
``purge_failures``, and the page is old for `LIFE` at most.

An editor's change reaches the workers by the cache's own invalidation, which tells the other workers in passing: for a
moment one of them may answer, and the edge keep, the old document. So such a change is purged again `AGAIN` later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import httpx2

from blackfriday.counters import Counters

LIFE: Final = 30  # seconds for which the edge may keep a page; no page is older, whatever happens
PATIENCE: Final = 0.5
AGAIN: Final = 1.0
OWN: Final = {"Cache-Control": "private, no-store"}
_PUBLIC: Final = f"public, max-age=0, s-maxage={LIFE}"


class Edge:
    """The headers of pages, and the purges of what they say. Without ``url`` the headers alone."""

    def __init__(self, url: str, token: str, counters: Counters) -> None:
        self._counters = counters
        self._again: set[asyncio.Task[None]] = set()
        self._client = None
        if url:
            self._client = httpx2.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=PATIENCE,
                trust_env=False,
            )

    @staticmethod
    def product(number: int) -> dict[str, str]:
        """Of a product page."""
        return {"Cache-Control": _PUBLIC, "Surrogate-Key": f"product:{number}"}

    @staticmethod
    def shelf(numbers: Sequence[int]) -> dict[str, str]:
        """Of a list of these products."""
        if not numbers:
            return {"Cache-Control": _PUBLIC}
        return {"Cache-Control": _PUBLIC, "Surrogate-Key": " ".join([f"shown:{number}" for number in numbers])}

    async def sold(self, numbers: Iterable[int], reworded: Iterable[int]) -> None:
        """The stock of ``numbers`` has changed, and with ``reworded`` the word that lists show."""
        await self._purge({"tags": [*(f"product:{one}" for one in numbers), *(f"shown:{one}" for one in reworded)]})

    async def edited(self, number: int) -> None:
        """A product has changed, wherever it is shown."""
        await self._purge({"tags": [f"product:{number}", f"shown:{number}"]})
        task = asyncio.create_task(self._later(number))
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def clear(self) -> None:
        """Everything may have changed."""
        await self._purge({"all": True})

    async def aclose(self) -> None:
        """Forget the second purges, and close the connections."""
        for task in self._again:
            task.cancel()
        await asyncio.gather(*self._again, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _later(self, number: int) -> None:
        await asyncio.sleep(AGAIN)
        await self._purge({"tags": [f"product:{number}", f"shown:{number}"]})

    async def _purge(self, what: dict[str, object]) -> None:
        if self._client is None:
            return
        with suppress(httpx2.HTTPError):
            answer = await self._client.post("/v1/purge", json=what)
            if answer.status_code == 200:
                return
        self._counters.add("purge_failures")
