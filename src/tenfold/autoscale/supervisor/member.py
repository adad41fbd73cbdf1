"""`Member`: one worker as the fleet and its front see it, and what the system says of its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

State = Literal["starting", "ready", "draining", "gone"]
_PROC: Final = Path("/proc")


class Member:
    """One worker.

    ``id`` ("1", "2", …) is never used again. ``url`` is where it listens: ``unix:///…/3.sock``, or
    ``http://127.0.0.1:port``. ``started`` and ``changed`` are when its process was started and when its ``state`` last
    changed, by `time.monotonic`. ``requests`` (all so far) and ``in_flight`` (now) are the front's to write.
    """

    __slots__ = ("beat", "busy", "changed", "cpu", "doomed", "id", "in_flight", "limit", "outdated", "pid", "requests",
                 "started", "state", "url")  # fmt: skip

    def __init__(self, id: str, url: str, now: float, *, limit: float = float("inf")) -> None:
        self.id: Final = id
        self.url: Final = url
        self.pid = 0
        """Its process; 0 until that is started."""
        self.state: State = "starting"
        self.started = now
        self.changed = now
        self.requests = 0
        self.in_flight = 0
        self.limit: Final = limit
        """After how many requests it is replaced."""
        self.beat = now
        """When its event loop last gave a sign of life."""
        self.busy = now
        """When it was last seen to have used the processor."""
        self.cpu = 0.0
        """`cpu_seconds` when that was last looked at."""
        self.outdated = ""
        """Why another one is to take its place, in words; empty for one that stays."""
        self.doomed = ""
        """Why it is being killed, in words; empty for one that is not."""

    def become(self, state: State, now: float) -> None:
        """Change its state."""
        self.state = state
        self.changed = now

    def cpu_seconds(self) -> float | None:
        """Seconds of processor time that its process has used, all threads; None when that cannot be told."""
        fields = self._read("stat").rpartition(")")[2].split()
        # utime and stime of proc_pid_stat(5), counted from the state, which comes after the name in brackets.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else None

    def memory(self) -> int | None:
        """Bytes of resident memory of its process; None when that cannot be told."""
        fields = self._read("statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None

    def _read(self, name: str) -> str:
        if not self.pid or self.state == "gone":  # the number may be another process's by now
            return ""
        try:
            return (_PROC / str(self.pid) / name).read_text("utf-8", "replace")
        except OSError:  # it has just ended, or this is not Linux
            return ""

    def __repr__(self) -> str:
        said = self.doomed or self.outdated
        return (
            f"<Member {self.id} {self.state} pid={self.pid} in_flight={self.in_flight}{f' ({said})' if said else ''}>"
        )
