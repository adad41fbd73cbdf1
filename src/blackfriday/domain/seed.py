"""Deterministic seed data: the same seed and scale give the same rows on every machine, loaded by COPY.

The rank of a product in demand is its id (1 sells most): ``weekly_views`` falls as 1/rank, and so does the
draw of the journeys. Prices, dates, stock and categories are drawn independently of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from blackfriday.domain import words
from blackfriday.domain.schema import add_keys, create_tables

if TYPE_CHECKING:
    import asyncpg

LEVELS = (5, 20, 60, 100, 140, 160)  # 485 categories in six levels
CATEGORIES = sum(LEVELS)
OPENED = datetime(2024, 1, 1, tzinfo=UTC)
CHUNK = 25_000

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much data is made. The defaults are those of the demonstration; tests take 1,000 products.

    Reviews follow the products (0 to 9 each, 4.5 on average: about 225,000 for 50,000 products).
    """

    products: int = 50_000
    customers: int = 10_000
    seed: int = 20_241_129

    def __post_init__(self) -> None:
        for name in ("products", "customers"):
            value = getattr(self, name)
            if not 1 <= value <= 1_000_000:
                raise ValueError(f"{name} must be from 1 to 1,000,000, got {value}: choose a smaller shop")


def _stream(scale: Scale, label: str) -> random.Random:
    # A string seed goes through SHA-512, so it depends neither on the hash seed nor on the platform.
    return random.Random(f"{scale.seed}/{label}")


def categories(scale: Scale) -> Iterator[Row]:
    """Rows of ``category``: parents before children, each level spread evenly over the one above."""
    draw = _stream(scale, "category")
    number, above = 0, [0]
    for depth, width in enumerate(LEVELS, start=1):
        level = []
        for place in range(width):
            number += 1
            parent = above[place * len(above) // width] or None
            name = f"{draw.choice(words.AISLES)} {number}" if depth > 1 else words.AISLES[place]
            level.append(number)
            yield number, parent, depth, name
        above = level


def customers(scale: Scale) -> Iterator[Row]:
    """Rows of ``customer``."""
    draw = _stream(scale, "customer")
    for number in range(1, scale.customers + 1):
        first, last = draw.choice(words.FIRST_NAMES), draw.choice(words.LAST_NAMES)
        yield number, f"{first} {last}", f"{first}.{last}.{number}@example.org".lower()


def products(scale: Scale) -> Iterator[Row]:
    """Rows of ``product``; two in a hundred are sold out from the start and eight nearly so, never the best
    sellers.
    """
    draw = _stream(scale, "product")
    third = 1 + LEVELS[0] + LEVELS[1]
    for rank in range(1, scale.products + 1):
        name = (
            f"{draw.choice(words.BRANDS)} {draw.choice(words.QUALITIES)} {draw.choice(words.THINGS)} "
            f"{100 + int(draw.random() * 900)}"
        )
        text = " ".join(words.SENTENCES[int(draw.random() * len(words.SENTENCES))] for _ in range(4))
        price = 499 + int(draw.random() ** 3 * 80_000)
        created = OPENED + timedelta(seconds=int(draw.random() * 60_000_000))
        category = third + int(draw.random() * (CATEGORIES - third + 1))
        kind = draw.random()
        if rank <= scale.products // 50 or kind >= 0.10:
            # Buyers stock what sells: the best seller survives a night of orders.
            stock = 50 + int(draw.random() * 450) + 4_000_000 // (rank + 100)
        else:
            stock = 0 if kind < 0.02 else 1 + int(draw.random() * 5)
        yield rank, category, name, text, price, 4_000_000 // (rank + 3), created, stock, stock


def reviews(scale: Scale) -> Iterator[Row]:
    """Rows of ``review``: 0 to 9 for each product, most of them kind."""
    draw = _stream(scale, "review")
    number, start = 0, date(2024, 1, 1).toordinal()
    days = [date.fromordinal(start + day) for day in range(690)]
    stars = (1, 2, 3, 3, 4, 4, 4, 5, 5, 5)
    for product in range(1, scale.products + 1):
        for _ in range(int(draw.random() * 10)):
            number += 1
            title, body = words.OPINIONS[int(draw.random() * len(words.OPINIONS))]
            customer = 1 + int(draw.random() * scale.customers)
            day = days[int(draw.random() * 690)]
            yield number, product, customer, stars[int(draw.random() * 10)], title, body, day


SOURCES = (("category", categories), ("customer", customers), ("product", products), ("review", reviews))


def _chunks(rows: Iterator[Row]) -> Iterator[Sequence[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def load(connection: asyncpg.Connection, scale: Scale | None = None) -> dict[str, int]:
    """Create the tables anew and fill them by binary COPY, then add keys and statistics; returns rows per
    table.

    What was in the tables is lost. Takes about 5 s at the full scale on two cores.
    """
    scale = scale or Scale()
    await create_tables(connection)
    counts: dict[str, int] = {}
    for table, source in SOURCES:
        counts[table] = 0
        chunks = _chunks(source(scale))
        # Rows are made in a thread, one chunk ahead of the COPY, so that the two cores share the work.
        ahead = asyncio.create_task(asyncio.to_thread(next, chunks, None))
        try:
            while (chunk := await ahead) is not None:
                ahead = asyncio.create_task(asyncio.to_thread(next, chunks, None))
                await connection.copy_records_to_table(table, records=chunk)
                counts[table] += len(chunk)
        finally:
            await asyncio.wait({ahead})
    await add_keys(connection)
    await connection.execute("VACUUM (ANALYZE)")
    return counts
