"""The endpoints of all pools as they are now: declared ones, and those that sources tell of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tenfold._core.tasks import Tasks
from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.config import Config, Pool
from tenfold.gateway.config.sources import Source
from tenfold.gateway.haproxy.binary import HAProxyError

_WITHIN: Final = 10.0


class Discovering:
    """Follows the sources of a configuration's pools. ``changed`` is called for each set after the first."""

    def __init__(self, tasks: Tasks, changed: Callable[[], Awaitable[None]]) -> None:
        self._tasks = tasks
        self._changed = changed
        self._followed: dict[str, tuple[Source, asyncio.Task[None]]] = {}
        self.endpoints: dict[str, tuple[Endpoint, ...]] = {}
        """By pool."""

    async def follow(self, config: Config) -> None:
        """Have endpoints of all pools; of those that are discovered, a first set. Pools that are no more keep theirs
        until `forget`. Raises `HAProxyError` for a source that tells nothing in time.
        """
        wanted = {pool.name: pool.discovery for pool in config.pools}
        for name, (source, task) in list(self._followed.items()):
            if wanted.get(name) != source:
                task.cancel()
                del self._followed[name]
        for pool in config.pools:
            if pool.discovery is None:
                self.endpoints[pool.name] = pool.endpoints
            elif pool.name not in self._followed:
                await self._first(pool, pool.discovery)

    async def _first(self, pool: Pool, source: Source) -> None:
        first = asyncio.Event()
        task = self._tasks.spawn(self._watch(pool.name, source, first), name=f"discover-{pool.name}")
        self._followed[pool.name] = source, task
        try:
            async with asyncio.timeout(_WITHIN):
                await first.wait()
        except TimeoutError as exc:
            del self._followed[pool.name]
            task.cancel()
            raise HAProxyError(f"pool {pool.name}: {source} told no endpoints in time") from exc

    async def _watch(self, name: str, source: Source, first: asyncio.Event) -> None:
        async with contextlib.aclosing(source.make().changes()) as changes:
            async for endpoints in changes:
                self.endpoints[name] = tuple(endpoints)
                if first.is_set():
                    await self._changed()
                first.set()

    def forget(self, config: Config) -> None:
        """Drop the endpoints of pools that the configuration does not have."""
        names = {pool.name for pool in config.pools}
        self.endpoints = {name: each for name, each in self.endpoints.items() if name in names}
