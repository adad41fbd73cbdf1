"""The FastAPI application of the baseline."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from blackfriday.baseline.checkout import checkout as make_order
from blackfriday.baseline.models import CartItem, Customer, Product
from blackfriday.baseline.queries import Catalogue
from blackfriday.charge import Payments
from blackfriday.counters import Counters
from blackfriday.domain import contract
from blackfriday.domain.contract import Cursor, IdempotencyKey, Limit
from blackfriday.settings import Settings

PAYMENT_TIMEOUT = 2.0

router = APIRouter()


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """One session a request, from the application's pool."""
    async with request.app.state.sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


async def catalogue(request: Request, session: Session) -> Catalogue:
    """The reads of this request."""
    request.app.state.counters.add("requests")
    return Catalogue(session, eager=request.app.state.eager)


Reads = Annotated[Catalogue, Depends(catalogue)]


async def customer(session: Session, number: Annotated[int, Depends(contract.customer_id)]) -> int:
    """The id of a customer who exists."""
    if await session.get(Customer, number) is None:
        contract.no_customer(number)
    return number


Buyer = Annotated[int, Depends(customer)]


@router.get("/health")
async def health(session: Session) -> contract.Health:
    """Whether this worker reaches its database."""
    await session.execute(text("SELECT 1"))
    return contract.Health(status="ok")


@router.get("/products")
async def listing(
    reads: Reads, sort: contract.Sort = "newest", cursor: Cursor = None, limit: Limit = contract.PAGE
) -> contract.Page:
    """All products, a page at a time."""
    return await reads.page(select(Product), sort, cursor, limit)


@router.get("/categories/{number}/products", responses=contract.NOT_FOUND)
async def category(
    reads: Reads, number: contract.CategoryId, cursor: Cursor = None, limit: Limit = contract.PAGE
) -> contract.Page:
    """The products of a category and its sub-categories, newest first."""
    return await reads.category(number, cursor, limit)


@router.get("/products/{number}", responses=contract.NOT_FOUND)
async def detail(reads: Reads, number: contract.ProductId) -> contract.Detail:
    """A product page."""
    return await reads.detail(number)


@router.get("/search")
async def search(reads: Reads, q: contract.Words) -> contract.SearchResult:
    """The newest products whose name contains the words."""
    return await reads.search(q)


@router.post("/cart/items", status_code=201, responses=contract.NOT_FOUND | contract.UNKNOWN)
async def add_to_cart(added: contract.CartAdd, session: Session, reads: Reads, customer: Buyer) -> contract.Cart:
    """Put a product into the cart; answers with the whole cart."""
    if await session.get(Product, added.product_id) is None:
        contract.no_product(added.product_id)
    statement = insert(CartItem).values(customer_id=customer, product_id=added.product_id, quantity=added.quantity)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["customer_id", "product_id"],
            set_={"quantity": CartItem.quantity + added.quantity},
        )
    )
    await session.commit()
    return await reads.cart_view(customer)


@router.get("/cart", responses=contract.UNKNOWN)
async def cart(reads: Reads, customer: Buyer) -> contract.Cart:
    """The customer's cart."""
    return await reads.cart_view(customer)


@router.post("/checkout", status_code=201, responses=contract.CONFLICT | contract.UNKNOWN)
async def checkout(request: Request, session: Session, customer: Buyer, key: IdempotencyKey) -> contract.Receipt:
    """Turn the cart into an order; the same Idempotency-Key again answers with the same order."""
    state = request.app.state
    return await make_order(session, state.payments, state.counters, customer, key)


@router.get("/orders/{number}", responses=contract.NOT_FOUND | contract.UNKNOWN)
async def order(reads: Reads, number: contract.OrderId, customer: Buyer) -> contract.Order:
    """One of the customer's own orders."""
    return await reads.order(number, customer)


@router.get("/internal/stats", include_in_schema=False)
async def stats(request: Request) -> dict[str, int]:
    """The counters of all workers."""
    counters: Counters = request.app.state.counters
    return {**counters.total(), "answered_by": os.getpid()}


def create_app(settings: Settings, *, eager: bool = True) -> FastAPI:
    """The application; ``eager=False`` is the draft, which loads relations lazily."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_async_engine(settings.database.replace("postgresql://", "postgresql+asyncpg://", 1))
        app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
        app.state.payments = Payments(settings.payment, PAYMENT_TIMEOUT)
        app.state.counters = Counters(settings.counters)
        app.state.eager = eager
        try:
            yield
        finally:
            await app.state.payments.aclose()
            await engine.dispose()
            app.state.counters.close()

    app = FastAPI(title="Black Friday", lifespan=lifespan)
    app.include_router(router)
    return app
