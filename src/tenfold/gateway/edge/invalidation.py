"""The edge of a gateway listens to the cache of an app: what the app invalidates by tag is purged here.

Theory. The cache's level 2 (Valkey, Redis) is the bus: every process that holds a `Cache` of that name over that
server hears of every invalidation, so the gateway holds one too, with nothing in it. What is lost while the connection
is cut is lost for good (Pub/Sub forgets who is not there), so each new connection counts as a gap, and a gap purges all
that carries a tag: a few misses for the certainty that nothing outlives its invalidation by more than the cut.
"""

from __future__ import annotations

from typing import Final

from tenfold.cache import Cache
from tenfold.gateway.edge.edge import Edge
from tenfold.gateway.edge.tags import TagPurge
from tenfold.resilience.config_read import without_passwords


class Invalidation:
    """Purges ``edge`` as the cache ``name`` over the server ``url`` is invalidated, from `start` to `aclose`.

    A server that is not there is looked for until it is. Belongs to the edge's event loop.
    """

    __slots__ = ("_cache", "_purge", "url")

    def __init__(self, edge: Edge, url: str, name: str) -> None:
        self.url: Final = url
        self._cache = Cache(name, redis=url, max_items=1)
        self._purge = TagPurge(edge, self._cache)

    async def start(self) -> None:
        """Listen."""
        try:
            await self._cache.__aenter__()
        except BaseException:
            self._purge.close()
            raise

    async def aclose(self) -> None:
        """Listen no more."""
        self._purge.close()
        await self._cache.aclose()

    @property
    def heard(self) -> int:
        """How many invalidations came."""
        return self._purge.heard

    def __repr__(self) -> str:
        return f"<Invalidation from {without_passwords(self.url)} {self._purge!r}>"
