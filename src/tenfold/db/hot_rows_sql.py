"""What `HotRows` sends to the server: the statements for one table of buckets."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table, TextClause, bindparam, text

from tenfold.db.dialect import DIALECT
from tenfold.db.schemas import full_name

SAVEPOINT: Final = text("SAVEPOINT tenfold_hot_rows")
ROLLBACK: Final = text("ROLLBACK TO SAVEPOINT tenfold_hot_rows")
SET_LOCK_TIMEOUT: Final = text(
    "WITH was AS MATERIALIZED (SELECT current_setting('lock_timeout') AS old) "
    "SELECT was.old, set_config('lock_timeout', :new, true) FROM was"
)
RESET_LOCK_TIMEOUT: Final = text("SELECT set_config('lock_timeout', :old, true)")


class Statements:
    """The statements for ``table`` in ``schema``; each is about one ``:key``."""

    __slots__ = ("add", "keep", "lock", "open", "sum", "take")

    def __init__(self, table: Table, schema: str | None) -> None:
        full = full_name(table, schema, DIALECT.identifier_preparer).replace(":", "\\:")

        def statement(sql: str) -> TextClause:
            return text(sql.replace("{t}", full)).bindparams(bindparam("key", type_=table.c.key.type))

        # The bucket is chosen once, in a CTE that the UPDATE joins: what PostgreSQL checks again, because a row was
        # changed after the statement's snapshot, is then the join's condition and not another choice.
        self.take = statement(
            "WITH free AS MATERIALIZED (SELECT key, bucket FROM {t} WHERE key = :key AND amount >= :n "
            "ORDER BY bucket < :start, bucket LIMIT 1 FOR UPDATE SKIP LOCKED) "
            "UPDATE {t} AS old SET amount = old.amount - :n FROM free "
            "WHERE old.key = free.key AND old.bucket = free.bucket RETURNING old.bucket"
        )
        self.add = statement(
            "WITH free AS MATERIALIZED (SELECT key, bucket FROM {t} WHERE key = :key "
            "ORDER BY amount, bucket LIMIT 1 FOR UPDATE SKIP LOCKED) "
            "UPDATE {t} AS old SET amount = old.amount + :n FROM free "
            "WHERE old.key = free.key AND old.bucket = free.bucket RETURNING old.bucket"
        )
        self.sum = statement("SELECT sum(amount)::bigint FROM {t} WHERE key = :key")
        self.lock = statement("SELECT bucket, amount FROM {t} WHERE key = :key ORDER BY bucket FOR UPDATE")
        self.keep = statement(
            "UPDATE {t} AS old SET amount = new.amount "
            "FROM unnest(CAST(:numbers AS smallint[]), CAST(:amounts AS bigint[])) AS new (bucket, amount) "
            "WHERE old.key = :key AND old.bucket = new.bucket"
        )
        self.open = statement(
            "INSERT INTO {t} (key, bucket, amount) "
            "SELECT :key, n, CAST(:base AS bigint) + CASE WHEN n < :rest THEN 1 ELSE 0 END "
            "FROM generate_series(0, :buckets - 1) n"
        )
