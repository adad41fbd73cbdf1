"""What customers do: a scenario file for ``tenfold load run`` and for the acts.

Of a hundred requests 25 are listings, 25 category pages, 35 product pages, 10 searches and 5 belong to the
cart and the checkout. Products, categories and search words are drawn by Zipf's law with exponent 1.0, so
that one product in 50,000 is asked for by one customer in eleven, and half of the products by hardly anyone.
No think time.

Every answer is checked: its status and its shape, and after a checkout that the customer's next two pages
show it (*no stale own write*). Read from the environment, all optional:

BLACKFRIDAY_PRODUCTS, BLACKFRIDAY_CUSTOMERS: the size of the shop (50,000 and 10,000).
BLACKFRIDAY_ORDERS: a path; each process of the run appends the id of every order that was acknowledged with
201 to ``PATH.PID.jsonl``, a line each, before the journey goes on. :func:`acknowledged` reads them back for
the audit.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from blackfriday.domain import CATEGORIES, words
from tenfold.load import check, feed, journey, step, target

if TYPE_CHECKING:
    from tenfold.load.user import User

PRODUCTS = int(os.environ.get("BLACKFRIDAY_PRODUCTS", "50000"))
CUSTOMERS = int(os.environ.get("BLACKFRIDAY_CUSTOMERS", "10000"))
TERMS = words.THINGS + [
    f"{quality} {thing}" for thing in words.THINGS for quality in words.QUALITIES[: 1 + len(thing) % 8]
]

ZIPF = 1.0
BROWSE = ("listing", "category", "product", "search")
REQUESTS_PER_JOURNEY = 600 / 410  # of the weights below; sold-out products make it a little less
RESERVED_CUSTOMERS = 100  # the last ones; no journey is theirs

target("http://127.0.0.1:8000")
product_rank = feed.zipf(1, PRODUCTS, exponent=ZIPF)
category_rank = feed.zipf(1, CATEGORIES, exponent=ZIPF)
term_rank = feed.zipf(1, len(TERMS), exponent=ZIPF)
sort = feed.choice(["newest", "price"], weights=[3, 1])
customer = feed.cycle(range(1, max(2, CUSTOMERS + 1 - RESERVED_CUSTOMERS)))

_book: TextIO | None = None


def a_category() -> int:
    """A category id: ranks are spread over the tree, or the popular ones would all be its roots."""
    return (category_rank() - 1) * 367 % CATEGORIES + 1


def write_down(order: str) -> None:
    """Record an acknowledged order where BLACKFRIDAY_ORDERS says."""
    global _book
    path = os.environ.get("BLACKFRIDAY_ORDERS")
    if path:
        if _book is None:
            _book = open(f"{path}.{os.getpid()}.jsonl", "a", buffering=1, encoding="ascii")  # noqa: SIM115
        _book.write(f"{order}\n")


def acknowledged(path: str | os.PathLike[str]) -> list[int]:
    """The ids of all acknowledged orders that the processes of a run wrote down; a line cut by a kill is
    passed over.
    """
    prefix = Path(path)
    ids: list[int] = []
    for file in sorted(prefix.parent.glob(f"{prefix.name}.*.jsonl")):
        ids.extend(int(line) for line in file.read_text("ascii").splitlines(keepends=True) if line.endswith("\n"))
    return ids


@journey(weight=75)
async def browse(user: User) -> None:
    """A page of all products, and the page after it."""
    path = f"/products?sort={sort()}"
    with step("listing"):
        page = (await user.get(path)).json()
        check(len(page["items"]) == 20, "20 items")
    if page["next"]:
        with step("listing"):
            following = (await user.get(f"{path}&cursor={page['next']}")).json()
            check(following["items"][0]["id"] != page["items"][0]["id"], "another page")


@journey(weight=75)
async def category(user: User) -> None:
    """A category, and its second page where there is one."""
    path = f"/categories/{a_category()}/products"
    with step("category"):
        page = (await user.get(path)).json()
        check("next" in page, "has next")
    with step("category"):
        again = f"{path}?cursor={page['next']}" if page["next"] else path
        check(isinstance((await user.get(again)).json()["items"], list), "has items")


@journey(weight=190)
async def product(user: User) -> None:
    """A product page."""
    number = product_rank()
    with step("product"):
        page = (await user.get(f"/products/{number}")).json()
        check(page["id"] == number and page["stock"] >= 0, "the product, with its stock")


@journey(weight=60)
async def search(user: User) -> None:
    """A search by name."""
    term = TERMS[term_rank() - 1]
    with step("search"):
        result = (await user.get(f"/search?q={term.replace(' ', '%20')}")).json()
        check(all(term.lower() in item["name"].lower() for item in result["items"]), "names contain the term")


@journey(weight=10)
async def buy(user: User) -> None:
    """Look at a product, put it into the cart, check out, and see the order and the stock that is left."""
    number, me = product_rank(), {"X-Customer": str(customer())}
    with step("product"):
        before = (await user.get(f"/products/{number}")).json()["stock"]
    if not before:
        return
    with step("cart"):
        answer = await user.post("/cart/items", json={"product_id": number, "quantity": 1}, headers=me)
        check(any(line["product_id"] == number for line in answer.json()["items"]), "in the cart")
    with step("checkout", expect=(201, 409)):
        key = {"Idempotency-Key": secrets.token_hex(12), **me}
        answer = await user.post("/checkout", headers=key)
        if answer.status == 201:
            receipt = answer.json()
            write_down(receipt["order_id"])
            check(receipt["status"] in ("paid", "payment_pending"), "paid or pending")
    if answer.status != 201:
        return  # somebody was faster: sold out
    with step("order"):
        order = (await user.get(f"/orders/{receipt['order_id']}", headers=me)).json()
        bought = sum(line["quantity"] for line in order["lines"] if line["product_id"] == number)
        check(bought >= 1 and order["total_cents"] == receipt["total_cents"], "own order is stored")
    with step("product"):
        after = (await user.get(f"/products/{number}")).json()["stock"]
        check(after <= before - bought, "own sale is visible")
