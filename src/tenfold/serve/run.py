"""`run`: an app behind its gateway, from the first socket to the last process.

The order is the point. Sockets are bound first, so that a port that is taken is told before any worker starts; workers
next, so that an app that cannot be loaded is told before anybody is let in; then the gateway, and only then the loop
that scales. At the end the same backwards: no more clients, requests under way, workers, sockets.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any, Final

from tenfold._core.errors import TenfoldError
from tenfold._core.events import EVENTS
from tenfold._core.tasks import Tasks
from tenfold.autoscale.supervisor import Fleet, FleetError, FleetOptions
from tenfold.gateway.processes import Sockets
from tenfold.serve.front import Front
from tenfold.serve.happenings import Restarted, SourceChanged
from tenfold.serve.numbers import serve_samples
from tenfold.serve.options import ServeOptions
from tenfold.serve.scaling import Scaling
from tenfold.serve.telling import Telling
from tenfold.serve.watch import changes, named

TOKEN: Final = "TENFOLD_ADMIN_TOKEN"
"""The environment variable with the token of the admin API; without it one is made up and told."""


class ServeError(TenfoldError):
    """The app cannot be served; the message says why."""


def run(options: ServeOptions, say: Callable[[str], object]) -> int:
    """Serve until SIGTERM or SIGINT, which drain; a second one ends at once. SIGHUP restarts the workers in turn.

    What happens is told by ``say``, a line each. Returns 0 if all requests were answered, 1 if some were cut at the
    end. Raises `ServeError` where it cannot listen, and where no worker comes to serve.
    """
    try:
        sockets = Sockets((options.listen,), 1, admin=options.admin)
    except OSError as error:
        raise ServeError(error.strerror or str(error)) from error
    try:
        work = _Serving(options, sockets, say).serve()
        try:
            import uvloop
        except ImportError:
            return asyncio.run(work)
        return int(uvloop.run(work))
    finally:
        sockets.close()


class _Serving:
    """One run."""

    def __init__(self, options: ServeOptions, sockets: Sockets, say: Callable[[str], object]) -> None:
        self._options = options
        self._sockets = sockets
        self._say = say
        self._token = os.environ.get(TOKEN, "")
        self._own_token = not self._token
        if self._own_token:
            self._token = secrets.token_urlsafe(18)
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._again = asyncio.Event()

    async def serve(self) -> int:
        """From the first worker to the last."""
        options = self._options
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._again.set)
        front = Front(options, self._sockets, self._token)
        with Telling(self._say):
            fleet = Fleet(_fleet_options(options), front, hub=EVENTS, random=Random())
            try:
                async with Tasks("serve") as tasks:
                    try:
                        if not await _unless(self._stop, fleet.start(options.least)):
                            return 0
                    except FleetError as error:
                        raise ServeError(_sentence(error)) from error
                    whole = await self._behind(front, fleet, tasks)
            finally:
                if self._now.is_set():
                    _kill(fleet)
                await fleet.aclose()
        self._say("stopped" if whole else "stopped; requests were cut")
        return 0 if whole else 1

    async def _behind(self, front: Front, fleet: Fleet, tasks: Tasks) -> bool:
        options = self._options
        async with front:
            gateway = front.gateway
            assert gateway is not None
            scaling = Scaling(options.name, fleet, front, options.policy(), period=float(options.period))
            gateway.more_samples = lambda: serve_samples(options.name, fleet, scaling)
            self._tell_where(front)
            measuring = tasks.spawn(scaling.run(), name="scaling")
            restarting = tasks.spawn(self._restart(fleet, scaling), name="restarts")
            if options.reload:
                tasks.spawn(self._watch(), name="watch")
            tasks.spawn(_forward(gateway.stopping, self._stop), name="admin")
            await self._stop.wait()
            for each in (measuring, restarting):
                each.cancel()
            self._say("draining; once more ends at once")
            drain = tasks.spawn(gateway.drain(), name="drain")
            if not await _unless(self._now, _ended(drain)):
                return not gateway.site.counters.in_flight
            return drain.result()

    def _tell_where(self, front: Front) -> None:
        options = self._options
        how = f"{options.workers} workers" if options.workers != "1" else "1 worker"
        where = front.address if front.address.path else f"http://{front.address}"
        self._say(f"{options.app} on {where}, {how}; SIGHUP restarts them in turn, SIGTERM drains")
        self._say(f"metrics on http://{front.admin}/metrics, live: http://{front.admin}/v1/live")
        if self._own_token:
            self._say(f"admin API: Authorization: Bearer {self._token} (say your own in {TOKEN})")

    # -- signals and changes ------------------------------------------------------------------------------------------

    def _end(self) -> None:
        (self._now if self._stop.is_set() else self._stop).set()

    async def _restart(self, fleet: Fleet, scaling: Scaling) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            error = ""
            try:
                await fleet.roll()
            except FleetError as failed:
                error = _sentence(failed)
            scaling.restarted()
            EVENTS.emit(Restarted(error))

    async def _watch(self) -> None:
        async for files in changes(self._options.app_dir):
            EVENTS.emit(SourceChanged(named(files, self._options.app_dir)))
            self._again.set()


def _fleet_options(options: ServeOptions) -> FleetOptions:
    return FleetOptions(
        app=options.app,
        factory=options.factory,
        server=options.server,
        app_dir=options.app_dir,
        ready_timeout=options.ready_timeout,
        drain_timeout=options.drain_timeout,
        memory_limit=options.memory_limit,
        max_requests=options.max_requests,
    )


def _sentence(error: FleetError) -> str:
    """What happened, with the last line of what the worker said, which has been passed on already."""
    said = error.last_words.strip().splitlines()
    return str(error).partition("; it said:")[0] + (f": {said[-1].strip()}" if said else "")


async def _forward(event: asyncio.Event, to: asyncio.Event) -> None:
    await event.wait()
    to.set()


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait((task,))


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do the work, unless the event comes first; then it is cancelled. Whether it was done."""
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        for each in (doing, waiting):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each


def _kill(fleet: Fleet) -> None:
    for member in fleet.members:
        if member.pid and member.state != "gone":
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
