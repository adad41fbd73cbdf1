"""The tables as SQLAlchemy 2 classes, with the relationships that a tutorial declares."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, Index, SmallInteger, Text, func
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(AsyncAttrs, DeclarativeBase):
    """The registry of the shop's tables."""


class Category(Base):
    """A node of the category tree."""

    __tablename__ = "category"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"), index=True)
    depth: Mapped[int] = mapped_column(SmallInteger)
    name: Mapped[str] = mapped_column(Text)

    parent: Mapped[Category | None] = relationship(remote_side=[id])


class Customer(Base):
    """Somebody who buys and reviews."""

    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)


class Product(Base):
    """Something on the shelves."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    price_cents: Mapped[int]
    weekly_views: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    initial_stock: Mapped[int]
    stock: Mapped[int]

    category: Mapped[Category] = relationship()
    reviews: Mapped[list[Review]] = relationship(order_by="desc(Review.written_on), desc(Review.id)")


class Review(Base):
    """A customer's opinion of a product."""

    __tablename__ = "review"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"), index=True)
    rating: Mapped[int] = mapped_column(SmallInteger)
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    written_on: Mapped[date]

    author: Mapped[Customer] = relationship()


class CartItem(Base):
    """One product in a customer's cart."""

    __tablename__ = "cart_item"
    __table_args__ = (Index("cart_item_once", "customer_id", "product_id", unique=True),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    quantity: Mapped[int]

    product: Mapped[Product] = relationship()


class Order(Base):
    """A checkout that was accepted."""

    __tablename__ = "orders"
    __table_args__ = (Index("orders_once", "customer_id", "idempotency_key", unique=True),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    idempotency_key: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    total_cents: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    lines: Mapped[list[OrderLine]] = relationship(order_by="OrderLine.product_id")


class OrderLine(Base):
    """One product of an order, at the price that was paid."""

    __tablename__ = "order_line"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    quantity: Mapped[int]
    price_cents: Mapped[int]

    product: Mapped[Product] = relationship()


class Payment(Base):
    """The payment service's word that an order is paid."""

    __tablename__ = "payment"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    reference: Mapped[str] = mapped_column(Text)
    amount_cents: Mapped[int] = mapped_column(BigInteger)
