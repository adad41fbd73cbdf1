"""The FastAPI application of the tuned shop: the routes of the baseline, answered with finished bytes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from starlette.datastructures import State

from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.domain.contract import Cursor, IdempotencyKey, Limit
from blackfriday.settings import Settings
from blackfriday.tuned import documents
from blackfriday.tuned.catalogue import Catalogue, Listed
from blackfriday.tuned.checkout import Till
from blackfriday.tuned.edge import OWN, Edge
from blackfriday.tuned.orders import Orders, PrimaryOrders
from blackfriday.tuned.origin import Origin
from blackfriday.tuned.payments import Cashier, GuardedPayments

router = APIRouter()
Buyer = Annotated[int, Depends(contract.customer_id)]


class Json(Response):
    """Finished JSON."""

    media_type = "application/json"


def _list(state: State, listed: Listed) -> Json:
    body, numbers = listed
    return Json(body, headers=None if state.edge is None else state.edge.shelf(numbers))


def _own(state: State, body: bytes, status: int = 200) -> Json:
    """Of one customer: no shared cache may keep it, whichever route it came by."""
    return Json(body, status, None if state.edge is None else OWN)


@router.get("/health", response_model=contract.Health)
async def health(request: Request) -> Response:
    """Whether this worker reaches its database."""
    await request.app.state.origin.fetch("SELECT 1")
    return Json(b'{"status":"ok"}')


@router.get("/products", response_model=contract.Page)
async def listing(
    request: Request, sort: contract.Sort = "newest", cursor: Cursor = None, limit: Limit = contract.PAGE
) -> Response:
    """All products, a page at a time."""
    state = request.app.state
    state.counters.add("requests")
    return _list(state, await state.catalogue.listing(sort, *documents.start(cursor, sort), limit))


@router.get("/categories/{number}/products", response_model=contract.Page, responses=contract.NOT_FOUND)
async def category(
    request: Request, number: contract.CategoryId, cursor: Cursor = None, limit: Limit = contract.PAGE
) -> Response:
    """The products of a category and its sub-categories, newest first."""
    state = request.app.state
    state.counters.add("requests")
    return _list(state, await state.catalogue.category(number, *documents.start(cursor, "newest"), limit))


@router.get("/products/{number}", response_model=contract.Detail, responses=contract.NOT_FOUND)
async def detail(request: Request, number: contract.ProductId) -> Response:
    """A product page."""
    state = request.app.state
    state.counters.add("requests")
    body = await state.catalogue.detail(number)
    return Json(body, headers=None if state.edge is None else state.edge.product(number))


@router.get("/search", response_model=contract.SearchResult)
async def search(request: Request, q: contract.Words) -> Response:
    """The newest products whose name contains the words."""
    state = request.app.state
    state.counters.add("requests")
    return _list(state, await state.catalogue.search(q))


@router.post(
    "/cart/items",
    status_code=201,
    response_model=contract.Cart,
    responses=contract.NOT_FOUND | contract.UNKNOWN,
)
async def add_to_cart(request: Request, added: contract.CartAdd, customer: Buyer) -> Response:
    """Put a product into the cart; answers with the whole cart."""
    till: Till = request.app.state.till
    return _own(request.app.state, await till.add(customer, added.product_id, added.quantity), 201)


@router.get("/cart", response_model=contract.Cart, responses=contract.UNKNOWN)
async def cart(request: Request, customer: Buyer) -> Response:
    """The customer's cart."""
    till: Till = request.app.state.till
    return _own(request.app.state, await till.cart(customer))


@router.post(
    "/checkout",
    status_code=201,
    response_model=contract.Receipt,
    responses=contract.CONFLICT | contract.UNKNOWN,
)
async def checkout(request: Request, customer: Buyer, key: IdempotencyKey) -> Response:
    """Turn the cart into an order; the same Idempotency-Key again answers with the same order."""
    till: Till = request.app.state.till
    return _own(request.app.state, await till.checkout(customer, key), 201)


@router.get("/orders/{number}", response_model=contract.Order, responses=contract.NOT_FOUND | contract.UNKNOWN)
async def order(request: Request, number: contract.OrderId, customer: Buyer) -> Response:
    """One of the customer's own orders."""
    till: Till = request.app.state.till
    return _own(request.app.state, await till.order(number, customer))


@router.get("/internal/stats", include_in_schema=False)
async def stats(request: Request) -> dict[str, int]:
    """The counters of all workers."""
    counters: Counters = request.app.state.counters
    return {**counters.total(), "answered_by": os.getpid()}


@router.post("/internal/warm", include_in_schema=False)
async def warm(request: Request, products: Annotated[int, Query(ge=0, le=1_000_000)]) -> dict[str, int]:
    """Warm the shared cache with the most viewed products; the other workers find it there."""
    catalogue: Catalogue = request.app.state.catalogue
    return await catalogue.warm(products)


@router.post("/internal/clear", include_in_schema=False)
async def clear(request: Request) -> dict[str, int]:
    """Forget every cached document and stock figure, in all workers."""
    catalogue: Catalogue = request.app.state.catalogue
    await catalogue.clear()
    if request.app.state.edge is not None:
        await request.app.state.edge.clear()
    return {}


@router.post("/internal/edited", include_in_schema=False)
async def edited(request: Request, product: Annotated[int, Query(ge=1, le=contract.LARGEST_ID)]) -> dict[str, int]:
    """An editor has changed this product in the database, and replicas have it too: nobody may keep the old one."""
    catalogue: Catalogue = request.app.state.catalogue
    await catalogue.edited(product)
    if request.app.state.edge is not None:
        await request.app.state.edge.edited(product)
    return {}


def create_app(settings: Settings) -> FastAPI:
    """The application at the rung that ``settings`` names."""
    replicated = settings.includes("replicas") and bool(settings.replicas)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        counters = Counters(settings.counters)
        origin = Origin(settings)
        if replicated:
            from blackfriday.tuned.replicated import ReplicatedOrigin  # brings SQLAlchemy; the lower rungs do without

            origin = ReplicatedOrigin(settings, counters)
        payments = GuardedPayments(settings.payment)
        catalogue = Catalogue(origin, counters)
        if settings.includes("cache"):
            from blackfriday.tuned.cached import CachedCatalogue

            catalogue = CachedCatalogue(origin, counters, settings.valkey)
        app.state.origin, app.state.counters, app.state.catalogue = origin, counters, catalogue
        edge = Edge(settings.edge, settings.edge_token, counters) if settings.includes("edge") else None
        app.state.edge = edge

        async def told(sold: Sequence[int], reworded: Sequence[int]) -> None:
            await catalogue.sold(sold)
            if edge is not None:
                await edge.sold(sold, reworded)

        orders: Orders = PrimaryOrders(origin)
        if settings.includes("replicas") and settings.shards:
            from blackfriday.tuned.sharded import ShardedOrders

            orders = ShardedOrders(origin, settings.shards, counters, told)
        app.state.till = Till(origin, orders, payments, counters, told)
        try:
            await origin.open()
            await catalogue.open()
            async with orders, Cashier(orders, payments):
                yield
        finally:
            await catalogue.aclose()
            await payments.aclose()
            if edge is not None:
                await edge.aclose()
            await origin.aclose()
            counters.close()

    app = FastAPI(title="Black Friday", lifespan=lifespan)
    app.include_router(router)
    if replicated:
        from blackfriday.tuned.replicated import remember

        remember(app, settings)
    return app
