"""What `tenfold serve` tells beyond what the fleet and the scaler do."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class WarmingFailed(Event):
    """A path that a new worker was to be warmed by was not answered as it should; the worker serves all the same."""

    worker: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class DrainCutShort(Event):
    """A worker ends although requests were still under way at it when its time was over."""

    worker: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class SourceChanged(Event):
    """Files of the app have changed, so its workers are restarted in turn."""

    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restarted(Event):
    """A rolling restart has come to its end; ``error``: why it did not replace all, empty if it did."""

    error: str
