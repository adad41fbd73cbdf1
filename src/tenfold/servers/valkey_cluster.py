"""A throwaway Valkey Cluster: masters that share the hash slots, each with replicas if wanted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration
from tenfold.servers.errors import ServersError
from tenfold.servers.home import Home
from tenfold.servers.ports import HOST, free_port
from tenfold.servers.run import Run
from tenfold.servers.talk import tell
from tenfold.servers.valkey import Valkey
from tenfold.servers.valkey_group import ValkeyGroup

SLOTS: Final = 16_384
_MOST: Final = 12
_MIGRATE_MS: Final = 2000


class ValkeyCluster(ValkeyGroup):
    """``async with ValkeyCluster() as c: c.url``

    ``masters`` (3 to 12, default 3) have the hash slots in equal parts; ``replicas`` is how many each has (default
    none). Without replicas, killing a master takes its slots away and nothing else. ``node_timeout`` is after how many
    seconds a silent node counts as gone (default 1 s). Raises `ServersError` and its kind.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout: float = 1.0,
        within: Duration = "30s",
        state: Path | str | None = None,
    ) -> None:
        if not 3 <= masters <= _MOST or not 0 <= replicas * masters <= _MOST:
            raise MisuseError(
                f"masters, replicas: expected 3 to {_MOST} masters and at most {_MOST} replicas in all, "
                f"got {masters} and {replicas} each"
            )
        super().__init__(within=within, state=state)
        self._wanted = (masters, replicas)
        self._node_timeout = round(node_timeout * 1000)
        self.masters: list[Valkey] = []
        self.replicas: list[Valkey] = []

    @property
    def url(self) -> str:
        """``redis+cluster://127.0.0.1:PORT,127.0.0.1:PORT,…`` with all masters of the start."""
        return "redis+cluster://" + ",".join(f"{HOST}:{one.port}" for one in self.masters)

    @property
    def servers(self) -> list[Valkey]:
        return [*self.masters, *self.replicas]

    async def owner(self, slot: int) -> Valkey:
        """The server that has this slot in the opinion of one that runs; it may be down itself.

        Raises `ServersError` if there is none.
        """
        by_port = {one.port: one for one in self.servers}
        for one in self.servers:
            if one.running:
                for first, last, master, *_ in await tell(one.port, "CLUSTER", "SLOTS"):
                    if first <= slot <= last and master[1] in by_port:
                        return by_port[master[1]]
        raise ServersError(f"slot {slot}: expected a running server that knows who has it, there is none")

    async def move(self, slot: int, target: Valkey) -> None:
        """Give a slot with all its keys to another master, as an administrator would who adds a node."""
        source = await self.owner(slot)
        here, there = await self._id(source), await self._id(target)
        await tell(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        await tell(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        while keys := await tell(source.port, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            await tell(source.port, "MIGRATE", HOST, target.port, "", 0, _MIGRATE_MS, "KEYS", *keys)
        for one in (target, source, *(other for other in self.masters if other.running)):
            await tell(one.port, "CLUSTER", "SETSLOT", slot, "NODE", there)

    async def _start(self, home: Home, run: Run) -> None:
        masters, replicas = self._wanted
        names = [f"master{n}" for n in range(1, masters + 1)]
        self.masters = [self._node(name, home, run) for name in names]
        self.replicas = [self._node(f"{name}_replica{n}", home, run) for n in range(1, replicas + 1) for name in names]
        await self._all(self.servers)
        first = self.masters[0]
        for at, node in enumerate(self.masters):
            await tell(node.port, "CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            start, end = SLOTS * at // masters, SLOTS * (at + 1) // masters - 1
            await tell(node.port, "CLUSTER", "ADDSLOTSRANGE", start, end)
        for node in self.servers[1:]:
            await tell(node.port, "CLUSTER", "MEET", HOST, first.port, first.settings["cluster-port"])
        await self._until("nodes that know one another", self._met)
        for at, node in enumerate(self.replicas):
            master = self.masters[at % masters]
            await tell(node.port, "CLUSTER", "REPLICATE", await self._id(master))
            node.role = "replica"
        await self._until("a cluster that is ok and replicates", self._ready)

    def _node(self, name: str, home: Home, run: Run) -> Valkey:
        settings: dict[str, str | int] = {
            "cluster-enabled": "yes",
            "cluster-config-file": f"{name}.nodes",
            "cluster-port": free_port(),  # the usual one, 10,000 higher, may be an outgoing connection's
            "cluster-node-timeout": self._node_timeout,
            "cluster-require-full-coverage": "no",
        }
        node = Valkey(settings=settings, name=name, within=self.within, run=run, home=home)
        node.role = "master"
        return node

    async def _id(self, node: Valkey) -> str:
        return str(await tell(node.port, "CLUSTER", "MYID"))

    async def _met(self) -> bool:
        known = await asyncio.gather(*(tell(one.port, "CLUSTER", "INFO") for one in self.servers))
        return all(f"cluster_known_nodes:{len(self.servers)}\r" in text for text in known)

    async def _ready(self) -> bool:
        states = await asyncio.gather(*(tell(one.port, "CLUSTER", "INFO") for one in self.servers))
        links = await asyncio.gather(*(tell(one.port, "INFO", "replication") for one in self.replicas))
        return all("cluster_state:ok" in text for text in states) and all(
            "master_link_status:up" in text for text in links
        )
