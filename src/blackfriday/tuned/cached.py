"""The catalogue behind ``tenfold.cache``: documents for an hour, stock apart and never older than the last
sale.

Documents (pages, product sheets) live in the memory of each worker and in Valkey; they are tagged
``catalog``, so that an editor's change drops them at once, and they know nothing of stock, so that a sale
drops none. Stock comes from the :mod:`~blackfriday.tuned.board`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import documents, sql
from blackfriday.tuned.board import StockBoard
from blackfriday.tuned.catalogue import Catalogue, Listed, Stocks
from blackfriday.tuned.documents import Sheet, Shelf
from blackfriday.tuned.origin import Origin
from tenfold.cache import Cache

DOCUMENT_TTL = "1h"
PATIENCE = "150ms"  # a busy machine is late now and then; a document from PostgreSQL would be later still
FIGURES = 100_000  # stock figures that each worker takes over when it starts: one statement, a few megabytes
WARM_BATCH = 500
BATCHES_TOGETHER = 2
WARM_TOGETHER = 4


class CachedCatalogue(Catalogue):
    """The same answers as :class:`Catalogue`, mostly without PostgreSQL."""

    def __init__(self, origin: Origin, counters: Counters, valkey: str) -> None:
        super().__init__(origin, counters)
        self.cache = cache = Cache("shop", redis=valkey or None, max_items=100_000, ttl=DOCUMENT_TTL, timeout=PATIENCE)

        @cache(tags=["catalog", "listings"])
        async def listing(sort: str, key: int, number: int, limit: int) -> Shelf:
            return (await self.load_listing("price" if sort == "price" else "newest", key, number, limit))[0]

        @cache(tags=["catalog", "category:{category}"])
        async def category_page(category: int, key: int, number: int, limit: int) -> Shelf | None:
            loaded = await self.load_category(category, key, number, limit)
            return loaded[0] if loaded else None

        @cache(tags=["catalog", "searches"])
        async def search(words: str) -> Shelf:
            return (await self.load_search(words))[0]

        @cache.many(tags=["catalog", "product:{id}"])
        async def sheets(numbers: list[int]) -> dict[int, Sheet]:
            return (await self.load_sheets(numbers))[0]

        self._listing, self._category, self._search, self._sheets = listing, category_page, search, sheets
        self.board = StockBoard(valkey, self.load_stocks)

    async def open(self) -> None:
        """Connect to Valkey; without an answer the shop starts all the same, and slower."""
        await self.cache.__aenter__()
        before = self.counters.own("stock_loads")
        popular = await self.origin.fetch(sql.POPULAR, FIGURES)
        await self.board.open(row["id"] for row in popular)
        self.counters.add("warm_loads", self.counters.own("stock_loads") - before)

    async def load_stocks(self, numbers: list[int]) -> Stocks:
        """The stock of these products as the primary has it."""
        self.counters.add("stock_loads")
        return {row["id"]: row["stock"] for row in await self.origin.fetch(sql.STOCKS, numbers)}

    async def listing(self, sort: contract.Sort, key: int, number: int, limit: int) -> Listed:
        """A listing's answer."""
        document = await self._listing(sort, key, number, limit)
        return document.render(await self.board.stocks(document.ids)), document.ids

    async def category(self, category: int, key: int, number: int, limit: int) -> Listed:
        """A category's answer; 404."""
        document = await self._category(category, key, number, limit)
        if document is None:
            contract.no_category(category)
        return document.render(await self.board.stocks(document.ids)), document.ids

    async def search(self, words: str) -> Listed:
        """A search's answer; letter case makes no second entry."""
        document = await self._search(words.lower())
        body = document.render(await self.board.stocks(document.ids))
        return documents.answer_search(words, body), document.ids

    async def detail(self, number: int) -> bytes:
        """The body of a product page; 404."""
        sheets = await self._sheets([number])
        if number not in sheets:
            contract.no_product(number)
        return sheets[number].render((await self.board.stocks([number]))[number])

    async def sold(self, numbers: Iterable[int]) -> None:
        """Log the sale; no request that comes after this reads the old figures, in whichever worker."""
        await self.board.tell(numbers)

    async def warm(self, products: int) -> dict[str, int]:
        """Load the most viewed products, and the first two pages of every listing and category."""
        before = self.counters.own("document_loads")
        numbers = [row["id"] for row in await self.origin.fetch(sql.POPULAR, products)]
        batches = [numbers[at : at + WARM_BATCH] for at in range(0, len(numbers), WARM_BATCH)]
        for at in range(0, len(batches), BATCHES_TOGETHER):  # PostgreSQL loads one while Valkey stores the other
            await asyncio.gather(*map(self._sheets, batches[at : at + BATCHES_TOGETHER]))
        pages = 0
        for sort in ("newest", "price"):
            page = await self._listing(sort, -1, -1, contract.PAGE)
            pages += 1
            if page.next:
                await self._listing(sort, *documents.start(page.next, sort), contract.PAGE)
                pages += 1
        categories = [row["id"] for row in await self.origin.fetch(sql.CATEGORIES)]
        for at in range(0, len(categories), WARM_TOGETHER):
            some = categories[at : at + WARM_TOGETHER]
            pages += sum(await asyncio.gather(*map(self._warm_category, some)))
        self.counters.add("warm_loads", self.counters.own("document_loads") - before)
        return {"products": len(numbers), "pages": pages}

    async def edited(self, number: int) -> None:
        """Forget the product's sheet, and the lists that may show it."""
        categories = [f"category:{row['id']}" for row in await self.origin.fetch(sql.SHOWN_IN, number)]
        await self.cache.invalidate_tags(f"product:{number}", "listings", "searches", *categories)

    async def clear(self) -> None:
        """Forget every document and figure, in all workers."""
        await self.cache.clear()
        await self.board.tell_all()

    async def _warm_category(self, category: int) -> int:
        page = await self._category(category, -1, -1, contract.PAGE)
        if page is None or not page.next:
            return 1
        await self._category(category, *documents.start(page.next, "newest"), contract.PAGE)
        return 2

    async def aclose(self) -> None:
        """Close the connections to Valkey."""
        await self.board.aclose()
        await self.cache.aclose()
