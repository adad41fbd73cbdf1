"""What happens to a gateway, in lines for whoever runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from tenfold._core.events import EVENTS, Event
from tenfold.balance.happenings import DiscoveryFailed, EndpointDown, EndpointEjected, EndpointReturned, EndpointUp
from tenfold.balance.turns import PanicEnded, PanicStarted
from tenfold.gateway.processes.events import HandedOver, HandOverFailed, WorkerCrashLoop, WorkerDied, WorkerStarted
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded

OF_ENDPOINTS: Final[tuple[type[Event], ...]] = (
    DiscoveryFailed, EndpointDown, EndpointEjected, EndpointReturned, EndpointUp, PanicEnded, PanicStarted
)  # fmt: skip
"""What each process sees for itself."""
OF_ALL: Final[tuple[type[Event], ...]] = (
    *OF_ENDPOINTS, ConfigRejected, ConfigReloaded, HandedOver, HandOverFailed, WorkerCrashLoop, WorkerDied,
    WorkerStarted,
)  # fmt: skip


class Telling:
    """While in the block, events of these ``kinds`` are told on standard error, after ``who`` sees them."""

    def __init__(self, kinds: Sequence[type[Event]] = OF_ALL, who: str = "") -> None:
        self._kinds = kinds
        self._who = f"{who}: " if who else ""

    def __enter__(self) -> None:
        self._subscriptions = [EVENTS.subscribe(kind, self._tell) for kind in self._kinds]

    def __exit__(self, *_: object) -> None:
        for each in self._subscriptions:
            each.cancel()

    def _tell(self, event: Event) -> None:
        for line in lines(event):
            # A problem of a file begins with its place, which an editor can jump to.
            begin = "" if isinstance(event, ConfigRejected) else f"tenfold: {self._who}"
            sys.stderr.write(f"{begin}{line}\n")
            sys.stderr.flush()


def lines(event: Event) -> list[str]:
    """What is said of an event; nothing of those that nobody needs to hear of."""
    match event:
        case ConfigRejected():
            return list(event.problems)
        case ConfigReloaded():
            return [f"{line}" for line in event.changes]
        case HandedOver():
            return [f"process {event.pid} has taken over; this one drains"]
        case HandOverFailed():
            return [f"hot restart failed, this gateway goes on: {event.reason}"]
        case WorkerStarted() if event.lives > 1:
            return [f"worker {event.number} serves again (process {event.pid})"]
        case WorkerDied():
            how = f"signal {-event.code}" if event.code < 0 else f"exit code {event.code}"
            # What it told of its endpoints is no reason to die.
            own = [line for line in event.words.splitlines() if not line.startswith("tenfold: worker ")]
            last = own[-1] if own else "nothing"
            again = "at once" if not event.pause else f"in {event.pause:.1f} s"
            return [
                f"worker {event.number} (process {event.pid}) has died ({how}); "
                f"another one starts {again}; it last said: {last}"
            ]
        case WorkerCrashLoop():
            return [f"worker {event.number} is in a crash loop: {event.deaths} early deaths in a row"]
        case EndpointDown():
            return [f"pool {event.balancer}: endpoint {event.endpoint} is down: {event.why}"]
        case EndpointUp():
            return [f"pool {event.balancer}: endpoint {event.endpoint} is up: {event.why}"]
        case EndpointEjected():
            how = f"for {event.seconds:.0f} s: {event.reason}"
            return [f"pool {event.balancer}: endpoint {event.endpoint} is ejected {how}"]
        case EndpointReturned():
            return [f"pool {event.balancer}: endpoint {event.endpoint} is no longer ejected"]
        case PanicStarted():
            few = f"{event.ready} of {event.members} endpoints are ready"
            return [f"pool {event.balancer}: only {few}, so all are asked (panic)"]
        case PanicEnded():
            return [f"pool {event.balancer}: {event.ready} of {event.members} endpoints are ready; panic is over"]
        case DiscoveryFailed():
            return [f"discovery by {event.source} failed, asked again in {event.retry_in:.1f} s: {event.why}"]
        case _:
            return []
