"""A cluster as one event loop sees it: which node has which hash slot, and a `Link` to each node that has any.

The map comes from ``CLUSTER SLOTS``, of whichever known node answers first. It is asked for again when a partition
finds its slot elsewhere (``MOVED``) or its node silent, once for all who doubt it at the same time. A slot under
migration (``ASK``) is not followed: for these seconds its partition counts as down.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import Link
from tenfold.cache.places import Address, Parsed, Single
from tenfold.cache.route import CONNECT_PATIENCE
from tenfold.cache.vetted import Vetted

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

_ASK: Final = 0.3  # seconds for each node that is asked for the map: the second one is asked well within a connection's


class Cluster:
    """Nodes, links and the map. ``random`` chooses the node to which the subscription goes."""

    def __init__(self, url: Parsed, *, credentials: Any = None, random: Random) -> None:
        self._url = url
        self._credentials = credentials
        self._random = random
        self._links: dict[Address, Link] = {}
        self._partitions: list[Partition] = []
        self._slots: list[tuple[int, int, Address]] = []
        self._as_of = float("-inf")  # this loop's time at which the map was asked for
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False
        # At once, so that what is wrong with the URL is said at once.
        self.failures = Single(url.at(url.addresses[0]), credentials).failures

    def __repr__(self) -> str:
        return f"<Cluster {self._url.shown} nodes={len(self._links)}>"

    @property
    def nodes(self) -> list[Address]:
        """The masters, as far as they are known."""
        return list(dict.fromkeys(address for _, _, address in self._slots))

    def partition(self, slot: int, prefix: str) -> Partition:
        """The way to the names of this slot; closed with the cluster."""
        way = Partition(self, slot, prefix)
        self._partitions.append(way)
        return way

    async def link(self, slot: int, doubted: float) -> Link:
        """To the node that has ``slot``, by a map not older than the moment (of this loop's clock) at which it was
        doubted. Raises `LevelTwoDown`.
        """
        while self._as_of <= doubted:
            await self._refreshed()
        for first, last, address in self._slots:
            if first <= slot <= last:
                return self._to(address)
        raise LevelTwoDown(f"no node has slot {slot}")

    async def dedicated(self) -> AbstractConnection:
        """A connection of the caller's own to one of the nodes: a message reaches them all. Raises `LevelTwoDown`."""
        if not self._slots:
            await self._refreshed()
        return await self._to(self._random.choice(self.nodes)).dedicated()

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait((self._refreshing,), timeout=CONNECT_PATIENCE)
        links, self._links = self._links, {}
        await asyncio.gather(*[way.aclose() for way in (*self._partitions, *links.values())])

    def _to(self, address: Address) -> Link:
        if self._closed:
            raise LevelTwoDown("the cache is closed")
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(Single(self._url.at(address), self._credentials))
        return link

    async def _refreshed(self) -> None:
        """The map is asked for once, for all who wait."""
        if self._refreshing is None or self._refreshing.done():
            if self._closed:
                raise LevelTwoDown("the cache is closed")
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
            self._refreshing.add_done_callback(_heard)  # whoever waits gets the error, and perhaps nobody does any more
        task = self._refreshing
        await asyncio.wait((task,))
        if task.cancelled():
            raise LevelTwoDown("the cache is closed")
        task.result()

    async def _refresh(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        known = dict.fromkeys([*self.nodes, *self._url.addresses])
        why = "no node was asked"
        order = list(known)
        self._random.shuffle(order)  # a node that is cut off from the others and does not know it is not asked for ever
        for address in sorted(order, key=self._unconnected):
            try:
                (answer,) = await self._to(address).exchange([("CLUSTER", "SLOTS")], _ASK)
            except LevelTwoDown as error:
                why = f"{address[0]}:{address[1]}: {error}"
                continue
            found = slots_of(answer, address)
            if not found:
                why = f"{address[0]}:{address[1]} is no node of a cluster with slots: {answer!r:.100}"
                continue
            self._slots, self._as_of = found, asked_at
            gone = [one for one in self._links if one not in self.nodes]
            for one in gone:
                await self._links.pop(one).aclose()
            return
        raise LevelTwoDown(f"no node of the cluster tells the slots; the last one said: {why}")

    def _unconnected(self, address: Address) -> bool:
        link = self._links.get(address)
        return link is None or link.lane() is None


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def slots_of(answer: Any, asked: Address) -> list[tuple[int, int, Address]]:
    """What ``CLUSTER SLOTS`` answered: first slot, last slot, master. Empty if it is something else."""
    found: list[tuple[int, int, Address]] = []
    for one in answer if isinstance(answer, list) else ():
        match one:
            case [int() as first, int() as last, [host, int() as port, *_], *_]:
                # A node that does not know its own address means the one at which it was asked.
                found.append((first, last, (host.decode() if isinstance(host, bytes) and host else asked[0], port)))
            case _:
                return []
    return found


class Partition(Vetted):
    """One partition's way: over the link to the node that has its slot, which it shares with the node's other
    partitions. So to drop a lane is to forget it and to doubt the map; what the others have under way there goes on.
    """

    def __init__(self, cluster: Cluster, slot: int, prefix: str) -> None:
        super().__init__(prefix)
        self._cluster = cluster
        self._slot = slot
        self._doubted = float("-inf")

    async def drop(self, *which_ones: int) -> None:
        if which_ones:
            self._doubted = asyncio.get_running_loop().time()
            self._lanes = [None, None]

    async def _locate(self) -> Link:
        return await self._cluster.link(self._slot, self._doubted)
