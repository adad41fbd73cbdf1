"""What a fleet of workers tells."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class WorkerReady(Event):
    """A worker accepts connections, ``took`` seconds after its start."""

    id: str
    pid: int
    took: float


@dataclass(frozen=True, slots=True)
class WorkerLeft(Event):
    """A worker has ended because the fleet wanted it to. ``why`` is for a person."""

    id: str
    pid: int
    why: str


@dataclass(frozen=True, slots=True)
class WorkerCrashed(Event):
    """A worker has ended that was to go on, or was killed for it was hung or not ready in time. ``last_words`` is what
    it last wrote; ``pause`` how many seconds pass before another one is started.
    """

    id: str
    pid: int
    why: str
    last_words: str
    pause: float


@dataclass(frozen=True, slots=True)
class CrashLoop(Event):
    """Workers die early, ``deaths`` times in a row by now; the fleet keeps trying, slowly. Told once, until a worker
    has served for a while.
    """

    app: str
    deaths: int
    why: str
    last_words: str
