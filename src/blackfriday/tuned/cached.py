"""The catalogue behind ``tenfold.cache``: documents for an hour, stock apart and never older than the last sale.

**Documents** (pages, product sheets) live in the memory of each worker and in Valkey; they are tagged ``catalog``, so
that an editor's change drops them at once. **Stock** lives in Valkey alone: were it in the memory of the workers, a
customer whose checkout was answered by one worker could read the old figure from the other. A checkout deletes the
figures it changed before it answers, and a load that began before the deletion cannot store what it read. Without a
Valkey there is nothing that all workers share, so stock is then read from the primary each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import documents, sql
from blackfriday.tuned.catalogue import Catalogue, Stocks
from blackfriday.tuned.documents import Shelf, Sheet
from blackfriday.tuned.origin import Origin
from tenfold.cache import Cache, CachedMany

DOCUMENT_TTL = "1h"
STOCK_TTL = "1m"
WARM_BATCH = 500


class CachedCatalogue(Catalogue):
    """The same answers as :class:`Catalogue`, mostly without PostgreSQL."""

    def __init__(self, origin: Origin, counters: Counters, valkey: str) -> None:
        super().__init__(origin, counters)
        self.cache = cache = Cache("shop", redis=valkey or None, max_items=100_000, ttl=DOCUMENT_TTL, jitter=0.1)

        @cache(DOCUMENT_TTL, tags=["catalog"])
        async def listing(sort: str, key: int, number: int, limit: int) -> Shelf:
            return (await self.load_listing("price" if sort == "price" else "newest", key, number, limit))[0]

        @cache(DOCUMENT_TTL, tags=["catalog", "category:{category}"])
        async def category_page(category: int, key: int, number: int, limit: int) -> Shelf | None:
            loaded = await self.load_category(category, key, number, limit)
            return loaded[0] if loaded else None

        @cache(DOCUMENT_TTL, tags=["catalog"])
        async def search(words: str) -> Shelf:
            return (await self.load_search(words))[0]

        @cache.many(DOCUMENT_TTL, tags=["catalog"])
        async def sheets(numbers: list[int]) -> dict[int, Sheet]:
            return (await self.load_sheets(numbers))[0]

        self._listing, self._category, self._search = listing, category_page, search
        self._sheets = sheets
        self._stocks: CachedMany[int, int] | None = None
        if valkey:

            @cache.many(STOCK_TTL, memory=False)
            async def stocks(numbers: list[int]) -> dict[int, int]:
                return await self.load_stocks(numbers)

            self._stocks = stocks

    async def load_stocks(self, numbers: list[int]) -> Stocks:
        """The stock of these products as the primary has it."""
        self.counters.add("stock_loads")
        return {row["id"]: row["stock"] for row in await self.origin.fetch(sql.STOCKS, numbers)}

    async def stocks(self, numbers: list[int]) -> Stocks:
        """The stock of these products, not older than the last sale that was answered."""
        if not numbers:
            return {}
        return await (self.load_stocks(numbers) if self._stocks is None else self._stocks(numbers))

    async def listing(self, sort: contract.Sort, key: int, number: int, limit: int) -> bytes:
        """The body of a listing's answer."""
        document = await self._listing(sort, key, number, limit)
        return document.render(await self.stocks(document.ids))

    async def category(self, category: int, key: int, number: int, limit: int) -> bytes:
        """The body of a category's answer; 404."""
        document = await self._category(category, key, number, limit)
        if document is None:
            contract.no_category(category)
        return document.render(await self.stocks(document.ids))

    async def search(self, words: str) -> bytes:
        """The body of a search's answer; letter case makes no second entry."""
        document = await self._search(words.lower())
        return documents.answer_search(words, document.render(await self.stocks(document.ids)))

    async def detail(self, number: int) -> bytes:
        """The body of a product page; 404."""
        sheets = await self._sheets([number])
        if number not in sheets:
            contract.no_product(number)
        return sheets[number].render((await self.stocks([number]))[number])

    async def sold(self, numbers: Iterable[int]) -> None:
        """Delete the stock figures in Valkey; after this no worker can read the old ones.

        Should Valkey not confirm it, the deletion is repeated in the background, and a worker that still reaches Valkey
        may show the old figure until then, for a minute at most.
        """
        if self._stocks is not None:
            await self._stocks.invalidate(*numbers)

    async def warm(self, products: int) -> dict[str, int]:
        """Load the most viewed products, and the first page of every listing and category."""
        before = self.counters.own("document_loads") + self.counters.own("stock_loads")
        numbers = [row["id"] for row in await self.origin.fetch(sql.POPULAR, products)]
        for at in range(0, len(numbers), WARM_BATCH):
            some = numbers[at : at + WARM_BATCH]
            await self._sheets(some)
            await self.stocks(some)
        pages = 0
        for sort in ("newest", "price"):
            await self._listing(sort, -1, -1, contract.PAGE)
            pages += 1
        categories = [row["id"] for row in await self.origin.fetch(sql.CATEGORIES)]
        for at in range(0, len(categories), 4):
            some = categories[at : at + 4]
            found = await asyncio.gather(*(self._category(one, -1, -1, contract.PAGE) for one in some))
            await self.stocks(sorted({number for page in found if page for number in page.ids}))
            pages += len(some)
        loads = self.counters.own("document_loads") + self.counters.own("stock_loads") - before
        self.counters.add("warm_loads", loads)
        return {"products": len(numbers), "pages": pages}

    async def aclose(self) -> None:
        """Close the connections to Valkey."""
        await self.cache.aclose()
