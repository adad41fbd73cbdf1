"""The servers, and one running shop of each kind for all tests; full shelves for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx2
import pytest_asyncio

from blackfriday.domain import Audit, Scale, apply_indexes, audit, create_order_tables, load, reset_orders
from blackfriday.payment import Behaviour
from blackfriday.shop import PaymentProcess, Shop
from tenfold.servers import Topology

SCALE = Scale(products=1000, customers=200)
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {"variant": "baseline"},
    "draft": {"variant": "draft"},
    "shapes": {"variant": "tuned", "rung": "shapes"},
    "cache": {"variant": "tuned", "rung": "cache", "workers": 2},
    "replicas": {"variant": "tuned", "rung": "replicas", "shards": ()},
    "edge": {"variant": "tuned", "rung": "edge", "workers": 2},  # with replicas and shards, and behind the gateway
}


@dataclass
class World:
    """The servers, and the shops on them by kind."""

    database: str
    replicas: list[str]
    valkey: str
    payment: str
    connection: asyncpg.Connection
    topology: Topology
    order_shards: list[asyncpg.Connection]
    shops: dict[str, Shop] = field(default_factory=dict)

    async def caught_up(self) -> None:
        """Wait until replicas show all that the primary has."""
        for replica in self.topology.replicas:
            await replica.caught_up()

    @property
    def places(self) -> list[asyncpg.Connection]:
        """All databases that hold orders."""
        return [self.connection, *self.order_shards]

    async def reset(self) -> None:
        """Full shelves and no orders, on the replica too."""
        await reset_orders(self.connection, self.order_shards)
        await self.caught_up()

    async def audit(self, acknowledged: Iterable[str], *, settled_within: float = 20.0) -> Audit:
        """The audit, once no reservation is waiting for its order."""
        async with asyncio.timeout(settled_within):
            while await self.connection.fetchval("SELECT count(*) FROM reservation"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return await audit(self.connection, acknowledged, self.order_shards)

    def shop(self, **options: Any) -> Shop:
        """A shop on these servers, not yet open."""
        told = {"database": self.database, "replicas": self.replicas, "valkey": self.valkey, "warm": 100}
        told["shards"] = [shard.url for shard in self.topology.shards]
        return Shop(**{**told, "payment": self.payment, **options})

    def client(self, kind: str, customer: int | None = None) -> httpx2.AsyncClient:
        """A client of the shop of this kind, for one customer."""
        headers = {} if customer is None else {"X-Customer": str(customer)}
        return httpx2.AsyncClient(base_url=self.shops[kind].url, headers=headers, timeout=20, trust_env=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running() -> AsyncIterator[World]:
    """Everything started, once."""
    async with AsyncExitStack() as stack:
        topology = await stack.enter_async_context(Topology(replicas=1, shards=2, valkey=True))
        connection = await asyncpg.connect(topology.primary.url)
        stack.push_async_callback(connection.close)
        await load(connection, SCALE)
        await apply_indexes(connection)
        shards = []
        for shard in topology.shards:
            shards.append(await asyncpg.connect(shard.url))
            stack.push_async_callback(shards[-1].close)
            await create_order_tables(shards[-1])
        payment = await stack.enter_async_context(PaymentProcess(Behaviour.prompt()))
        world = World(
            topology.primary.url,
            [replica.url for replica in topology.replicas],
            topology.valkey.url,
            payment.url,
            connection,
            topology,
            shards,
        )
        shops = {kind: world.shop(**options) for kind, options in KINDS.items()}
        async with asyncio.TaskGroup() as tasks:
            for shop in shops.values():
                tasks.create_task(shop.__aenter__())
        for shop in shops.values():
            stack.push_async_exit(shop)
        world.shops = shops
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(running: World) -> World:
    """The running world with full shelves and no orders, and caches that know it."""
    await running.reset()
    for kind in ("cache", "replicas", "edge"):
        async with running.client(kind) as client:
            assert (await client.post("/internal/clear")).status_code == 200
    return running
