"""The edge: what an engine asks, request by request. No sockets, no clock, no waiting.

Time is handed in. ``now`` is the monotonic clock, on which all ages grow; ``wall`` is the Unix time, which is asked
only when a response arrives, because its dates are on it. One event loop owns an edge.

How an engine uses it::

    decision = edge.lookup(request, now)
    SERVE                           answer = edge.answer(decision, now)
    SERVE_STALE_WHILE_REVALIDATE    the same, and in a task of its own what stands under REVALIDATE
    REVALIDATE, FORWARD             send without `decision.drop`, with `decision.conditions`; then, with what comes:
        304 to our conditions       decision = edge.revalidated(decision, response, now, wall), and go by that
        500 502 503 504, or none    stale = edge.failed(decision, now, status); if there is one, answer with it
        any other final head        filling = edge.begin_store(decision, response, now, wall), pass the response on with
                                    `edge.cache_status(decision, now)`, and hand the body to the filling, if any
        the client left before      edge.cancelled(decision)
    WAIT                            wait (with a deadline) until `decision.follower.turn` is no longer WAIT, then
                                    decision = edge.resume(decision, now), and go by that
    ONLY_IF_CACHED_504, FAILED      answer 504, or `decision.fwd_status`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenfold.gateway.edge.answer import age, answer, status_line
from tenfold.gateway.edge.arriving import Arriving
from tenfold.gateway.edge.asking import ASKS
from tenfold.gateway.edge.decision import Answer, Decision
from tenfold.gateway.edge.stored import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeStats:
    """What an edge did so far and what it holds: ``bytes`` is stored, ``arriving`` reserved for bodies under way."""

    hits: int
    misses: int
    stale: int
    revalidated: int
    collapsed: int
    errors_hidden: int
    stored: int
    refused: int
    too_large: int
    evicted: int
    purged: int
    entries: int
    bytes: int
    arriving: int
    flights: int


class Edge(Arriving):
    """A shared HTTP cache (RFC 9111) in memory, for one event loop.

    Plain counters: ``hits`` were answered without the origin, ``stale`` of those (and of ``errors_hidden``) by a stale
    response; ``misses`` asked the origin; ``collapsed`` waited for another one. The module says how an engine uses it.
    """

    __slots__ = ()

    @staticmethod
    def plain(names: Iterable[bytes]) -> bool:
        """Whether a GET whose fields have these lower-case names leaves nothing to decide about a fresh response."""
        return ASKS.isdisjoint(names)

    def plain_hit(self, url: bytes, now: float) -> Stored | None:
        """What answers a GET that is `plain`, where what is stored under ``url`` leaves nothing to decide; its head is
        `hit_head`. None: ask `lookup`, which finds more.
        """
        resource = self._resources.get(url)
        if resource is None:
            return None
        stored = resource.only
        if stored is None or now >= stored.plain_until:
            return None
        self.hits += 1
        stored.entry.n += 1.0  # type: ignore[union-attr] # what is in the index has an entry
        return stored

    def hit_head(self, stored: Stored, now: float) -> bytes:
        """The head for what `plain_hit` found, its blank line included: rendered anew when Age or ttl is another."""
        age, ttl = int(now - stored.born), int(stored.fresh_until - now)
        head = stored.hit_head = b"%bAge: %d\r\n%b%d\r\n\r\n" % (stored.head, age, self._line_hit, ttl)
        stored.hit_until = min(stored.born + age + 1, stored.fresh_until - ttl)
        return head

    def answer(self, decision: Decision, now: float, extra: bytes = b"") -> Answer | None:
        """The response to a SERVE out of the store; None where the decision has none.

        ``extra`` are the engine's own lines (``b"Connection: close\\r\\n"``). Where the decision follows a body that
        is still coming in, ``body`` is empty: it comes from ``decision.follower.take()``.
        """
        stored = decision.stored
        if stored is None:
            return None
        if decision.plain:
            return Answer(
                stored.status,
                b"%bAge: %d\r\n%b%d\r\n%b\r\n"
                % (stored.head, now - stored.born, self._line_hit, stored.fresh_until - now, extra),
                stored.chunks,
            )
        tail = b"Age: %d\r\n%b%b\r\n" % (age(stored, now), status_line(decision, self._line, now), extra)
        follower = decision.follower
        return answer(decision, stored, tail, None if follower is None else follower.flight.length)

    def cache_status(self, decision: Decision, now: float) -> bytes:
        """The Cache-Status line (with its line end) for a response that is passed on, or is the engine's own."""
        return status_line(decision, self._line, now)

    def stats(self) -> EdgeStats:
        """A snapshot of the counters."""
        store = self._store
        return EdgeStats(
            hits=self.hits,
            misses=self.misses,
            stale=self.stale,
            revalidated=self.revalidations,
            collapsed=self.collapsed,
            errors_hidden=self.errors_hidden,
            stored=self.stored,
            refused=self.refused,
            too_large=self.too_large,
            evicted=store.evicted,
            purged=self.purged,
            entries=store.entries,
            bytes=store.bytes,
            arriving=store.reserved,
            flights=len(self._flights),
        )

    def __repr__(self) -> str:
        return f"<Edge {self._store!r}, {self.hits} hits, {self.misses} misses, {len(self._flights)} flights>"
