"""Plans as they are asked for: with the map that the process goes by, and kept for statements that come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tenfold.db.dialect import DIALECT
from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.plan import plan
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.shape import Plan

_PLANS: Final = 256


class Planned:
    """``map`` says which version holds; ``rowwise``: see `ShardedCluster`."""

    __slots__ = ("_map", "_plans", "_rowwise", "_scheme")

    def __init__(self, scheme: Scheme, map: Callable[[], ShardMap], rowwise: frozenset[str]) -> None:
        self._scheme, self._map, self._rowwise = scheme, map, rowwise
        # Statements are immutable and compared by identity, so one that is kept by its module is planned once.
        self._plans: dict[Any, tuple[int, Plan]] = {}

    def plan(self, statement: Any, parameters: Any = None, shard_key: Any = None) -> Plan:
        """See `ShardedCluster.plan`."""
        now = self._map()
        if parameters is not None or shard_key is not None:
            return plan(statement, parameters, self._scheme, now, shard_key=shard_key, rowwise=self._rowwise)
        found = self._plans.get(statement)
        if found is None or found[0] != now.epoch:
            made = plan(statement, None, self._scheme, now, rowwise=self._rowwise)
            if not made.volatile:
                if len(self._plans) >= _PLANS:
                    self._plans.clear()
                self._plans[statement] = (now.epoch, made)
            return made
        return found[1]

    def explain(self, statement: Any, parameters: Any = None) -> str:
        """See `ShardedCluster.explain`."""
        try:
            made = self.plan(statement, parameters)
        except CannotAnswer as refused:
            return f"refused: {refused}"
        sent = str(made.statement.compile(dialect=DIALECT)).replace("\n", "")
        return f"{made}\n  sent: {sent}"
