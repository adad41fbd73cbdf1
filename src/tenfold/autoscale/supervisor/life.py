"""`Life`: one worker from the start of its process to its end, and what the front hears of it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from tenfold.autoscale.supervisor.member import Member
from tenfold.autoscale.supervisor.options import FleetOptions
from tenfold.autoscale.supervisor.place import accepts
from tenfold.autoscale.supervisor.process import Process, Words, how, to_stderr

_log: Final = logging.getLogger("tenfold.autoscale")
LEAVE: Final = 5.0
"""Seconds that a worker has at the least from SIGTERM to SIGKILL, to shut its app down."""
_KNOCK: Final = (0.005, 0.1)
"""Seconds between two looks whether a worker listens, at first and at most."""


class FleetListener(Protocol):
    """The front, which sends the workers their requests. What it raises is logged; a worker that it could not put into
    service is replaced.
    """

    async def ready(self, member: Member) -> None:
        """It accepts connections: put it into service."""
        ...

    async def leaving(self, member: Member) -> None:
        """Take it out of service and return when nothing is under way there; cancelled after ``drain_timeout``, and
        when its process has ended.
        """
        ...

    async def gone(self, member: Member, why: str, last_words: str) -> None:
        """Its process has ended; take it out at once. ``last_words`` is what it last wrote. Called once for each
        worker for which ``ready`` was.
        """
        ...


class Life:
    """One worker. The fleet calls `run`, then `close`, then `gone`, and meanwhile sets ``leave`` or calls `kill`."""

    __slots__ = ("_failed", "_known", "_listener", "_options", "_process", "_words", "leave", "member")

    def __init__(self, member: Member, options: FleetOptions, listener: FleetListener) -> None:
        self.member: Final = member
        self.leave: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        """Done when it is to drain and end."""
        self._options = options
        self._listener = listener
        self._words = Words(member.id, to_stderr)
        self._process: Process | None = None
        self._known = False
        self._failed = ""

    @property
    def words(self) -> str:
        """What it last wrote."""
        return self._words.last

    async def run(self, ready: Callable[[], object], serving: Callable[[], object]) -> None:
        """Start it and return when it has ended or is to be ended by `close`. ``ready`` is called when it accepts
        connections, ``serving`` when the front has put it into service.
        """
        try:
            self._process = process = await self._spawn()
        except OSError as error:
            self._failed = f"no process could be started: {error}"
            return
        if not await self._listens(process):
            return
        ready()
        self._known = True
        self._failed = await self._tell("ready", self._listener.ready(self.member), process)
        if self._failed:
            return
        if not process.exit.done():
            serving()
        await asyncio.wait((process.exit, self.leave), return_when=asyncio.FIRST_COMPLETED)
        if self.leave.done():
            limit = self._options.seconds("drain_timeout")
            until = time.monotonic() + limit
            await self._tell("leaving", self._listener.leaving(self.member), process, limit)
            await process.stop(max(LEAVE, until - time.monotonic()))

    def kill(self) -> None:
        """End it by force."""
        if self._process is not None:
            self._process.kill()

    async def close(self) -> str:
        """End it by force if it runs still; how it ended, in words."""
        code = 0 if self._process is None else await self._process.close()
        return self._failed or how(code)

    async def gone(self, why: str) -> None:
        """Tell the front that it has ended, if it knows of it."""
        if self._known:
            call = self._listener.gone(self.member, why, self.words)
            await self._tell("gone", call, None, self._options.seconds("drain_timeout"))

    async def _spawn(self) -> Process:
        options, member = self._options, self.member
        beat = min(1.0, options.seconds("hung_after") / 5)
        arguments = [
            options.app, "--server", options.server, "--app-dir", options.app_dir, "--url", member.url,
            "--drain", str(options.drain_timeout), "--beat", str(beat), *(["--factory"] if options.factory else []),
        ]  # fmt: skip

        def beaten(now: float) -> None:
            member.beat = now

        process = await Process.spawn(arguments, {**os.environ, **options.env}, self._words, beaten)
        member.pid = process.pid
        return process

    async def _listens(self, process: Process) -> bool:
        """True when it accepts connections, False when it has ended or is to. The roster sees to it that one comes."""
        pause, longest = _KNOCK
        while not process.exit.done() and not self.member.doomed:
            if accepts(self.member.url):
                return True
            await asyncio.wait((process.exit,), timeout=pause)
            pause = min(longest, pause * 1.5)
        return False

    @staticmethod
    async def _tell(
        what: str, call: Coroutine[Any, Any, None], process: Process | None, timeout: float | None = None
    ) -> str:
        """Tell the listener, while ``process`` lives and for ``timeout`` seconds at most; what it raised, in words."""
        task = asyncio.get_running_loop().create_task(_heard(what, call))
        waited = {task} if process is None else {task, process.exit}
        try:
            await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        return "" if task.cancelled() else task.result()

    def __repr__(self) -> str:
        return f"<Life of {self.member!r}>"


async def _heard(what: str, call: Coroutine[Any, Any, None]) -> str:
    try:
        await call
    except Exception as error:  # noqa: BLE001 - the front's fault must not keep the fleet from minding its processes
        _log.exception("fleet: the listener failed at %s", what)
        return f"the front failed at {what}: {error!r}"
    return ""
