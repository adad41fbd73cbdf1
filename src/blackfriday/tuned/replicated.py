"""The way to a primary and its replicas, by `tenfold.db`: reads where they are not older than their reader's writes.

A request carries a token of what its customer has written (`CausalityMiddleware`, in a cookie and a header), and a
replica answers it once it shows that: carts and orders need not go to the primary. What was written in this request
counts too. The primary is whichever server is it now.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from fastapi import FastAPI
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from blackfriday.counters import Counters
from blackfriday.settings import Settings
from blackfriday.tuned.origin import CONNECTIONS, STATEMENT_TIMEOUT, Origin, Row, Rows
from tenfold.db import (
    CausalityMiddleware,
    CookieOptions,
    DatabaseClusterError,
    RunOptions,
    TokenKeys,
    create_async_cluster,
)

_PLACE = re.compile(r"\$(\d+)")


@lru_cache(maxsize=64)
def named(statement: str) -> TextClause:
    """A statement of the shop as SQLAlchemy takes it: ``$1`` is ``:p1``. One object each: it is classed once."""
    return text(_PLACE.sub(r"(:p\1)", statement))


def values(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The parameters of a `named` statement."""
    return {f"p{place}": value for place, value in enumerate(arguments, start=1)}


def remember(app: FastAPI, settings: Settings) -> None:
    """Let answers to writes hand out a token, and requests bring it back."""
    secret = settings.causality or secrets.token_hex(16)
    # The shop speaks plain HTTP on loopback; behind TLS the cookie is for TLS alone.
    app.add_middleware(CausalityMiddleware, keys=TokenKeys([secret.encode()]), cookie=CookieOptions(secure=False))


# A COMMIT whose answer is lost is asked for again by its customer, under the same key: it need not be traced here.
_KEYED: Final = RunOptions(track=False)


class ReplicatedOrigin(Origin):
    """As `Origin`, over a cluster. What the cluster has counted is put into ``counters``."""

    away = (*Origin.away, SQLAlchemyError, DatabaseClusterError, TimeoutError)

    def __init__(self, settings: Settings, counters: Counters) -> None:
        super().__init__(settings)
        self._counters = counters
        self._asked = 0
        self._cluster = create_async_cluster(
            primary=settings.database,
            replicas=list(settings.replicas),
            pool_size=CONNECTIONS,
            statement_timeout=STATEMENT_TIMEOUT,
        )

    async def open(self) -> None:
        """Connect; raises what the cluster raises if no primary is there."""
        await self._cluster.writer()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._cluster.aclose()

    async def read(self, statement: str, *arguments: Any) -> Rows:
        """See `Origin.read`: from a replica, or from the primary where none shows it in time."""
        found = await self._cluster.execute(named(statement), values(arguments))
        self._count()
        return found.mappings().all()

    async def fetch(self, statement: str, *arguments: Any) -> Rows:
        """See `Origin.fetch`."""
        self._asked += 1
        async with self._cluster.session(read_only=True, route="primary") as session:
            return (await session.execute(named(statement), values(arguments))).mappings().all()

    async def write(self, statement: str, *arguments: Any) -> Rows:
        """See `Origin.write`."""
        done = await self._cluster.execute(named(statement), values(arguments), route="primary")
        return done.mappings().all() if done.returns_rows else ()

    async def decide(self, statement: str, *arguments: Any, good: Callable[[Row], bool]) -> Row | None:
        """See `Origin.decide`. Run again after a deadlock, and after a failover before the COMMIT."""

        async def once(session: AsyncSession) -> Row:
            row = (await session.execute(named(statement), values(arguments))).mappings().first()
            if row is None or not good(row):
                raise _NotGood(row)
            return row

        try:
            return await self._cluster.run(once, options=_KEYED)
        except _NotGood as refused:
            return refused.row

    def _count(self) -> None:
        router, seen = self._cluster.router, self._cluster.causal.counters
        self._counters.put("replica_reads", router.reads_on_replicas)
        self._counters.put("token_reads", seen.at_once + seen.there)
        self._counters.put("primary_reads", max(0, router.reads_on_primary - self._asked))


class _NotGood(Exception):
    """Rolls a transaction back, and carries its row out of it."""

    def __init__(self, row: Row | None) -> None:
        super().__init__("not committed")
        self.row = row
