"""`Supervisor`: several gateway processes that share their addresses, replaced when they die, changed all together.

Theory. The supervisor serves no request and so has nothing to die of: it binds, starts, listens to its workers and
replaces them. They are fresh interpreters and no forks of a running loop, so that one can be started at any time.

A reload is all or nothing, as far as it can be without a vote: the configuration has been judged here; one worker takes
it first, and if it refuses (discovery finds nobody, say), nobody else is asked and all go on as they were. Those after
it that fail, which should be none, are replaced by workers that start with the new one, so that two
configurations are never in force for longer than a start takes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import Tasks
from tenfold.gateway.admin import AdminServer
from tenfold.gateway.config import Address, Changes, Config, diff, write_config
from tenfold.gateway.processes.channel import WorkerError, WorkerGoneError
from tenfold.gateway.processes.child import Child
from tenfold.gateway.processes.events import WorkerCrashLoop, WorkerDied, WorkerStarted
from tenfold.gateway.processes.lives import Lives
from tenfold.gateway.processes.sockets import Sockets
from tenfold.gateway.processes.workers import Processes

_log: Final = logging.getLogger("tenfold.gateway")
START: Final = 60.0
"""Seconds for a worker to serve from its start on: discovery may have to wait for others."""
ANSWER: Final = 30.0
"""Seconds for a worker to do what it is told. One that takes longer is stuck, and is replaced."""
LEAVE: Final = 3.0
"""Seconds, beyond the time to drain, for a worker to leave."""
_TASKS: Final = 4096


class WorkersNotStartedError(TenfoldError):
    """A worker did not come to serve when all were started first."""


class Supervisor:
    """``config.gateway.processes`` workers on ``sockets``, while in the block; `drain` first lets requests under way
    end::

        async with Supervisor(config, Sockets(config.gateway.listen, 4)) as supervisor:
            ...
            await supervisor.reload(load_config("gateway.toml"))
            await supervisor.drain()

    ``file`` is what problems call the configuration. The sockets stay the caller's. Raises `WorkersNotStartedError`
    from ``async with`` if one does not come to serve; one that dies later is replaced (`lives`), which is told
    (`WorkerDied`, `WorkerStarted`, `WorkerCrashLoop`).
    """

    def __init__(self, config: Config, sockets: Sockets, *, file: str = "gateway.toml", hub: Hub = EVENTS) -> None:
        self.config = config
        self.file: Final = file
        self.count: Final = config.gateway.processes
        self.workers: Final = Processes(self)
        """All workers as one, for the admin API."""
        self.asked_to_drain: Callable[[], object] = _nothing
        """Called when an administrator says drain."""
        self._sockets: Final = sockets
        self._hub: Final = hub
        self._random: Final = random.Random()
        self._toml = write_config(config, secrets=True)
        self._children: dict[int, Child] = {}
        """Those that serve, by number."""
        self._endpoints: dict[tuple[Any, ...], dict[str, Any]] = {}
        """What an administrator last said of each endpoint."""
        self._tasks = Tasks("gateway processes", limit=_TASKS)
        self._stopping = False
        self._server: AdminServer | None = None
        self._changing = asyncio.Lock()
        self._dealing = asyncio.Lock()
        self._lives = [Lives() for _ in range(self.count)]

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Supervisor:
        await self._tasks.__aenter__()
        try:
            first = [asyncio.get_running_loop().create_future() for _ in range(self.count)]
            for number, served in enumerate(first):
                self._tasks.spawn(self._keep(number, served), name=f"worker {number}")
            await asyncio.gather(*first)
            await self._deal()
            if self.config.admin is not None:
                server = AdminServer(self.config.admin, self.workers, bound=self._sockets.admin)
                await server.__aenter__()
                self._server = server
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        server, self._server = self._server, None
        try:
            if server is not None:
                await server.__aexit__(None, None, None)
        finally:
            await self._tasks.__aexit__(kind, error, trace)  # each `_keep` ends its own worker

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the workers listen, with the ports that the system chose."""
        return self._sockets.addresses

    @property
    def admin(self) -> Address | None:
        """Where the admin API listens, which is all workers' and runs here; None where there is none."""
        return None if self._server is None else self._server.address

    @property
    def living(self) -> list[Child]:
        """The workers that serve, in the order of their numbers."""
        return [self._children[number] for number in sorted(self._children)]

    def state(self) -> dict[str, Any]:
        """The workers, as plain values ready for JSON."""
        return {
            "processes": self.count,
            "workers": [
                {
                    "number": number,
                    "pid": self._children[number].pid if number in self._children else None,
                    "lives": lives.count,
                    "crash_loop": lives.looping,
                }
                for number, lives in enumerate(self._lives)
            ],
        }

    # -- one worker after another -------------------------------------------------------------------------------------

    async def _keep(self, number: int, first: asyncio.Future[None]) -> None:
        """See to it that there is a worker of that number. ``first`` ends when the first one serves, or fails to."""
        lives = self._lives[number]
        while True:
            lives.count += 1
            child: Child | None = None
            failed, code, words, served = "", 0, "", None
            try:
                child = await Child.spawn(number, self._sockets.bound, self._tasks)
                await self._start(child)
                served = time.monotonic()
                if not first.done():
                    first.set_result(None)
                code = await child.ended()
                served = time.monotonic() - served
            except (TenfoldError, OSError) as error:
                failed = str(error)
                if child is not None:
                    await child.stop(LEAVE)
                    code = await child.ended()
            finally:
                self._children.pop(number, None)
                if child is not None:
                    # When this task is cancelled the block is being left, and what is to end well was drained before.
                    await child.stop(0.0)
                    words = child.words
            if self._stopping:
                return
            if not first.done():
                told = f"{failed}; it said: {words}" if words and failed not in words else words or failed
                how = f" ({_how(code)})" if code else ""
                first.set_exception(WorkersNotStartedError(f"worker {number} did not start{how}: {told}"))
                return
            await self._deal()
            pause = lives.died(served, self._random)
            self._hub.emit(WorkerDied(number, 0 if child is None else child.pid, code, words or failed, pause))
            if lives.looping:
                self._hub.emit(WorkerCrashLoop(number, lives.early, code, words or failed))
            await asyncio.sleep(pause)

    async def _start(self, child: Child) -> None:
        toml = self._toml
        sockets = [[made.fileno(), at.host, at.port, at.path] for at, made in self._sockets.bound]
        params = {"number": child.number, "toml": toml, "file": self.file, "sockets": sockets, "accept": []}
        await child.call("start", params, timeout=START)
        while toml != self._toml:  # a reload has overtaken it
            toml = self._toml
            await child.call("reload", {"toml": toml, "file": self.file}, timeout=ANSWER)
        for said in list(self._endpoints.values()):
            try:
                await child.call("endpoint", said, timeout=ANSWER)
            except MisuseError as error:
                _log.info("gateway: worker %d does not know %s: %s", child.number, said, error)
        self._children[child.number] = child
        lives = self._lives[child.number].count
        if lives > 1:
            await self._deal()
        self._hub.emit(WorkerStarted(child.number, child.pid, lives))

    async def _deal(self) -> None:
        """Deal the sockets out to those that live."""
        async with self._dealing:
            dealt = self._sockets.deal(sorted(self._children))
            children = [self._children[number] for number in dealt]
            await self._tell(
                children, lambda each: each.call("accept", {"accept": dealt[each.number]}, timeout=ANSWER), "accept"
            )

    async def _tell(self, children: list[Child], call: Callable[[Child], Any], what: str) -> None:
        """Have all of these do something; whoever cannot is ended, and so replaced."""
        answers = await asyncio.gather(*map(call, children), return_exceptions=True)
        for child, answer in zip(children, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, WorkerGoneError):
                _log.error("gateway: worker %d failed to %s and is replaced: %s", child.number, what, answer)
                child.kill()

    # -- all at once --------------------------------------------------------------------------------------------------

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force in all workers, as `Gateway.reload` does in one.

        Raises `MisuseError` for a change that needs a restart, and `WorkerError` where a worker cannot put it into
        force, with what it raised; the old configuration stays in force then.
        """
        async with self._changing:
            changes = diff(self.config, config)
            if changes.restart:
                told = "; ".join(map(str, changes.restart))
                raise MisuseError(f"reload: expected changes that a running gateway can make, got {told}; restart it")
            children = self.living
            toml = write_config(config, secrets=True)
            params = {"toml": toml, "file": self.file}
            if children:
                first = children.pop(0)
                try:
                    await first.call("reload", params, timeout=ANSWER)
                except (MisuseError, WorkerError):
                    raise
                except TenfoldError:
                    first.kill()  # what it has in force is not known
                    raise
            self.config, self._toml = config, toml
            if self._server is not None and config.admin is not None:
                self._server.options = config.admin
            await self._tell(children, lambda each: each.call("reload", params, timeout=ANSWER), "reload")
            return changes

    async def reopen_log(self) -> None:
        """Have all begin the access log's file anew."""
        await self._tell(self.living, lambda each: each.call("reopen", {}, timeout=ANSWER), "reopen")

    def remember(self, said: dict[str, Any]) -> None:
        """What an administrator says of an endpoint holds for workers that are started later too."""
        known = {"pool": said.get("pool"), "id": said.get("id")}
        weight = {name: value for name, value in said.items() if name == "weight"}
        state = {name: value for name, value in said.items() if name != "weight" and name not in known}
        for what, each in (("weight", weight), ("state", state)):
            if each:  # a weight and a state hold side by side; another of the same takes its place
                self._endpoints[(*known.values(), what)] = {**known, **each}

    async def drain(self) -> bool:
        """Have all take no more connections and let requests under way end, for ``drain_timeout`` at most, and leave.
        True if nothing was cut.
        """
        self._stopping = True
        self._sockets.release()
        timeout = self.config.gateway.drain_timeout + LEAVE

        async def one(child: Child) -> bool:
            try:
                whole = bool((await child.call("drain", {}, timeout=timeout))["whole"])
            except TenfoldError as error:
                _log.error("gateway: worker %d did not drain: %s", child.number, error)
                whole = False
            return await child.stop(LEAVE) == 0 and whole

        return all(await asyncio.gather(*map(one, self.living)))

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses))
        return f"<Supervisor on {where}; {len(self._children)} of {self.count} serve>"


def _nothing() -> None:
    return None


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
