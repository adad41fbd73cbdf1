"""What a plan consists of: which shards, what they are sent, how their rows become the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter

from tenfold.db.shards.aggregate import Aggregate
from tenfold.db.shards.having import Test
from tenfold.db.shards.order import OrderKey


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows that are merged: the first ``width`` columns of a pushed row are the group, then come partial aggregates.

    A merged row is the group's columns followed by the final aggregates. ``scalar``: no GROUP BY, one row always.
    """

    width: int
    aggregates: tuple[Aggregate, ...]
    having: Test | None
    scalar: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """How pushed rows become the answer. ``project``: the answer's columns in a merged row."""

    project: tuple[int, ...]
    order: tuple[OrderKey, ...] = ()
    distinct: bool = False
    groups: Groups | None = None
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``kind``: "single" or "scatter". ``statement`` is what ``shards`` are sent. ``why``: the steps, in words."""

    kind: str
    shards: tuple[str, ...]
    statement: Any = field(repr=False)
    why: tuple[str, ...]
    write: bool = False
    merge: Merge | None = None
    columns: tuple[Any, ...] = field(default=(), repr=False)
    original: Any = field(default=None, repr=False)
    entities: bool = False
    """Whether mapped classes are selected: then the mapper and the options say which columns come, in which order."""

    @property
    def volatile(self) -> bool:
        """Whether a parameter gets its value from a function, so that the next plan may differ."""
        nodes = visitors.iterate(self.original if self.original is not None else self.statement)
        return any(isinstance(node, BindParameter) and node.callable is not None for node in nodes)

    def __str__(self) -> str:
        return f"{self.kind} on {', '.join(self.shards)}: {'; '.join(self.why)}"
