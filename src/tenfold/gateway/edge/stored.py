"""One stored response: its head, its body in pieces, its times on the monotonic clock, and its surrogate keys.

Nothing of it changes after it was made, but for the time until which it is fresh, which a soft purge moves into the
past. A 304 makes a new one over the same body (RFC 9111 §4.3.4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tenfold.cache.entry import Entry
from tenfold.gateway.edge.conditional import ETAG, conditions
from tenfold.gateway.edge.dates import read_date, write_date
from tenfold.gateway.edge.fresh import Terms, shareable
from tenfold.gateway.edge.message import Pair, Response
from tenfold.gateway.edge.vary import Key

OVERHEAD: Final = 1600  # bytes of objects around a head and a body, the places in the indexes included (measured)
CHUNK_OVERHEAD: Final = 64
MOST_KEYS: Final = 256
_WORD: Final = re.compile(rb"[^\s,]+")

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade "
    b"proxy-authenticate proxy-authentication-info proxy-authorization".split()
)
OURS: Final = frozenset({b"surrogate-key", b"tenfold-cache-control"})
"""Fields that are meant for us: kept, and not handed on."""
_NOT_IN_304: Final = frozenset({b"content-encoding", b"content-range"})
_IN_304: Final = frozenset({b"content-location", b"content-security-policy", b"content-security-policy-report-only"})
_BODILESS: Final = frozenset({204, 205})

REASONS: Final = {200: b"OK", 206: b"Partial Content", 304: b"Not Modified", 416: b"Range Not Satisfiable"}


def surrogate_keys(field: bytes | None) -> frozenset[bytes]:
    """The words of a Surrogate-Key field, between spaces or commas; 256 at most."""
    return frozenset() if field is None else frozenset(_WORD.findall(field)[:MOST_KEYS])


def kept(pairs: Sequence[Pair], connection: bytes | None, *, cookies: bool) -> tuple[Pair, ...]:
    """The fields of a response that are stored (RFC 9111 §3.1): what is meant for this connection is not."""
    gone = HOP_BY_HOP | {b"age", b"content-length"}
    if connection is not None:
        gone |= {name.strip().lower() for name in connection.split(b",")}
    if not cookies:
        gone |= {b"set-cookie"}
    return tuple((name, value) for name, value in pairs if name.lower() not in gone)


def merged(old: Sequence[Pair], new: Sequence[Pair]) -> tuple[Pair, ...]:
    """The stored fields, each that also came anew replaced by what came (RFC 9111 §3.2)."""
    fresh = tuple(pair for pair in new if pair[0].lower() not in _NOT_IN_304)
    names = {name.lower() for name, _ in fresh}
    return (*(pair for pair in old if pair[0].lower() not in names), *fresh)


class Stored:
    """A response in the store. Times are monotonic seconds; ``born`` is when its age was zero."""

    __slots__ = (
        "_head",
        "_head_304",
        "auth_ok",
        "born",
        "chunks",
        "date",
        "entry",
        "etag",
        "fresh_until",
        "hit_head",
        "hit_until",
        "immutable",
        "keys",
        "kind",
        "last_modified",
        "length",
        "no_cache",
        "pairs",
        "plain_until",
        "reason",
        "sie_until",
        "status",
        "strict",
        "swr_until",
        "url",
        "vary",
        "weight",
    )

    def __init__(
        self,
        url: bytes,
        vary: Key,
        response: Response,
        pairs: tuple[Pair, ...],
        terms: Terms,
        *,
        now: float,
        wall: float,
    ) -> None:
        fields = response.fields
        control = terms.control
        if terms.date is None:
            pairs = (*(pair for pair in pairs if pair[0].lower() != b"date"), (b"Date", write_date(wall)))
        self.url = url
        self.vary = vary
        self.status = response.status
        self.reason = response.reason or REASONS.get(response.status, b"")
        self.pairs = pairs
        self.keys = surrogate_keys(fields.get(b"surrogate-key"))
        self.etag = tag if (tag := fields.get(b"etag")) is not None and ETAG.fullmatch(tag) else None
        self.last_modified = when if read_date(when := fields.get(b"last-modified")) is not None else None
        self.date = when if read_date(when := fields.get(b"date")) is not None else write_date(wall)
        self.kind = fields.get(b"content-type")
        self.auth_ok = shareable(control)
        self.no_cache = control.no_cache
        self.strict = terms.strict
        self.immutable = control.immutable
        self.born = now - terms.age
        self.fresh_until = self.born + terms.lifetime
        self.swr_until = self.fresh_until + terms.stale_while_revalidate
        self.sie_until = self.fresh_until + terms.stale_if_error
        self.plain_until = float("-inf") if control.no_cache else self.fresh_until
        self.chunks: tuple[bytes, ...] = ()
        self.length = 0
        self.entry: Entry | None = None
        self._head = b""
        self._head_304 = b""
        self.hit_head = b""
        """The head of an answer to a plain request, as it is until ``hit_until``."""
        self.hit_until = float("-inf")
        self.weight = OVERHEAD + len(url) + 3 * sum(len(name) + len(value) + 100 for name, value in pairs)
        self.weight += sum(len(key) + 100 for key in self.keys) + sum(len(value or b"") + 50 for value in vary[1])

    def fill(self, chunks: tuple[bytes, ...]) -> None:
        """Give it its body, once."""
        self.chunks = chunks
        self.length = sum(map(len, chunks))
        self.weight += self.length + CHUNK_OVERHEAD * len(chunks)

    def expire(self, now: float) -> None:
        """From now on it is stale. What is granted after that counts from now."""
        if self.fresh_until > now:
            self.swr_until += now - self.fresh_until
            self.sie_until += now - self.fresh_until
            self.fresh_until = now
        self.plain_until = min(self.plain_until, now)

    @property
    def conditions(self) -> tuple[Pair, ...]:
        """What asks the origin whether it still holds; empty where it has no validator."""
        return conditions(self.etag, self.last_modified)

    @property
    def head(self) -> bytes:
        """Status line and fields, Content-Length included, without the blank line, Age and Cache-Status."""
        if not self._head:
            self._head = self.head_for(self.length)
        return self._head

    def head_for(self, length: int) -> bytes:
        """As `head`, for a body of another length (one that is still coming in)."""
        body = b"" if self.status in _BODILESS else b"Content-Length: %d\r\n" % length
        return self._render(self.status, self.reason, self.pairs) + body

    @property
    def head_304(self) -> bytes:
        """The same for a 304 (RFC 9110 §15.4.5): without what describes the content."""
        if not self._head_304:
            pairs = [(name, value) for name, value in self.pairs if self._in_304(name.lower())]
            self._head_304 = self._render(304, REASONS[304], pairs)
        return self._head_304

    def head_part(self, status: int, kind: bytes | None) -> bytes:
        """The same for parts of the body, or none: with another type, and without a length."""
        pairs = [pair for pair in self.pairs if pair[0].lower() != b"content-type"]
        if kind is not None:
            pairs.append((b"Content-Type", kind))
        return self._render(status, REASONS[status], pairs)

    def _in_304(self, name: bytes) -> bool:
        if name == b"last-modified":
            return self.etag is None
        return name != b"set-cookie" and (not name.startswith(b"content-") or name in _IN_304)

    @staticmethod
    def _render(status: int, reason: bytes, pairs: Sequence[Pair]) -> bytes:
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % pair for pair in pairs if pair[0].lower() not in OURS]
        return b"".join(lines)

    def __repr__(self) -> str:
        return f"<Stored {self.status} {self.url!r}, {self.length} bytes>"
