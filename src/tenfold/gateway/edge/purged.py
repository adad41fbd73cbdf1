"""What was purged lately, so that a response which was asked for *before* a purge is not stored *after* it.

One counter goes up with each purge. Whoever asks the origin remembers it; what comes back is stored only if neither
its URL nor one of its surrogate keys has been purged since. The memory is bounded: past ``limit`` names all that was
asked for before now is refused, which costs a few responses and never serves one too old.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final


class Purged:
    """The purges of this process, in the order in which they came."""

    __slots__ = ("_floor", "_keys", "_limit", "_urls", "count")

    def __init__(self, limit: int = 10_000) -> None:
        self.count = 0
        self._limit: Final = limit
        self._floor = 0
        self._urls: dict[bytes, int] = {}
        self._keys: dict[bytes, int] = {}

    def note(self, *, urls: Iterable[bytes] = (), keys: Iterable[bytes] = ()) -> None:
        """These are purged now."""
        self.count += 1
        for url in urls:
            self._urls[url] = self.count
        for key in keys:
            self._keys[key] = self.count
        if len(self._urls) + len(self._keys) > self._limit:
            self._reset()

    def note_all(self) -> None:
        """Something is purged that cannot be named in short: whatever was asked for before now is refused."""
        self.count += 1
        self._reset()

    def _reset(self) -> None:
        self._floor = self.count
        self._urls.clear()
        self._keys.clear()

    def since(self, began: int, url: bytes, keys: Iterable[bytes]) -> bool:
        """Whether this URL or one of these keys was purged after ``began`` was the count."""
        if began == self.count:
            return False
        if began < self._floor or self._urls.get(url, 0) > began:
            return True
        return any(self._keys.get(key, 0) > began for key in keys)
