"""The tables that this layer keeps for itself: made by whoever may, used by whoever may use them.

``CREATE … IF NOT EXISTS`` wants the right to create also where there is nothing to do, and the role of an application
has none: since PostgreSQL 15 only the owner of a database may create in its schema ``public``. So where that right is
missing, it is enough that the tables are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold._core.errors import MisuseError
from tenfold.db.refusals import sqlstate

_MAY_NOT: Final = "42501"
_MISSING: Final = sa.text(
    "SELECT current_user, coalesce(current_schema(), 'public'), array(SELECT name FROM unnest(CAST(:tables AS text[])) "
    "name WHERE to_regclass(name) IS NULL)"
)


async def made(connection: AsyncConnection, what: str, statements: Sequence[str], tables: Sequence[str]) -> None:
    """Make ``tables`` where they are missing, in the transaction of ``connection``: the first of ``statements`` takes
    the lock under which the others are run.

    Raises `MisuseError`, in the name of ``what``, where they are missing and this role may not create them.
    """
    lock, *others = map(sa.text, statements)
    await connection.execute(lock)
    try:
        async with connection.begin_nested():
            for statement in others:
                await connection.execute(statement)
    except DBAPIError as error:
        if sqlstate(error) != _MAY_NOT:
            raise
        role, schema, missing = (await connection.execute(_MISSING, {"tables": list(tables)})).one()
        if missing:
            raise MisuseError(
                f'{what}: the role "{role}" may not create {", ".join(missing)}: open it once as a role that may, and '
                f'GRANT SELECT, INSERT, UPDATE, DELETE on them (USAGE on a sequence) TO "{role}"; or GRANT CREATE ON '
                f'SCHEMA "{schema}" TO "{role}"'
            ) from error
