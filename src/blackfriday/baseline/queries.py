"""The statements of the baseline. ``eager=False`` leaves the loader options out, which is all the draft
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, joinedload, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from blackfriday.baseline import views
from blackfriday.baseline.models import CartItem, Category, Order, OrderLine, Product, Review
from blackfriday.domain import contract

T = TypeVar("T")
R = TypeVar("R")


class Catalogue:
    """Reads of one request."""

    def __init__(self, session: AsyncSession, *, eager: bool) -> None:
        self.session = session
        self.eager = eager

    def _options(self, *options: ORMOption) -> Sequence[ORMOption]:
        return options if self.eager else ()

    async def _render(self, view: Callable[[R], T], rows: Sequence[R]) -> list[T]:
        if self.eager:
            return [view(row) for row in rows]
        # Relations load lazily while the view touches them: one statement for each touch.
        return await self.session.run_sync(lambda _: [view(row) for row in rows])

    async def _items(self, statement: Select[Product]) -> list[contract.Item]:
        statement = statement.options(*self._options(joinedload(Product.category), selectinload(Product.reviews)))
        return await self._render(views.item, (await self.session.scalars(statement)).all())

    async def page(
        self, statement: Select[Product], sort: contract.Sort, cursor: str | None, limit: int
    ) -> contract.Page:
        """One page by OFFSET; one row more than asked for tells whether there is a next one."""
        kind, offset = contract.unpack(cursor, str, int) if cursor else (sort, 0)
        if kind != sort:
            contract.bad_cursor()
        order = (
            (Product.created_at.desc(), Product.id.desc()) if sort == "newest" else (Product.price_cents, Product.id)
        )
        items = await self._items(statement.order_by(*order).offset(offset).limit(limit + 1))
        more = contract.pack(sort, offset + limit) if len(items) > limit else None
        return contract.Page(items=items[:limit], next=more)

    async def category(self, number: int, cursor: str | None, limit: int) -> contract.Page:
        """The products of a category and of all categories below it, newest first."""
        if await self.session.get(Category, number) is None:
            contract.no_category(number)
        below = select(Category.id).where(Category.id == number).cte("below", recursive=True)
        below = below.union_all(select(Category.id).join(below, Category.parent_id == below.c.id))
        statement = select(Product).where(Product.category_id.in_(select(below.c.id)))
        return await self.page(statement, "newest", cursor, limit)

    async def search(self, words: str) -> contract.SearchResult:
        """The newest products whose name contains ``words``."""
        statement = (
            select(Product)
            .where(Product.name.ilike(contract.pattern(words)))
            .order_by(Product.created_at.desc(), Product.id.desc())
            .limit(contract.FOUND)
        )
        return contract.SearchResult(query=words, items=await self._items(statement))

    async def detail(self, number: int) -> contract.Detail:
        """A product page."""
        product = await self.session.get(
            Product,
            number,
            options=self._options(
                joinedload(Product.category),
                selectinload(Product.reviews).selectinload(Review.author),
            ),
        )
        if product is None:
            contract.no_product(number)
        if not self.eager:
            return (await self._render(lambda row: views.detail(row, views.walk(row.category)), [product]))[0]
        above = select(Category).where(Category.id == product.category_id).cte("above", recursive=True)
        parent = aliased(Category)
        above = above.union_all(select(parent).join(above, parent.id == above.c.parent_id))
        step = aliased(Category, above)
        path = (await self.session.scalars(select(step).order_by(step.depth))).all()
        return views.detail(product, path)

    async def cart(self, customer: int) -> Sequence[CartItem]:
        """The lines of a cart with their products, ordered by product."""
        statement = (
            select(CartItem)
            .where(CartItem.customer_id == customer)
            .order_by(CartItem.product_id)
            .options(*self._options(joinedload(CartItem.product)))
        )
        return (await self.session.scalars(statement)).all()

    async def cart_view(self, customer: int) -> contract.Cart:
        """The cart as the contract shows it."""
        rows = await self.cart(customer)
        return (await self._render(views.cart, [rows]))[0]

    async def order(self, number: int, customer: int) -> contract.Order:
        """One of the customer's orders."""
        order = await self.session.scalar(
            select(Order)
            .where(Order.id == number, Order.customer_id == customer)
            .options(*self._options(selectinload(Order.lines).joinedload(OrderLine.product)))
        )
        if order is None:
            contract.no_order(number)
        return (await self._render(views.order, [order]))[0]
