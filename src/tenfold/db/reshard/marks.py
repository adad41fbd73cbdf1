"""The marks on a shard: which switches this server has done its part of. See `mend`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tenfold.db.reshard.capture import Place
from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.steps import Leg

Sums = Mapping[int, tuple[int, int]]
"""Rows and checksum by table number."""
_COLUMNS: Final = "number, at, giver, taker, buckets, sums, epoch"


@dataclass(frozen=True, slots=True)
class Mark:
    """A switch of ``buckets``. ``at``: by the giver's clock, when its writers were locked out. ``sums``: what moved, by
    bucket; of a mend, what the giver dropped. ``epoch``: what the server's own was raised to.
    """

    number: int
    at: dt.datetime
    giver: str
    taker: str
    buckets: tuple[int, ...]
    sums: Mapping[int, Sums] = field(default_factory=dict, compare=False)
    epoch: int = 0

    def fits(self, leg: Leg | None) -> bool:
        """Whether it can be one of ``leg``."""
        return (
            leg is not None
            and {self.giver, self.taker} == {leg.source, leg.target}
            and {*self.buckets} <= {*leg.buckets}
        )


async def note(connection: Connection, place: Place, mark: Mark) -> None:
    """Write a mark, within the transaction that is open."""
    sums = [
        [bucket, table, count, str(sum_)]
        for bucket, tables in mark.sums.items()
        for table, (count, sum_) in tables.items()
    ]
    await connection.execute(
        f"INSERT INTO {place.mark} ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        mark.number, mark.at, mark.giver, mark.taker, list(mark.buckets), json.dumps(sums), mark.epoch,
    )  # fmt: skip


async def read(connection: Connection, place: Place) -> list[Mark]:
    """All marks of a leg on this server, in order."""
    found = []
    for row in await connection.fetch(f"SELECT {_COLUMNS} FROM {place.mark} ORDER BY number"):
        sums: dict[int, dict[int, tuple[int, int]]] = {}
        for bucket, table, count, sum_ in json.loads(row["sums"]):
            sums.setdefault(bucket, {})[table] = (count, int(sum_))
        buckets = tuple(row["buckets"])
        found.append(Mark(row["number"], row["at"], row["giver"], row["taker"], buckets, sums, row["epoch"]))
    return found


def by_bucket(marks: Iterable[Mark]) -> Mapping[int, Sequence[Mark]]:
    """The marks of each bucket, in order."""
    found: dict[int, list[Mark]] = {}
    for mark in sorted(marks, key=lambda one: one.number):
        for bucket in mark.buckets:
            found.setdefault(bucket, []).append(mark)
    return found
