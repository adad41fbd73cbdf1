"""The shards of a cluster by name, and the sentence for one that the map names and this process does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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
