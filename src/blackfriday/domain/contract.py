"""The HTTP contract that every variant keeps: models as documented in OpenAPI, parameters, errors, cursors.

Answers are byte-equal across variants for the same data, except two opaque values: that of ``next``, and the id of an
order, which each shop makes as it likes. An id is text: 64 bits do not fit into JavaScript's numbers. Two places need
care: ratings are computed from integer sums in Python (never by SQL's ``avg``), and errors are worded here,
once.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import date
from typing import Annotated, Any, Literal, NoReturn

from fastapi import Cookie, Header, HTTPException, Path, Query
from pydantic import BaseModel, Field

LARGEST_ID = 2_147_483_647
PAGE = 20
FOUND = 20
LATEST_REVIEWS = 5
LOW_STOCK = 5

Availability = Literal["in_stock", "low", "sold_out"]
Status = Literal["paid", "payment_pending"]
Sort = Literal["newest", "price"]


class Item(BaseModel):
    """A product as a list shows it. ``rating`` is the mean of all reviews in hundredths of a star, null
    without any.
    """

    id: int
    name: str
    price_cents: int
    category: str
    rating: float | None
    review_count: int
    availability: Availability


class Page(BaseModel):
    """One page of a listing; ``next`` is the opaque cursor of the page after it, null on the last page."""

    items: list[Item]
    next: str | None


class SearchResult(BaseModel):
    """The newest products whose name contains the words searched for, letter case aside."""

    query: str
    items: list[Item]


class CategoryRef(BaseModel):
    """One step of the path from the root to a product's category."""

    id: int
    name: str


class ReviewOut(BaseModel):
    """One review with its author's name."""

    id: int
    author: str
    rating: int
    title: str
    body: str
    written_on: date


class Detail(BaseModel):
    """A product page: description, category path, the latest five reviews, and the stock of this moment."""

    id: int
    name: str
    description: str
    price_cents: int
    category_path: list[CategoryRef]
    rating: float | None
    review_count: int
    reviews: list[ReviewOut]
    availability: Availability
    stock: int


class CartAdd(BaseModel):
    """What goes into the cart; the quantity is added to what is there."""

    product_id: int = Field(ge=1, le=LARGEST_ID)
    quantity: int = Field(default=1, ge=1, le=10)


class CartLine(BaseModel):
    """One product of the cart at today's price."""

    product_id: int
    name: str
    quantity: int
    price_cents: int


class Cart(BaseModel):
    """The customer's cart, ordered by product."""

    items: list[CartLine]
    total_cents: int


class Receipt(BaseModel):
    """A checkout that was accepted. ``payment_pending``: the order stands, the money is still to come."""

    order_id: str
    status: Status
    total_cents: int


class Order(BaseModel):
    """A stored order with its lines, ordered by product."""

    order_id: str
    status: Status
    total_cents: int
    lines: list[CartLine]


class Health(BaseModel):
    """``ok`` once the worker can reach its database."""

    status: Literal["ok"]


class Problem(BaseModel):
    """What went wrong, in one sentence."""

    detail: str


ProductId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
CategoryId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
OrderId = Annotated[int, Path(ge=1, le=2**62)]
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=200)]
Words = Annotated[str, Query(min_length=2, max_length=60)]
CustomerHeader = Annotated[int | None, Header(alias="X-Customer", ge=1, le=LARGEST_ID)]
CustomerCookie = Annotated[int | None, Cookie(alias="customer", ge=1, le=LARGEST_ID)]
IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", min_length=8, max_length=100)]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": Problem}}
UNKNOWN: dict[int | str, dict[str, Any]] = {401: {"model": Problem}}


async def customer_id(header: CustomerHeader = None, cookie: CustomerCookie = None) -> int:
    """The customer named by the header ``X-Customer``, else by the cookie ``customer``; 401 without
    either.
    """
    found = header or cookie
    if found is None:
        refuse(401, "name the customer in the header X-Customer or the cookie customer")
    return found


def refuse(status: int, detail: str) -> NoReturn:
    """Answer with an error of the contract."""
    raise HTTPException(status, detail)


def no_product(number: int) -> NoReturn:
    """404 for a product."""
    refuse(404, f"there is no product {number}")


def no_category(number: int) -> NoReturn:
    """404 for a category."""
    refuse(404, f"there is no category {number}")


def no_order(number: int) -> NoReturn:
    """404 for an order, also for one of another customer."""
    refuse(404, f"there is no order {number}")


def no_customer(number: int) -> NoReturn:
    """401 for a customer who does not exist."""
    refuse(401, f"there is no customer {number}")


def sold_out(product: int) -> NoReturn:
    """409 for the first line of a cart that the shelves cannot serve."""
    refuse(409, f"product {product} is sold out")


def empty_cart() -> NoReturn:
    """409 for a checkout without anything to buy."""
    refuse(409, "the cart is empty")


def being_placed() -> NoReturn:
    """503 for a checkout whose order cannot be stored now: it may stand later, and the key finds it."""
    refuse(503, "the order could not be stored now: ask again with the same Idempotency-Key")


def rating(total: int, count: int) -> float | None:
    """The mean of ``count`` ratings that sum to ``total``, rounded half up to hundredths, by integers
    alone.
    """
    return (total * 200 + count) // (2 * count) / 100 if count else None


def availability(stock: int) -> Availability:
    """``sold_out`` at zero, ``low`` up to five."""
    return "in_stock" if stock > LOW_STOCK else "low" if stock > 0 else "sold_out"


def pattern(words: str) -> str:
    r"""The ILIKE pattern for a substring, with ``%``, ``_`` and ``\`` taken literally."""
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def bad_cursor() -> NoReturn:
    """422 for a cursor that is not one of this listing's."""
    refuse(422, "cursor: expected the value of next from an earlier page of this listing")


def pack(*parts: int | str) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def unpack(cursor: str, *kinds: type) -> list[Any]:
    """The parts of a cursor; 422 if it is not one of this listing's."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        parts = None
    if (
        not isinstance(parts, list)
        or [type(part) for part in parts] != list(kinds)
        or any(isinstance(part, int) and not 0 <= part <= 2**60 for part in parts)
    ):
        bad_cursor()
    return parts
