"""The statements of the tuned shop: one for each page, whatever is on it.

Listings are followed by key, not by OFFSET: the row comparison ``(created_at, id) < ($1, $2)`` starts where
the page before ended, so page 500 costs what page 1 costs. The first page starts from a key beyond every
row. Ratings come as integer sums and counts; the division is done in one place for all variants.
"""

from __future__ import annotations

COLUMNS = "p.id, p.name, p.price_cents, p.category_id, p.created_at, p.stock"

_DRESS = """
JOIN category c ON c.id = p.category_id
LEFT JOIN LATERAL (SELECT sum(rating) AS total, count(*) AS reviews FROM review WHERE product_id = p.id)
    r ON true
"""

_ITEM = "p.id, p.name, p.price_cents, c.name AS category, r.total, r.reviews, p.stock, p.created_at"

NEWEST = f"""
SELECT {_ITEM} FROM (
    SELECT {COLUMNS} FROM product p WHERE (p.created_at, p.id) < ($1::timestamptz, $2::integer)
    ORDER BY p.created_at DESC, p.id DESC LIMIT $3) p {_DRESS}
ORDER BY p.created_at DESC, p.id DESC"""

CHEAPEST = f"""
SELECT {_ITEM} FROM (
    SELECT {COLUMNS} FROM product p WHERE (p.price_cents, p.id) > ($1::integer, $2::integer)
    ORDER BY p.price_cents, p.id LIMIT $3) p {_DRESS}
ORDER BY p.price_cents, p.id"""

# One row with nulls where the category is there and its page is empty; no row where it is not there. The
# newest of each category below are merged, so that no category is read further than the page is long.
CATEGORY = f"""
WITH RECURSIVE below AS (
    SELECT id FROM category WHERE id = $1
    UNION ALL SELECT c.id FROM category c JOIN below b ON c.parent_id = b.id)
SELECT page.* FROM category here LEFT JOIN LATERAL (
    SELECT {_ITEM} FROM (
        SELECT {COLUMNS} FROM below b CROSS JOIN LATERAL (
            SELECT * FROM product q
            WHERE q.category_id = b.id AND (q.created_at, q.id) < ($2::timestamptz, $3::integer)
            ORDER BY q.created_at DESC, q.id DESC LIMIT $4) p
        ORDER BY p.created_at DESC, p.id DESC LIMIT $4) p {_DRESS}
) page ON true
WHERE here.id = $1 ORDER BY page.created_at DESC, page.id DESC"""

SEARCH = f"""
SELECT {_ITEM} FROM (
    SELECT {COLUMNS} FROM product p WHERE p.name ILIKE $1
    ORDER BY p.created_at DESC, p.id DESC LIMIT $2) p {_DRESS}
ORDER BY p.created_at DESC, p.id DESC"""

# Any number of product pages by one statement; a relation that is a list comes as parallel arrays.
DETAILS = """
WITH RECURSIVE above AS (
    SELECT id AS leaf, id, parent_id, depth, name FROM category
    WHERE id IN (SELECT category_id FROM product WHERE id = ANY($1::integer[]))
    UNION ALL SELECT a.leaf, c.id, c.parent_id, c.depth, c.name
    FROM category c JOIN above a ON c.id = a.parent_id),
path AS (
    SELECT leaf, array_agg(id ORDER BY depth) AS ids, array_agg(name ORDER BY depth) AS names
    FROM above GROUP BY leaf)
SELECT p.id, p.name, p.description, p.price_cents, p.stock, path.ids AS path_ids, path.names AS path_names,
    r.total, r.reviews, l.*
FROM product p JOIN path ON path.leaf = p.category_id
LEFT JOIN LATERAL (SELECT sum(rating) AS total, count(*) AS reviews FROM review WHERE product_id = p.id)
    r ON true
LEFT JOIN LATERAL (
    SELECT array_agg(x.id) AS review_ids, array_agg(x.author) AS authors, array_agg(x.rating) AS ratings,
        array_agg(x.title) AS titles, array_agg(x.body) AS bodies, array_agg(x.written_on) AS dates
    FROM (SELECT v.id, u.name AS author, v.rating, v.title, v.body, v.written_on
        FROM review v JOIN customer u ON u.id = v.customer_id WHERE v.product_id = p.id
        ORDER BY v.written_on DESC, v.id DESC LIMIT $2) x) l ON true
WHERE p.id = ANY($1::integer[])"""

STOCKS = "SELECT id, stock FROM product WHERE id = ANY($1::integer[])"

POPULAR = "SELECT id FROM product ORDER BY weekly_views DESC, id LIMIT $1"
CATEGORIES = "SELECT id FROM category ORDER BY id"

# The categories that show a product: its own, and all above.
SHOWN_IN = """
WITH RECURSIVE above AS (
    SELECT c.id, c.parent_id FROM category c JOIN product p ON p.category_id = c.id WHERE p.id = $1
    UNION ALL SELECT c.id, c.parent_id FROM category c JOIN above a ON c.id = a.parent_id)
SELECT id FROM above"""

# A statement sees the table as it was when it began, so the line just added is joined in by hand.
CART_ADD = """
WITH buyer AS (SELECT id FROM customer WHERE id = $1),
known AS (SELECT id FROM product WHERE id = $2),
added AS (
    INSERT INTO cart_item (customer_id, product_id, quantity) SELECT buyer.id, known.id, $3 FROM buyer, known
    ON CONFLICT (customer_id, product_id) DO UPDATE SET quantity = cart_item.quantity + excluded.quantity
    RETURNING product_id, quantity),
lines AS (
    SELECT product_id, quantity FROM cart_item WHERE customer_id = $1 AND product_id <> $2
    UNION ALL SELECT product_id, quantity FROM added)
SELECT buyer.id AS buyer, known.id AS known, p.id AS product_id, p.name, lines.quantity, p.price_cents
FROM (SELECT 1) one LEFT JOIN buyer ON true LEFT JOIN known ON true
LEFT JOIN (lines JOIN product p ON p.id = lines.product_id) ON buyer.id IS NOT NULL AND known.id IS NOT NULL
ORDER BY lines.product_id"""

CART = """
SELECT u.id AS buyer, p.id AS product_id, p.name, i.quantity, p.price_cents
FROM customer u LEFT JOIN (cart_item i JOIN product p ON p.id = i.product_id) ON i.customer_id = u.id
WHERE u.id = $1 ORDER BY i.product_id"""

ORDER = """
SELECT o.id AS order_id, o.status, o.total_cents, l.product_id, p.name, l.quantity, l.price_cents
FROM customer u
LEFT JOIN (orders o JOIN order_line l ON l.order_id = o.id JOIN product p ON p.id = l.product_id)
    ON o.customer_id = u.id AND o.id = $1
WHERE u.id = $2 ORDER BY l.product_id"""

EXISTING = """
SELECT u.id AS buyer, o.id AS order_id, o.status, o.total_cents
FROM customer u LEFT JOIN orders o ON o.customer_id = u.id AND o.idempotency_key = $2 WHERE u.id = $1"""

# The goods of a cart. The shelves are taken down in one statement that cannot go below zero: the condition on
# stock is checked again on the newest version of a row that another checkout has just changed. Rows are
# locked in the order of their ids, so that two carts with the same products cannot wait for each other.
# Where ``sold`` has fewer rows than ``wanted``, or the key was used before, the caller rolls back.
_TAKE = """
WITH cart AS (
    DELETE FROM cart_item WHERE customer_id = $1 RETURNING product_id, quantity),
wanted AS MATERIALIZED (
    SELECT p.id, cart.quantity FROM product p JOIN cart ON cart.product_id = p.id
    ORDER BY p.id FOR UPDATE OF p),
sold AS (
    UPDATE product p SET stock = p.stock - w.quantity FROM wanted w
    WHERE p.id = w.id AND p.stock >= w.quantity
    RETURNING p.id, w.quantity, p.price_cents, p.stock),"""

_TAKEN = """
    (SELECT array_agg(id ORDER BY id) FROM wanted) AS wanted,
    (SELECT array_agg(id ORDER BY id) FROM sold) AS sold,
    (SELECT array_agg(id) FROM sold WHERE stock = 0 OR (stock <= 5 AND stock + quantity > 5)) AS reworded"""

# The whole checkout, where the order is stored beside the stock.
CHECKOUT = f"""{_TAKE}
placed AS (
    INSERT INTO orders (customer_id, idempotency_key, status, total_cents)
    SELECT $1, $2, 'payment_pending', sum(quantity * price_cents) FROM sold HAVING count(*) > 0
    ON CONFLICT (customer_id, idempotency_key) DO NOTHING RETURNING id, total_cents),
lines AS (
    INSERT INTO order_line (order_id, product_id, quantity, price_cents)
    SELECT placed.id, sold.id, sold.quantity, sold.price_cents FROM placed, sold ORDER BY sold.id)
SELECT (SELECT id FROM placed) AS order_id, (SELECT total_cents FROM placed) AS total_cents,{_TAKEN}"""

# Where the order will be stored elsewhere: the goods, and what the order will be.
RESERVE = f"""{_TAKE}
placed AS (
    INSERT INTO reservation (order_id, customer_id, idempotency_key, products, quantities, prices, total_cents)
    SELECT $3::bigint, $1, $2, array_agg(id ORDER BY id), array_agg(quantity ORDER BY id),
        array_agg(price_cents ORDER BY id), sum(quantity * price_cents) FROM sold HAVING count(*) > 0
    ON CONFLICT (customer_id, idempotency_key) DO NOTHING RETURNING *)
SELECT one.order_id, one.total_cents, one.products, one.quantities, one.prices,{_TAKEN}
FROM (SELECT 1) always LEFT JOIN placed one ON true"""

RESERVED = """
SELECT u.id AS buyer, r.* FROM customer u
LEFT JOIN reservation r ON r.customer_id = u.id AND r.idempotency_key = $2 WHERE u.id = $1"""

# At random, so that those whose shard is away do not stand before the others.
OPEN_RESERVATIONS = """
SELECT * FROM reservation WHERE made_at < now() - make_interval(secs => $1) ORDER BY random() LIMIT $2"""

SETTLED = "DELETE FROM reservation WHERE order_id = ANY($1::bigint[]) RETURNING order_id"

# The goods go back to the shelves and into the cart, once.
UNDO = """
WITH gone AS (DELETE FROM reservation WHERE order_id = $1 RETURNING customer_id, products, quantities),
lines AS (
    SELECT gone.customer_id, line.product_id, line.quantity
    FROM gone, unnest(gone.products, gone.quantities) AS line (product_id, quantity)),
locked AS MATERIALIZED (
    SELECT p.id, lines.quantity FROM product p JOIN lines ON lines.product_id = p.id ORDER BY p.id FOR UPDATE OF p),
back AS (UPDATE product p SET stock = p.stock + locked.quantity FROM locked WHERE p.id = locked.id)
INSERT INTO cart_item (customer_id, product_id, quantity) SELECT customer_id, product_id, quantity FROM lines
ON CONFLICT (customer_id, product_id) DO UPDATE SET quantity = cart_item.quantity + excluded.quantity
RETURNING product_id"""

# On a shard. ON CONFLICT without a target: the same order again, or another one of this key.
STORE = """
WITH placed AS (
    INSERT INTO orders (id, customer_id, idempotency_key, status, total_cents)
    VALUES ($1, $2, $3, 'payment_pending', $4) ON CONFLICT DO NOTHING RETURNING id),
lines AS (
    INSERT INTO order_line (order_id, customer_id, product_id, quantity, price_cents)
    SELECT placed.id, $2, line.* FROM placed, unnest($5::integer[], $6::integer[], $7::integer[]) AS line)
SELECT id FROM placed"""

STORED = "SELECT id FROM orders WHERE customer_id = $1 AND idempotency_key = $2"

PAID_ON_SHARD = """
WITH paid AS (
    UPDATE orders SET status = 'paid' WHERE id = $1 AND customer_id = $2 AND status = 'payment_pending'
    RETURNING id, customer_id)
INSERT INTO payment (order_id, customer_id, reference, amount_cents) SELECT id, customer_id, $3, $4 FROM paid"""

# What a shard does not know of an order: whether the customer is there, and what the products are called.
NAMES = """
SELECT u.id AS buyer, p.id, p.name FROM customer u LEFT JOIN product p ON p.id = ANY($2::integer[]) WHERE u.id = $1"""

# Once, whoever comes first.
PAID = """
WITH paid AS (UPDATE orders SET status = 'paid' WHERE id = $1 AND status = 'payment_pending' RETURNING id)
INSERT INTO payment (order_id, reference, amount_cents) SELECT id, $2, $3 FROM paid"""

# At random, so that workers that look at the same time mostly see others.
PENDING = """
SELECT id, customer_id, idempotency_key, total_cents FROM orders
WHERE status = 'payment_pending' AND created_at < now() - make_interval(secs => $1) ORDER BY random() LIMIT $2"""
