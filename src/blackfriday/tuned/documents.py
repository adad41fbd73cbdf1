"""Answers as bytes, with holes where the stock goes.

A product document lives for an hour and a stock figure for one checkout. Kept together, every sale would
throw a page of twenty products out of the cache. So a document is cached as finished JSON in pieces, and the
stock of the moment is put between them; nothing is parsed or encoded on a hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson

from blackfriday.domain import contract
from blackfriday.tuned.origin import Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(9999, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
STATES = {state: state.encode() for state in ("in_stock", "low", "sold_out")}


class Shelf(msgspec.Struct, frozen=True, array_like=True):
    """A list of products: ``parts[i]`` goes before the availability of ``ids[i]``, ``tail`` after the last.

    ``next`` is the cursor that stands in the tail, if any.
    """

    ids: list[int]
    parts: list[bytes]
    tail: bytes
    next: str | None = None

    def render(self, stocks: Mapping[int, int]) -> bytes:
        """The answer's body."""
        pieces = []
        for number, part in zip(self.ids, self.parts, strict=True):
            pieces.append(part)
            stock = stocks[number]
            pieces.append(b"in_stock" if stock > contract.LOW_STOCK else b"low" if stock > 0 else b"sold_out")
        pieces.append(self.tail)
        return b"".join(pieces)


class Sheet(msgspec.Struct, frozen=True, array_like=True):
    """A product page up to its stock."""

    head: bytes

    def render(self, stock: int) -> bytes:
        """The answer's body."""
        return b'%b"%b","stock":%d}' % (self.head, STATES[contract.availability(stock)], stock)


def shelf(rows: Sequence[Row], end: bytes, following: str | None = None) -> Shelf:
    """The document of a list that ends with ``end`` (what follows the array)."""
    parts: list[bytes] = []
    before = b'{"items":['
    for row in rows:
        fields = orjson.dumps(
            {
                "id": row["id"],
                "name": row["name"],
                "price_cents": row["price_cents"],
                "category": row["category"],
                "rating": contract.rating(row["total"], row["reviews"]),
                "review_count": row["reviews"],
            }
        )
        parts.append(before + fields[:-1] + b',"availability":"')
        before = b'"},'
    tail = b'"}]' if rows else b'{"items":[]'
    return Shelf([row["id"] for row in rows], parts, tail + end, following)


def page(rows: Sequence[Row], limit: int, sort: contract.Sort) -> Shelf:
    """One page of a listing; a row beyond ``limit`` only tells that there is a next page."""
    following = None
    if len(rows) > limit:
        rows = rows[:limit]
        last = rows[-1]
        key = (last["created_at"] - EPOCH) // MICROSECOND if sort == "newest" else last["price_cents"]
        following = contract.pack(sort, key, last["id"])
    return shelf(rows, b',"next":%b}' % orjson.dumps(following), following)


def found(rows: Sequence[Row]) -> Shelf:
    """The products of a search, without the words searched for."""
    return shelf(rows, b"}")


def answer_search(words: str, body: bytes) -> bytes:
    """The body of a search's answer."""
    return b'{"query":%b,%b' % (orjson.dumps(words), body[1:])


def sheet(row: Row) -> Sheet:
    """The document of a product page."""
    reviews = [
        {"id": number, "author": author, "rating": stars, "title": title, "body": body, "written_on": day}
        for number, author, stars, title, body, day in zip(
            row["review_ids"] or (),
            row["authors"] or (),
            row["ratings"] or (),
            row["titles"] or (),
            row["bodies"] or (),
            row["dates"] or (),
            strict=True,
        )
    ]
    path = zip(row["path_ids"], row["path_names"], strict=True)
    fields = orjson.dumps(
        {
            "id": row["id"],
            "name": row["name"],
            "description": row["description"],
            "price_cents": row["price_cents"],
            "category_path": [{"id": number, "name": name} for number, name in path],
            "rating": contract.rating(row["total"], row["reviews"]),
            "review_count": row["reviews"],
            "reviews": reviews,
        }
    )
    return Sheet(fields[:-1] + b',"availability":')


def start(cursor: str | None, sort: contract.Sort) -> tuple[int, int]:
    """The key that a page begins after; (-1, -1) stands for the beginning."""
    if not cursor:
        return -1, -1
    kind, key, number = contract.unpack(cursor, str, int, int)
    if kind != sort or number > contract.LARGEST_ID or (sort == "price" and key > contract.LARGEST_ID):
        contract.bad_cursor()
    return key, number


def moment(key: int, number: int) -> tuple[datetime, int]:
    """The key of a page of the newest, as PostgreSQL compares it."""
    if key < 0:
        return LAST_MOMENT, contract.LARGEST_ID
    return min(LAST_MOMENT, EPOCH + min(key, 2**57) * MICROSECOND), number


def cart(rows: Sequence[Row]) -> bytes:
    """The body of a cart's answer."""
    lines = _lines(rows)
    return orjson.dumps({"items": lines, "total_cents": sum(line["quantity"] * line["price_cents"] for line in lines)})


def order(rows: Sequence[Row]) -> bytes:
    """The body of an order's answer."""
    first = rows[0]
    return orjson.dumps(
        {
            "order_id": str(first["order_id"]),
            "status": first["status"],
            "total_cents": first["total_cents"],
            "lines": _lines(rows),
        }
    )


def receipt(number: int, status: str, total_cents: int) -> bytes:
    """The body of a checkout's answer."""
    return orjson.dumps({"order_id": str(number), "status": status, "total_cents": total_cents})


def _lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "product_id": row["product_id"],
            "name": row["name"],
            "quantity": row["quantity"],
            "price_cents": row["price_cents"],
        }
        for row in rows
        if row["product_id"] is not None
    ]
