"""The shards of a cluster and their engines by name; and what is said of one that only the map knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from tenfold.db.shards.errors import UnknownShard
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member


class Members(dict[str, Member]):
    """Looking up what is not there raises `UnknownShard`."""

    def __init__(self, map: Callable[[], ShardMap]) -> None:
        super().__init__()
        self._map: Final = map

    def __missing__(self, name: str) -> Member:
        raise UnknownShard(name, self._map().epoch)


class Engines(Mapping[str, AsyncEngine]):
    """The engines of the shards' present primaries by name."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members

    def __getitem__(self, name: str) -> AsyncEngine:
        return self._members[name].engine

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
