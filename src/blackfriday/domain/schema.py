"""The tables of the shop, the same for every variant, and the indexes that one rung of the ladder adds.

The schema is that of a careful first version: primary keys, foreign keys, and an index on every foreign key
(PostgreSQL makes none by itself). Orders may also lie on databases of their own (`create_order_tables`), cut by
customer; then ``reservation`` holds what was taken from the shelves for orders that are not known to be stored yet.
There is no ``CHECK (stock >= 0)``: whether the shop oversells is what the
audit finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

TABLES = """
CREATE TABLE category (
    id integer NOT NULL, parent_id integer, depth smallint NOT NULL, name text NOT NULL);
CREATE TABLE customer (
    id integer NOT NULL, name text NOT NULL, email text NOT NULL);
CREATE TABLE product (
    id integer NOT NULL, category_id integer NOT NULL, name text NOT NULL, description text NOT NULL,
    price_cents integer NOT NULL, weekly_views integer NOT NULL, created_at timestamptz NOT NULL,
    initial_stock integer NOT NULL, stock integer NOT NULL);
CREATE TABLE review (
    id integer NOT NULL, product_id integer NOT NULL, customer_id integer NOT NULL, rating smallint NOT NULL,
    title text NOT NULL, body text NOT NULL, written_on date NOT NULL);
CREATE TABLE cart_item (
    id bigint GENERATED ALWAYS AS IDENTITY, customer_id integer NOT NULL, product_id integer NOT NULL,
    quantity integer NOT NULL);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY, customer_id integer NOT NULL, idempotency_key text NOT NULL,
    status text NOT NULL, total_cents bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_line (
    id bigint GENERATED ALWAYS AS IDENTITY, order_id bigint NOT NULL, product_id integer NOT NULL,
    quantity integer NOT NULL, price_cents integer NOT NULL);
CREATE TABLE payment (
    order_id bigint NOT NULL, reference text NOT NULL, amount_cents bigint NOT NULL);
CREATE TABLE reservation (
    order_id bigint NOT NULL, customer_id integer NOT NULL, idempotency_key text NOT NULL,
    products integer[] NOT NULL, quantities integer[] NOT NULL, prices integer[] NOT NULL,
    total_cents bigint NOT NULL, made_at timestamptz NOT NULL DEFAULT now());
"""

KEYS = """
ALTER TABLE category ADD PRIMARY KEY (id);
ALTER TABLE customer ADD PRIMARY KEY (id);
ALTER TABLE product ADD PRIMARY KEY (id);
ALTER TABLE review ADD PRIMARY KEY (id);
ALTER TABLE cart_item ADD PRIMARY KEY (id);
ALTER TABLE orders ADD PRIMARY KEY (id);
ALTER TABLE order_line ADD PRIMARY KEY (id);
ALTER TABLE payment ADD PRIMARY KEY (order_id);
ALTER TABLE reservation ADD PRIMARY KEY (order_id);
ALTER TABLE category ADD FOREIGN KEY (parent_id) REFERENCES category;
ALTER TABLE product ADD FOREIGN KEY (category_id) REFERENCES category;
ALTER TABLE review ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE review ADD FOREIGN KEY (customer_id) REFERENCES customer;
ALTER TABLE cart_item ADD FOREIGN KEY (customer_id) REFERENCES customer;
ALTER TABLE cart_item ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customer;
ALTER TABLE order_line ADD FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE order_line ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE payment ADD FOREIGN KEY (order_id) REFERENCES orders;
CREATE INDEX category_parent ON category (parent_id);
CREATE INDEX product_category ON product (category_id);
CREATE INDEX review_product ON review (product_id);
CREATE INDEX review_customer ON review (customer_id);
CREATE UNIQUE INDEX cart_item_once ON cart_item (customer_id, product_id);
CREATE INDEX cart_item_product ON cart_item (product_id);
CREATE UNIQUE INDEX orders_once ON orders (customer_id, idempotency_key);
CREATE UNIQUE INDEX reservation_once ON reservation (customer_id, idempotency_key);
CREATE INDEX order_line_order ON order_line (order_id);
CREATE INDEX order_line_product ON order_line (product_id);
"""

# One shard: the rows of a customer lie together, so each table has the key. Ids come from the shop, and no foreign key
# leaves the shard.
ORDER_TABLES = """
DROP TABLE IF EXISTS payment, order_line, orders;
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id integer NOT NULL, idempotency_key text NOT NULL,
    status text NOT NULL, total_cents bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (customer_id, idempotency_key));
CREATE TABLE order_line (
    order_id bigint NOT NULL REFERENCES orders, customer_id integer NOT NULL, product_id integer NOT NULL,
    quantity integer NOT NULL, price_cents integer NOT NULL, PRIMARY KEY (order_id, product_id));
CREATE TABLE payment (
    order_id bigint PRIMARY KEY REFERENCES orders, customer_id integer NOT NULL, reference text NOT NULL,
    amount_cents bigint NOT NULL);
CREATE INDEX orders_unpaid ON orders (created_at) WHERE status = 'payment_pending';
"""

NAMES = ("reservation", "payment", "order_line", "orders", "cart_item", "review", "product", "customer", "category")

# Each index answers one statement of tuned/sql.py; none is needed for a correct answer.
TUNED_INDEXES = {
    "product_newest": "CREATE INDEX product_newest ON product (created_at DESC, id DESC)",
    "product_price": "CREATE INDEX product_price ON product (price_cents, id)",
    "product_category_newest": (
        "CREATE INDEX product_category_newest ON product (category_id, created_at DESC, id DESC)"
    ),
    "product_popular": "CREATE INDEX product_popular ON product (weekly_views DESC, id)",
    "product_name_trigrams": "CREATE INDEX product_name_trigrams ON product USING gin (name gin_trgm_ops)",
    "review_latest": ("CREATE INDEX review_latest ON review (product_id, written_on DESC, id DESC) INCLUDE (rating)"),
}


async def create_tables(connection: asyncpg.Connection) -> None:
    """Create the empty tables, dropping what an earlier run left; keys follow by :func:`add_keys` after the
    load.
    """
    await connection.execute(f"DROP TABLE IF EXISTS {', '.join(NAMES)} CASCADE;" + TABLES)


async def create_order_tables(shard: asyncpg.Connection) -> None:
    """Create the empty tables of one shard for orders, dropping what an earlier run left."""
    await shard.execute(ORDER_TABLES)


async def add_keys(connection: asyncpg.Connection) -> None:
    """Add primary keys, foreign keys and their indexes: after the load, where they cost a fraction."""
    await connection.execute(KEYS)


async def apply_indexes(connection: asyncpg.Connection) -> None:
    """Create the indexes of the rung ``indexes``; those that exist stay. Needs the extension pg_trgm at hand.

    Reviews are analysed and vacuumed too, because an index-only scan needs the visibility map.
    """
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    there = await present_indexes(connection)
    for name, statement in TUNED_INDEXES.items():
        if name not in there:
            await connection.execute(statement)
    await connection.execute("VACUUM (ANALYZE) product, review")


async def drop_indexes(connection: asyncpg.Connection) -> None:
    """Drop the indexes of the rung ``indexes``; those that are missing are passed over."""
    await connection.execute(f"DROP INDEX IF EXISTS {', '.join(TUNED_INDEXES)}")


async def present_indexes(connection: asyncpg.Connection) -> frozenset[str]:
    """Which of the indexes of the rung ``indexes`` exist now."""
    rows = await connection.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND indexname = ANY($1::text[])",
        list(TUNED_INDEXES),
    )
    return frozenset(row["indexname"] for row in rows)
