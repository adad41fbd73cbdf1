"""Forgetting on purpose: by URL, by surrogate key, by prefix; hard, or soft."""

from __future__ import annotations

from collections.abc import Iterable

from tenfold.gateway.edge.asking import Asking
from tenfold.gateway.edge.stored import Stored


class Purging(Asking):
    """The purges of an edge."""

    __slots__ = ()

    def purge_url(self, url: bytes | str, *, soft: float | None = None) -> int:
        """Forget all responses of a URL (as `url_key` writes it). With ``soft``, a monotonic time, they only count as
        stale from then on.

        How many there were. What was asked for before now is not stored when it comes, in either case.
        """
        key = url.encode() if isinstance(url, str) else url
        self._purged.note(urls=(key,))
        for flight in [one for one in self._flights.values() if one.url == key]:
            self._forget(flight)
        return self._purge(self._store.of_url(key), soft)

    def purge_keys(self, keys: Iterable[bytes | str], *, soft: float | None = None) -> int:
        """As `purge_url`, for whatever carries one of these surrogate keys. Takes as long as there are such."""
        words = [key.encode() if isinstance(key, str) else key for key in keys]
        self._purged.note(keys=words)
        for flight in [one for one in self._flights.values() if one.keys is None or not one.keys.isdisjoint(words)]:
            self._forget(flight)
        return self._purge(self._store.of_keys(words), soft)

    def purge_prefix(self, prefix: bytes | str, *, soft: float | None = None) -> int:
        """As `purge_url`, for all URLs that begin so. Looks at every URL: 10 ms for 100,000 of them or so."""
        start = prefix.encode() if isinstance(prefix, str) else prefix
        self._purged.note_all()
        self._flights.clear()
        return self._purge(self._store.under(start), soft)

    def purge_tagged(self, *, soft: float | None = None) -> int:
        """As `purge_url`, for whatever carries a surrogate key at all."""
        self._purged.note_all()
        self._flights.clear()
        return self._purge(self._store.of_keys(list(self._store.keys)), soft)

    def purge_all(self, *, soft: float | None = None) -> int:
        """As `purge_url`, for everything."""
        return self.purge_prefix(b"", soft=soft)

    def _purge(self, found: list[Stored], soft: float | None) -> int:
        for stored in found:
            if soft is None:
                self._store.drop(stored)
            else:
                stored.expire(soft)
        self.purged += len(found)
        return len(found)
