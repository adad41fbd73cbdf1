"""A tag that is invalidated in a `Cache` purges the edge.

An application marks its responses with ``Surrogate-Key`` (`tenfold.cache.http.mark` does), whose words are the tags of
its cache. The gateway's process holds a `Cache` of the same name over the same server, as a listener: what any process
invalidates it hears of, and tells as `CacheInvalidated`. A gap in what it heard, and a `clear`, purge all that carries
a key, because any of it may have been meant. A cache tells of its own invalidations twice, before and after level 2
has confirmed, and both times count: what came from the application in between may have been made of the old value.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from tenfold._core.events import EVENTS, Hub
from tenfold.cache import Cache, CacheInvalidated
from tenfold.cache.http import surrogate_key
from tenfold.gateway.edge.edge import Edge


class TagPurge:
    """Purges ``edge`` as ``cache`` (or the cache of that name) is invalidated, until it is closed.

    ``soft``, a monotonic clock such as `time.monotonic`, makes the purges soft: responses become stale instead of
    going, so that stale-while-revalidate and stale-if-error still have them. ``post`` (default: at once) runs the purge
    in the edge's own loop, where the cache belongs to another thread: ``loop.call_soon_threadsafe``.
    """

    __slots__ = ("_edge", "_post", "_soft", "_subscription", "heard", "name")

    def __init__(
        self,
        edge: Edge,
        cache: Cache | str,
        *,
        soft: Callable[[], float] | None = None,
        post: Callable[[Callable[[], None]], object] | None = None,
        hub: Hub = EVENTS,
    ) -> None:
        self._edge = edge
        self._soft = soft
        self._post = post
        self.name = cache if isinstance(cache, str) else cache.name
        self.heard = 0
        """How many invalidations it passed on."""
        self._subscription = hub.subscribe(CacheInvalidated, self._hear)

    def close(self) -> None:
        """Purge no more."""
        self._subscription.cancel()

    def _hear(self, event: CacheInvalidated) -> None:
        if event.cache != self.name or not (event.tags or event.everything):
            return
        self.heard += 1

        def purge() -> None:
            soft = None if self._soft is None else self._soft()
            if event.everything:
                self._edge.purge_tagged(soft=soft)
            else:
                self._edge.purge_keys([surrogate_key(tag) for tag in event.tags], soft=soft)

        if self._post is None:
            purge()
        else:
            self._post(purge)

    def __enter__(self) -> TagPurge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TagPurge {self.name!r} heard={self.heard}{'' if self._subscription.active else ' closed'}>"
