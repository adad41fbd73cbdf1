"""Checkout as a tutorial writes it: read the stock, check it, write it back, commit, then ask for the
money.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from blackfriday.baseline import views
from blackfriday.baseline.models import CartItem, Order, OrderLine, Payment, Product
from blackfriday.charge import Payments
from blackfriday.counters import Counters
from blackfriday.domain import contract


async def _existing(session: AsyncSession, customer: int, key: str) -> Order | None:
    order: Order | None = await session.scalar(
        select(Order).where(Order.customer_id == customer, Order.idempotency_key == key)
    )
    return order


async def checkout(
    session: AsyncSession, payments: Payments, counters: Counters, customer: int, key: str
) -> contract.Receipt:
    """Turn the cart into an order; the same key again answers with the same order.

    Two checkouts at once may both read the same stock and both write it back one lower. That is how it is
    commonly written, and the audit shows what it costs.
    """
    order = await _existing(session, customer, key)
    if order is not None:
        return views.receipt(order)
    items = (
        await session.scalars(select(CartItem).where(CartItem.customer_id == customer).order_by(CartItem.product_id))
    ).all()
    if not items:
        contract.empty_cart()
    wanted = {item.product_id: item.quantity for item in items}
    found = await session.scalars(select(Product).where(Product.id.in_(wanted)).order_by(Product.id))
    products = found.all()
    for product in products:
        if product.stock < wanted[product.id]:
            contract.sold_out(product.id)
        product.stock -= wanted[product.id]
    order = Order(
        customer_id=customer,
        idempotency_key=key,
        status="payment_pending",
        total_cents=sum(product.price_cents * wanted[product.id] for product in products),
        lines=[
            OrderLine(product_id=product.id, quantity=wanted[product.id], price_cents=product.price_cents)
            for product in products
        ],
    )
    session.add(order)
    try:
        await session.execute(delete(CartItem).where(CartItem.customer_id == customer))
        await session.commit()
    except IntegrityError:
        # The same checkout came twice at once, and the other one was first.
        await session.rollback()
        order = await _existing(session, customer, key)
        if order is None:
            raise
        return views.receipt(order)
    reference = await payments.charge(f"{customer}-{key}", order.total_cents)
    counters.add("checkouts")
    if reference is None:
        counters.add("payment_failures")
    else:
        order.status = "paid"
        session.add(Payment(order_id=order.id, reference=reference, amount_cents=order.total_cents))
        await session.commit()
    return views.receipt(order)
