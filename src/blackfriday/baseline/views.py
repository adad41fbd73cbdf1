"""From ORM objects to the models of the contract."""

from __future__ import annotations

from collections.abc import Sequence

from blackfriday.baseline.models import CartItem, Category, Order, Product, Review
from blackfriday.domain import contract


def rating(reviews: Sequence[Review]) -> float | None:
    """The mean of the loaded reviews."""
    return contract.rating(sum(review.rating for review in reviews), len(reviews))


def item(product: Product) -> contract.Item:
    """A product in a list; needs its category and reviews."""
    return contract.Item(
        id=product.id,
        name=product.name,
        price_cents=product.price_cents,
        category=product.category.name,
        rating=rating(product.reviews),
        review_count=len(product.reviews),
        availability=contract.availability(product.stock),
    )


def review(row: Review) -> contract.ReviewOut:
    """A review; needs its author."""
    return contract.ReviewOut(
        id=row.id,
        author=row.author.name,
        rating=row.rating,
        title=row.title,
        body=row.body,
        written_on=row.written_on,
    )


def walk(category: Category) -> list[Category]:
    """The path from the root to a category, by its parents."""
    path = [category]
    while path[0].parent is not None:
        path.insert(0, path[0].parent)
    return path


def detail(product: Product, path: Sequence[Category]) -> contract.Detail:
    """A product page; needs the reviews and their authors."""
    return contract.Detail(
        id=product.id,
        name=product.name,
        description=product.description,
        price_cents=product.price_cents,
        category_path=[contract.CategoryRef(id=step.id, name=step.name) for step in path],
        rating=rating(product.reviews),
        review_count=len(product.reviews),
        reviews=[review(row) for row in product.reviews[: contract.LATEST_REVIEWS]],
        availability=contract.availability(product.stock),
        stock=product.stock,
    )


def cart(rows: Sequence[CartItem]) -> contract.Cart:
    """A cart; needs the products."""
    lines = [
        contract.CartLine(
            product_id=row.product_id,
            name=row.product.name,
            quantity=row.quantity,
            price_cents=row.product.price_cents,
        )
        for row in rows
    ]
    return contract.Cart(items=lines, total_cents=sum(line.quantity * line.price_cents for line in lines))


def receipt(order: Order) -> contract.Receipt:
    """The answer to a checkout."""
    return contract.Receipt.model_validate(
        {"order_id": str(order.id), "status": order.status, "total_cents": order.total_cents}
    )


def order(row: Order) -> contract.Order:
    """A stored order; needs its lines and their products."""
    return contract.Order.model_validate(
        {
            "order_id": str(row.id),
            "status": row.status,
            "total_cents": row.total_cents,
            "lines": [
                {
                    "product_id": line.product_id,
                    "name": line.product.name,
                    "quantity": line.quantity,
                    "price_cents": line.price_cents,
                }
                for line in row.lines
            ],
        }
    )
