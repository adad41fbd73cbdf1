"""What the cache raises. A failing Valkey is not among it: that is counted, and the loader answers."""

from __future__ import annotations

from tenfold._core.errors import TenfoldError


class CacheError(TenfoldError):
    """Root of the cache's errors."""


class LoadCancelled(CacheError):
    """The load that the caller waited for was cancelled, because the cache was closed or the loader cancelled
    itself.
    """


class LoadTimeout(CacheError, TimeoutError):
    """A loader took longer than its ``hard_timeout`` and was cancelled, and there was no stale value to serve."""


class LevelTwoDown(CacheError):
    """Level 2 did not answer in time, or not at all. Never leaves the package."""


class Undecodable(ValueError):
    """A payload that this program cannot read. Never leaves the package."""
