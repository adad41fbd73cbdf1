"""The pages of the catalogue: statement, document, stock. This one asks PostgreSQL each time; ``cached``
builds on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.tuned import documents, sql
from blackfriday.tuned.documents import Sheet, Shelf
from blackfriday.tuned.origin import Origin

Stocks = dict[int, int]
Listed = tuple[bytes, list[int]]  # the body of a list's answer, and the products on it


class Catalogue:
    """Every answer by one statement.

    ``load_*`` are the origin loads, each counted where it happens; they return the document and the stock
    seen with it.
    """

    def __init__(self, origin: Origin, counters: Counters) -> None:
        self.origin = origin
        self.counters = counters

    async def open(self) -> None:
        """Prepare; the origin is open."""

    async def load_listing(self, sort: contract.Sort, key: int, number: int, limit: int) -> tuple[Shelf, Stocks]:
        """A page of all products."""
        self.counters.add("document_loads")
        if sort == "newest":
            rows = await self.origin.read(sql.NEWEST, *documents.moment(key, number), limit + 1)
        else:
            rows = await self.origin.read(sql.CHEAPEST, key, number, limit + 1)
        return documents.page(rows, limit, sort), {row["id"]: row["stock"] for row in rows}

    async def load_category(self, category: int, key: int, number: int, limit: int) -> tuple[Shelf, Stocks] | None:
        """A page of a category; None if there is no such category."""
        self.counters.add("document_loads")
        rows = await self.origin.read(sql.CATEGORY, category, *documents.moment(key, number), limit + 1)
        if not rows:
            return None
        rows = [row for row in rows if row["id"] is not None]
        return documents.page(rows, limit, "newest"), {row["id"]: row["stock"] for row in rows}

    async def load_search(self, words: str) -> tuple[Shelf, Stocks]:
        """The products found."""
        self.counters.add("document_loads")
        rows = await self.origin.read(sql.SEARCH, contract.pattern(words), contract.FOUND)
        return documents.found(rows), {row["id"]: row["stock"] for row in rows}

    async def load_sheets(self, numbers: list[int]) -> tuple[dict[int, Sheet], Stocks]:
        """The product pages that exist among ``numbers``."""
        self.counters.add("document_loads")
        rows = await self.origin.read(sql.DETAILS, numbers, contract.LATEST_REVIEWS)
        return {row["id"]: documents.sheet(row) for row in rows}, {row["id"]: row["stock"] for row in rows}

    async def listing(self, sort: contract.Sort, key: int, number: int, limit: int) -> Listed:
        """A listing's answer."""
        document, stocks = await self.load_listing(sort, key, number, limit)
        return document.render(stocks), document.ids

    async def category(self, category: int, key: int, number: int, limit: int) -> Listed:
        """A category's answer; 404."""
        loaded = await self.load_category(category, key, number, limit)
        if loaded is None:
            contract.no_category(category)
        document, stocks = loaded
        return document.render(stocks), document.ids

    async def search(self, words: str) -> Listed:
        """A search's answer."""
        document, stocks = await self.load_search(words)
        return documents.answer_search(words, document.render(stocks)), document.ids

    async def detail(self, number: int) -> bytes:
        """The body of a product page; 404."""
        sheets, stocks = await self.load_sheets([number])
        if number not in sheets:
            contract.no_product(number)
        return sheets[number].render(stocks[number])

    async def sold(self, numbers: Iterable[int]) -> None:
        """The stock of these products has changed and the change is committed; returns when no reader can
        miss it.
        """

    async def edited(self, number: int) -> None:
        """A product has changed in the database, replicas included; returns when what was made of it is forgotten."""

    async def clear(self) -> None:
        """Forget what was loaded; nothing without a cache."""

    async def warm(self, products: int) -> dict[str, int]:
        """Load what will be asked for most; nothing without a cache."""
        return {"products": 0, "pages": 0}

    async def aclose(self) -> None:
        """Release what the catalogue holds."""
