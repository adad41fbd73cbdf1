"""Many rows, each on its shard: one transaction for each shard, and what was stored is told when not all of it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Insert

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import PartialWrite, StaleMap
from tenfold.db.shards.key import insert_keys
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.parallel import together
from tenfold.db.shards.scheme import Scheme

Rows = Sequence[Mapping[str, Any]]


class Batch:
    """One INSERT of many rows under way."""

    def __init__(
        self,
        statement: Insert,
        scheme: Scheme,
        members: Mapping[str, Member],
        current: Callable[[], ShardMap],
        refresh: Callable[[StaleMap, int], Awaitable[None]],
        concurrency: int,
    ) -> None:
        self._statement, self._scheme, self._members = statement, scheme, members
        self._current, self._refresh, self._concurrency = current, refresh, concurrency
        self._done: dict[str, int] = {}
        self._failed: dict[str, Exception] = {}

    async def write(self, rows: Rows) -> int:
        """How many rows were stored. Raises the only shard's error, or `PartialWrite`."""
        given: Any = rows
        if not isinstance(given, Sequence) or not all(isinstance(row, Mapping) for row in given):
            raise MisuseError(f"rows: expected a list of mappings, one for each row, got {type(rows).__name__}")
        if self._statement._multi_values:
            raise MisuseError(
                "insert: expected an INSERT without VALUES, got one with rows of its own; give them as rows"
            )
        if rows:
            await self._spread(rows, 1)
        if self._failed:
            if len(self._failed) == 1 and not self._done:
                raise next(iter(self._failed.values()))
            raise PartialWrite(self._done, self._failed)
        return sum(self._done.values())

    async def _spread(self, rows: Rows, attempt: int) -> None:
        current = self._current()
        parts: dict[str, list[Mapping[str, Any]]] = {}
        for key, row in zip(insert_keys(self._statement, rows, self._scheme), rows, strict=True):
            parts.setdefault(current.shard_of(key), []).append(row)
        work = [partial(self._store, shard, part, current.epoch, attempt) for shard, part in parts.items()]
        await together(work, self._concurrency)

    async def _store(self, shard: str, rows: Rows, epoch: int, attempt: int) -> None:
        try:
            async with self._members[shard].begin(epoch) as connection:
                await connection.execute(self._statement, rows)
        except StaleMap as stale:
            await self._again(rows, stale, attempt)
        except Exception as error:  # noqa: BLE001 - told to the caller by `write`
            self._failed[shard] = error
        else:
            self._done[shard] = self._done.get(shard, 0) + len(rows)

    async def _again(self, rows: Rows, stale: StaleMap, attempt: int) -> None:
        """Nothing of these rows was stored: spread them anew, by the map as it is now."""
        try:
            await self._refresh(stale, attempt)
        except StaleMap as error:
            self._failed[error.shard] = error
        else:
            await self._spread(rows, attempt + 1)
