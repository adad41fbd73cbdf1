"""Rows of several shards as one answer: pure functions over lists, and the k-way merge of streams.

A k-way merge holds one row of each stream in a heap and gives out the smallest (Knuth, TAOCP 3, 5.4.1). Equal rows come
in the order of the shards, so a merge is stable and its result does not depend on which shard answered first.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from tenfold.db.shards.aggregate import final, merged
from tenfold.db.shards.errors import TooManyGroups
from tenfold.db.shards.order import Row, identity, ranked, sort_key
from tenfold.db.shards.shape import Groups, Merge


def combine(merge: Merge, shards: Sequence[Sequence[Row]], *, max_groups: int) -> list[tuple[Any, ...]]:
    """The answer from all pushed rows of all shards (each shard's in its own order)."""
    whole: Sequence[Row]
    if merge.groups is not None:
        whole = _grouped(merge.groups, chain.from_iterable(shards), max_groups)
    else:
        whole = list(chain.from_iterable(shards))
    rows: Iterable[Row] = whole
    if merge.order:
        rows = map(whole.__getitem__, ranked(merge.order, whole))
    if merge.distinct:
        rows = _distinct(rows, picker(merge.project), max_groups)
    stop = None if merge.limit is None else merge.offset + merge.limit
    return list(map(picker(merge.project), islice(rows, merge.offset, stop)))


def picker(places: Sequence[int]) -> Callable[[Row], tuple[Any, ...]]:
    """A function from a row to the values at ``places`` of it."""
    if len(places) == 1:
        only = places[0]
        return lambda row: (row[only],)
    return itemgetter(*places)


def _distinct(rows: Iterable[Row], pick: Callable[[Row], tuple[Any, ...]], limit: int) -> Iterator[Row]:
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = identity(pick(row))
        if key not in seen:
            if len(seen) >= limit:
                raise TooManyGroups(limit)
            seen.add(key)
            yield row


def _grouped(groups: Groups, rows: Iterable[Row], limit: int) -> list[Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = identity(row[: groups.width])
        known = found.get(key)
        if known is None:
            if len(found) >= limit:
                raise TooManyGroups(limit)
            found[key] = row
        else:
            found[key] = merged(groups.aggregates, known, row)
    finished: list[Row] = []
    for row in found.values():
        values = [final(one.kind, [row[place] for place in one.positions]) for one in groups.aggregates]
        whole = (*row[: groups.width], *values)
        if groups.having is None or groups.having(whole) is True:
            finished.append(whole)
    return finished


async def kmerge(
    merge: Merge, streams: Sequence[AsyncIterator[Row]], *, max_groups: int
) -> AsyncIterator[tuple[Any, ...]]:
    """The answer as it comes, from streams of pushed rows. Not for groups."""
    key = sort_key(merge.order)
    heap: list[tuple[Any, int, Row]] = []
    for number, stream in enumerate(streams):
        async for row in stream:
            heap.append((key(row), number, row))
            break
    heapq.heapify(heap)
    seen: set[tuple[Any, ...]] = set()
    skip, left = merge.offset, merge.limit
    pick = picker(merge.project)
    while heap and left != 0:
        _, number, row = heap[0]
        values = pick(row)
        fresh = True
        if merge.distinct:
            same = identity(values)
            fresh = same not in seen
            if fresh and len(seen) >= max_groups:
                raise TooManyGroups(max_groups)
            seen.add(same)
        if fresh and skip:
            skip -= 1
        elif fresh:
            left = None if left is None else left - 1
            yield values
            if left == 0:
                return
        async for following in streams[number]:
            heapq.heapreplace(heap, (key(following), number, following))
            break
        else:
            heapq.heappop(heap)
