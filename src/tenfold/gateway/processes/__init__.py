"""Several processes, and one process after another: workers, the supervisor, and the sockets that outlive both."""

from __future__ import annotations

from tenfold.gateway.processes.channel import WorkerError, WorkerGoneError, WorkerTimeoutError
from tenfold.gateway.processes.events import HandedOver, HandOverFailed, WorkerCrashLoop, WorkerDied, WorkerStarted
from tenfold.gateway.processes.handover import HandOverError, Inherited, hand_over
from tenfold.gateway.processes.sockets import Sockets
from tenfold.gateway.processes.supervisor import Supervisor, WorkersNotStartedError
from tenfold.gateway.processes.telling import Telling
from tenfold.gateway.processes.workers import Processes

__all__ = [  # noqa: RUF022 - grouped
    # several processes
    "Processes",
    "Supervisor",
    # one after another
    "Inherited",
    "Sockets",
    "hand_over",
    # what happens to them
    "HandOverFailed",
    "HandedOver",
    "Telling",
    "WorkerCrashLoop",
    "WorkerDied",
    "WorkerStarted",
    # what goes wrong
    "HandOverError",
    "WorkerError",
    "WorkerGoneError",
    "WorkerTimeoutError",
    "WorkersNotStartedError",
]
