"""The stage on which the acts play: real servers, a seeded database, a payment service, and shops that come and go."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final

from blackfriday.domain import Audit, Scale, apply_indexes, audit, create_order_tables, drop_indexes, load, reset_orders
from blackfriday.journeys import acknowledged
from blackfriday.settings import Rung, Variant
from blackfriday.shop import PaymentProcess, Shop
from blackfriday.view import View
from tenfold.load import Objective, Scenario, Validity, load_scenario
from tenfold.servers import Topology

if TYPE_CHECKING:
    import asyncpg

SLO: Final = (Objective(p95="100ms", errors="0.1%"),)
SLO_TEXT: Final = "p95 < 100 ms, errors < 0.1 %"
LIMIT: Final = 0.100
# Client, shop and servers share this machine's cores, so the client is late more often than one on a machine of its
# own. Its lateness is part of every corrected latency: it can only make a shop look worse than it is, never better.
VALIDITY: Final = Validity(share=0.5)
REPLICAS: Final = 2
SHARDS: Final = 2
# What whoever runs a shop's PostgreSQL would set, for all variants alike. It favours the baseline: parallel workers
# fork two processes a query, which costs its listing more than it gains where cores are few.
POSTGRES: Final = {"shared_buffers": "256MB", "max_parallel_workers_per_gather": "0", "jit": "off"}
WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A rung of the ladder: what runs, and what it adds to the rung before."""

    key: str
    title: str
    change: str
    variant: Variant
    rung: Rung = "shapes"
    workers: int = 1
    gateway: bool = False
    """Whether it is loaded through the gateway."""


LADDER: Final = (
    Step("draft", "draft", "relations loaded one by one (N+1)", "draft"),
    Step("baseline", "baseline", "eager loading, as a good tutorial has it", "baseline"),
    Step("shapes", "+ query shapes", "one statement a page, keyset pages, finished bytes", "tuned", "shapes"),
    Step("indexes", "+ indexes", "keyset, covering and trigram indexes", "tuned", "indexes"),
    Step("cache", "+ cache", "memory and Valkey, coalesced, invalidated by tag", "tuned", "cache"),
    Step(
        "replicas",
        "+ replicas, workers",
        f"reads on replicas, orders on {SHARDS} shards, {WORKERS} workers",
        "tuned",
        "replicas",
        WORKERS,
    ),
    Step("edge", "+ edge", "a gateway's HTTP cache before them, purged by tag", "tuned", "edge", WORKERS, gateway=True),
)
TUNED: Final = LADDER[-1]


def step(key: str) -> Step:
    """The rung of that key."""
    return next(found for found in LADDER if found.key == key)


class Stage:
    """Owns everything that runs besides the load. ``async with Stage(view) as stage``; nothing outlives the block."""

    def __init__(self, view: View, scale: Scale | None = None) -> None:
        self._view = view
        self._scale = scale or Scale()
        self._stack = AsyncExitStack()
        self.servers: Topology
        self.connection: asyncpg.Connection
        self.shards: list[asyncpg.Connection] = []
        self.orders: Path
        self.seeded: dict[str, int] = {}
        self.payment: PaymentProcess

    async def __aenter__(self) -> Stage:
        try:
            with self._view.bar("PostgreSQL and Valkey") as bar:
                self.servers = await self._stack.enter_async_context(
                    Topology(replicas=REPLICAS, shards=SHARDS, valkey=True, settings=POSTGRES)
                )
                bar.update(1.0, f"primary, {REPLICAS} replicas, {SHARDS} shards for orders, Valkey")
            self.orders = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="blackfriday-orders-")))
            self.payment = await self._stack.enter_async_context(PaymentProcess())
            self.connection = await self._connect(self.servers.primary.url)
            for shard in self.servers.shards:
                self.shards.append(await self._connect(shard.url))
                await create_order_tables(self.shards[-1])
            with self._view.bar("the catalogue") as bar:
                self.seeded = await load(self.connection, self._scale)
                bar.update(1.0, f"{self.seeded['product']:,} products, {self.seeded['review']:,} reviews")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _connect(self, url: str) -> asyncpg.Connection:
        import asyncpg

        connection = await asyncpg.connect(url, timeout=10)
        self._stack.push_async_callback(connection.close, timeout=5)
        return connection

    @asynccontextmanager
    async def shops(
        self, *keys: str, indexes: bool, warm: Mapping[str, int] | None = None
    ) -> AsyncIterator[dict[str, Shop]]:
        """The shops of these rungs, ready and warm, side by side; they are loaded one after the other.

        They find full shelves, no orders, an empty Valkey, and the tuned indexes if ``indexes``. ``warm`` says with how
        many products the cache of which rung is warmed. Each has a Valkey database of its own, or they would share
        what they cache.
        """
        await self.reset()
        await (apply_indexes if indexes else drop_indexes)(self.connection)
        address = self.servers.valkey.url.removesuffix("/0")
        async with AsyncExitStack() as stack:
            opened = [
                Shop(
                    variant=which.variant,
                    rung=which.rung,
                    workers=which.workers,
                    database=self.servers.primary.url,
                    replicas=[replica.url for replica in self.servers.replicas],
                    shards=[shard.url for shard in self.servers.shards],
                    valkey=f"{address}/{number}",
                    payment=self.payment.url,
                    warm=(warm or {}).get(which.key, 0),
                )
                for number, which in enumerate(map(step, keys))
            ]
            with self._view.bar("shops") as bar:
                async with asyncio.TaskGroup() as starting:
                    for shop in opened:
                        starting.create_task(stack.enter_async_context(shop))
                bar.update(1.0, ", ".join(step(key).title for key in keys))
            yield dict(zip(keys, opened, strict=True))

    async def reset(self) -> None:
        """A full shop without orders, and an empty Valkey."""
        from redis.asyncio import Redis

        await reset_orders(self.connection, self.shards)
        async with Redis.from_url(self.servers.valkey.url) as valkey:
            await valkey.flushall()
        for file in self.orders.iterdir():
            file.unlink()
        for replica in self.servers.replicas:
            await replica.caught_up(within="10s")

    def scenario(self, shop: Shop, *, direct: bool = False) -> Scenario:
        """The journeys, against that shop; ``direct``: past its gateway, at its workers."""
        return load_scenario("blackfriday.journeys", target=shop.direct if direct else shop.url)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Journeys write the orders that were acknowledged into `orders` while the block runs."""
        before = os.environ.get(ORDERS)
        os.environ[ORDERS] = str(self.orders / "orders")
        try:
            yield
        finally:
            if before is None:
                del os.environ[ORDERS]
            else:
                os.environ[ORDERS] = before

    async def unpaid(self) -> int:
        """How many orders wait for their money, wherever they are stored."""
        return sum([await place.fetchval(_UNPAID) for place in (self.connection, *self.shards)])

    async def audit(self, orders: Iterable[int]) -> Audit:
        """The audit of all databases, once reservations have had their time to become orders."""
        until = monotonic() + SETTLED_WITHIN
        while await self.connection.fetchval(_RESERVED) and monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return await audit(self.connection, orders, self.shards)

    def acknowledged(self) -> list[int]:
        """The ids of the orders that were acknowledged since the last reset, one entry each time."""
        return acknowledged(self.orders / "orders")


ORDERS: Final = "BLACKFRIDAY_ORDERS"
SETTLED_WITHIN: Final = 10.0
_UNPAID: Final = "SELECT count(*) FROM orders WHERE status = 'payment_pending'"
_RESERVED: Final = "SELECT count(*) FROM reservation"
