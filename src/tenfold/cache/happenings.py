"""What a cache tells those who keep something made of its values."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class CacheInvalidated(Event):
    """Something was invalidated here, or by another process and heard of here.

    With a level 2 an invalidation of this process is told twice: as it begins, and when level 2 has confirmed it. What
    was made in between may be made of the old value.
    """

    cache: str
    """The cache's name."""
    keys: tuple[str, ...]
    tags: tuple[str, ...]
    everything: bool
    """It was cleared, or may have missed what others invalidated; then ``keys`` and ``tags`` are empty."""
