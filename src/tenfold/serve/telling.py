"""What happens to a served app, in lines for whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenfold._core.events import EVENTS, Event, Hub
from tenfold.autoscale import Scaled
from tenfold.autoscale.supervisor import CrashLoop, WorkerCrashed, WorkerLeft, WorkerReady
from tenfold.serve.happenings import DrainCutShort, Restarted, SourceChanged, WarmingFailed

_KINDS: Final[tuple[type[Event], ...]] = (
    CrashLoop, DrainCutShort, Restarted, Scaled, SourceChanged, WarmingFailed, WorkerCrashed, WorkerLeft, WorkerReady
)  # fmt: skip
_SHOWN: Final = 3
"""How many changed files are named."""


class Telling:
    """While in the block, each event that concerns who runs the app is said by ``say``, a line each."""

    def __init__(self, say: Callable[[str], object], hub: Hub = EVENTS) -> None:
        self._say = say
        self._hub = hub

    def __enter__(self) -> None:
        self._subscriptions = [self._hub.subscribe(kind, self._tell) for kind in _KINDS]

    def __exit__(self, *_: object) -> None:
        for each in self._subscriptions:
            each.cancel()

    def _tell(self, event: Event) -> None:
        self._say(line(event))


def line(event: Event) -> str:
    """What is said of an event."""
    match event:
        case Scaled():
            return event.why
        case WorkerReady():
            return f"worker {event.id} serves (process {event.pid}, ready after {event.took:.1f} s)"
        case WorkerLeft():
            return f"worker {event.id} has ended (process {event.pid}): {event.why}"
        case WorkerCrashed():
            again = f"another one starts in {event.pause:.1f} s" if event.pause > 0 else "another one starts at once"
            return f"worker {event.id} (process {event.pid}) has died ({event.why}); {again}{_last(event.last_words)}"
        case CrashLoop():
            often = f"crash loop: {event.deaths} early deaths in a row ({event.why})"
            return f"{often}; it is tried again, slowly{_last(event.last_words)}"
        case WarmingFailed():
            return f"worker {event.worker} was not warmed by {event.path}: {event.why}; it serves all the same"
        case DrainCutShort():
            return f"worker {event.worker} leaves with {event.in_flight} requests under way"
        case SourceChanged():
            more = len(event.files) - _SHOWN
            names = ", ".join(event.files[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
            return f"changed: {names}; restarting in turn"
        case Restarted():
            return f"rolling restart failed, the old workers go on: {event.error}" if event.error else "all restarted"
        case _:
            return repr(event)


def _last(words: str) -> str:
    """The last line of what a worker said; the rest has been passed on as it came."""
    said = words.strip().splitlines()
    return f"; it last said: {said[-1].strip()}" if said else ""
