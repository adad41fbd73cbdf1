"""What happens to the processes of a gateway, as typed events."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker serves. ``lives`` is how many processes this one's number has had, itself included."""

    number: int
    pid: int
    lives: int


@dataclass(frozen=True, slots=True)
class WorkerDied(Event):
    """A worker ended that nobody had told to. ``code`` is its exit code, negative for a signal; ``words`` what it last
    wrote to standard error; ``pause`` how many seconds pass before another one takes its place.
    """

    number: int
    pid: int
    code: int
    words: str
    pause: float


@dataclass(frozen=True, slots=True)
class WorkerCrashLoop(Event):
    """The processes of this number die soon after their start, ``deaths`` times in a row by now."""

    number: int
    deaths: int
    code: int
    words: str


@dataclass(frozen=True, slots=True)
class HandedOver(Event):
    """Another gateway, the process ``pid``, has taken the sockets over and serves; this one drains."""

    pid: int


@dataclass(frozen=True, slots=True)
class HandOverFailed(Event):
    """The other gateway did not come to serve; this one goes on."""

    reason: str
