"""Every variant and every rung answers every endpoint with the same bytes, ``next`` and the ids of orders aside."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

OTHERS = ("draft", "shapes", "cache", "replicas", "edge")
NEXT = re.compile(rb'"next":(null|"[^"]*")')

ORDER = re.compile(rb'("order_id":"|no order )(\d+)')

Answer = tuple[int, str, bytes]


def seen(answer: httpx2.Response) -> Answer:
    """What must be equal: the status, the type and the body, without the value of an opaque cursor."""
    body = NEXT.sub(lambda found: b'"next":null' if found[1] == b"null" else b'"next":"..."', answer.content)
    return answer.status_code, answer.headers["content-type"], body


async def pages(client: httpx2.AsyncClient, path: str, depth: int) -> list[Answer]:
    answers = []
    cursor = ""
    for _ in range(depth):
        answer = await client.get(path + (f"&cursor={cursor}" if cursor else ""))
        answers.append(seen(answer))
        cursor = answer.json().get("next")
        if not cursor:
            break
    return answers


@pytest.mark.parametrize(
    ("path", "depth"),
    [
        ("/products?limit=20", 8),
        ("/products?sort=newest&limit=7", 12),
        ("/products?sort=price&limit=20", 8),
        ("/products?sort=price&limit=50", 4),
        ("/products?limit=1", 3),
        ("/categories/1/products?limit=20", 6),
        ("/categories/2/products?limit=13", 30),  # all of it
        ("/categories/30/products?limit=2", 6),
        ("/categories/485/products?limit=20", 3),
    ],
)
async def test_listings_are_equal_page_by_page(world: Any, path: str, depth: int) -> None:
    async with world.client("baseline") as client:
        expected = await pages(client, path, depth)
    assert expected[0][0] == 200
    assert len({body for *_, body in expected}) == len(expected), "no page comes twice"
    if "485" not in path:
        assert len(expected) >= 2
    for kind in OTHERS:
        async with world.client(kind) as client:
            assert await pages(client, path, depth) == expected, kind
            assert await pages(client, path, depth) == expected, f"{kind}, again"


async def test_a_listing_shows_every_product_exactly_once(world: Any) -> None:
    for kind in ("baseline", "shapes", "cache"):
        for sort in ("newest", "price"):
            async with world.client(kind) as client:
                bodies = [json.loads(body) for *_, body in await pages(client, f"/products?sort={sort}&limit=100", 20)]
            numbers = [item["id"] for page in bodies for item in page["items"]]
            assert sorted(numbers) == list(range(1, 1001)), (kind, sort)


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        *(f"/products/{number}" for number in (1, 2, 3, 500, 999, 1000)),
        "/search?q=kettle",
        "/search?q=KETTLE",
        "/search?q=steel%20lamp",
        "/search?q=el",
        "/search?q=no%20such%20thing",
        "/search?q=%25%25",
        "/search?q=_a",
        "/search?q=%5C%5C",
        "/search?q=%22%C3%A9%22",
        # refused
        "/products/1001",
        "/products/0",
        "/products/x",
        "/products/99999999999999",
        "/products?limit=0",
        "/products?limit=101",
        "/products?sort=best",
        "/products?cursor=nonsense",
        "/products?sort=price&cursor=WyJuZXdlc3QiLDIwXQ",
        "/categories/486/products",
        "/categories/0/products",
        "/search",
        "/search?q=x",
        "/cart",
        "/orders/1",
        "/nowhere",
    ],
)
async def test_single_answers_are_equal(world: Any, path: str) -> None:
    async with world.client("baseline") as client:
        expected = seen(await client.get(path))
    for kind in OTHERS:
        async with world.client(kind) as client:
            assert seen(await client.get(path)) == expected, kind
            assert seen(await client.get(path)) == expected, f"{kind}, from the cache"


def renumbered(answers: list[Answer]) -> list[Answer]:
    """Orders by the number of their first appearance: which one an answer speaks of must be equal, not its id."""
    known: dict[bytes, int] = {}
    return [
        (status, kind, ORDER.sub(lambda found: found[1] + b"%d" % known.setdefault(found[2], len(known) + 1), body))
        for status, kind, body in answers
    ]


async def story(client: httpx2.AsyncClient, world: Any) -> list[Answer]:
    """One customer's whole visit, with everything that can be refused."""
    answers: list[Answer] = []

    async def say(method: str, path: str, **options: Any) -> httpx2.Response:
        answer = await client.request(method, path, **options)
        answers.append(seen(answer))
        return answer

    key = {"Idempotency-Key": "a-key-of-mine"}
    gone, low = await world.connection.fetchrow(
        "SELECT min(id) FILTER (WHERE stock = 0), min(id) FILTER (WHERE stock BETWEEN 1 AND 4) FROM product"
    )
    await say("GET", "/cart")
    await say("POST", "/checkout", headers=key)  # nothing in the cart
    await say("POST", "/cart/items", json={"product_id": 7, "quantity": 2})
    await say("POST", "/cart/items", json={"product_id": 3})
    await say("POST", "/cart/items", json={"product_id": 7, "quantity": 1})
    await say("POST", "/cart/items", json={"product_id": 1001})
    await say("POST", "/cart/items", json={"product_id": 7, "quantity": 11})
    await say("POST", "/cart/items", json={"product_id": "seven"})
    await say("POST", "/cart/items", content=b"{", headers={"content-type": "application/json"})
    await say("GET", "/cart")
    await say("POST", "/checkout")  # no key
    await say("POST", "/checkout", headers={"Idempotency-Key": "short"})
    order = (await say("POST", "/checkout", headers=key)).json()["order_id"]
    await say("GET", f"/orders/{order}")
    await say("GET", "/cart")
    await say("GET", "/products/7")
    await say("GET", "/products?sort=price")
    await say("POST", "/cart/items", json={"product_id": 9})
    await say("POST", "/checkout", headers=key)  # a replay: the first order, and the cart stays
    await say("GET", "/cart")
    await say("POST", "/cart/items", json={"product_id": gone})
    await say("POST", "/checkout", headers={"Idempotency-Key": "another-key"})  # sold out
    await say("POST", "/checkout", headers=key)  # a replay all the same
    await say("GET", "/cart")
    await say("GET", "/products/9")
    await say("GET", f"/orders/{order}", headers={"X-Customer": "6"})  # somebody else's
    await say("GET", "/cart", headers={"X-Customer": "201"})  # nobody
    await say("GET", "/orders/1", headers={"X-Customer": "201"})
    await say("POST", "/checkout", headers={"X-Customer": "201", **key})
    await say("POST", "/cart/items", json={"product_id": 7}, headers={"X-Customer": "201"})
    await say("POST", "/cart/items", json={"product_id": low, "quantity": 10}, headers={"X-Customer": "8"})
    await say("POST", "/checkout", headers={"X-Customer": "8", **key})  # more than there is
    await say("GET", f"/products/{low}")
    return renumbered(answers)


async def test_a_customers_visit_is_answered_alike_to_the_byte(world: Any) -> None:
    told: dict[str, list[Answer]] = {}
    for kind in ("baseline", *OTHERS):
        await world.reset()
        async with world.client("cache") as client:
            await client.post("/internal/clear")
        async with world.client(kind, customer=5) as client:
            told[kind] = await story(client, world)
    expected = told["baseline"]
    statuses = [status for status, *_ in expected]
    assert {200, 201, 401, 404, 409, 422} == set(statuses)
    for kind in OTHERS:
        for step, (got, wanted) in enumerate(zip(told[kind], expected, strict=True)):
            assert got == wanted, f"{kind}, step {step}"


async def test_the_documented_interface_is_the_same(world: Any) -> None:
    documents = {}
    for kind in ("baseline", "cache"):
        async with world.client(kind) as client:
            documents[kind] = (await client.get("/openapi.json")).json()
    assert documents["cache"] == documents["baseline"]
    assert set(documents["baseline"]["paths"]) == {
        "/health", "/products", "/categories/{number}/products", "/products/{number}", "/search",
        "/cart/items", "/cart", "/checkout", "/orders/{number}",
    }  # fmt: skip
