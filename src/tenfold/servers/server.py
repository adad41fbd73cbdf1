"""What PostgreSQL and Valkey have in common here:

to be started on a free port, watched, paused, killed and ended.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.servers import process
from tenfold.servers.errors import NotRunningError, PortLostError, ServersError, ServersTimeoutError
from tenfold.servers.home import Home, open_home, translate
from tenfold.servers.launch import POLL, died, finish, spawn
from tenfold.servers.locate import Binaries
from tenfold.servers.ports import free_port
from tenfold.servers.process import ProcessId
from tenfold.servers.run import Run, sweep

_PORT_ATTEMPTS: Final = 5
_STOP_WITHIN: Final = 10.0
_RETRY_PORT: Final = 0.2


async def open_run(home: Home) -> Run:
    """Clean up after dead owners, then make a new run."""

    def make() -> Run:
        try:
            home.runs.mkdir(mode=0o755, exist_ok=True)
            home.runs.chmod(0o755)
            sweep(home.runs)
            return Run.create(home.runs)
        except OSError as error:
            raise translate(error, home.runs, "making the run's folder") from error

    task = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await finish(asyncio.to_thread((await task).close))
        raise


class Server(ABC):
    """One server process on 127.0.0.1. An ``async with`` block, or `start` and `close`.

    ``name`` is its folder in the run and its name in messages; ``state`` overrides the state folder;
    ``within`` is how long a start may take (default 30 s). A server made with ``run`` lives in a run that
    somebody else closes.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        *,
        name: str,
        within: Duration = "30s",
        state: Path | str | None = None,
        run: Run | None = None,
        home: Home | None = None,
    ) -> None:
        if not name.isidentifier():
            raise MisuseError(f"name: expected letters, digits and underscores, got {name!r}")
        self.name = name
        self.role = "standalone"
        self.within = duration(within, "within")
        self.port = 0
        self._state = state
        self._run = run
        self._home = home
        self._owns_run = run is None
        self._child: subprocess.Popen[bytes] | None = None
        self._id: ProcessId | None = None
        self._paused: list[ProcessId] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self.port}" if self.port else "no port"
        state = "up" if self.running else "down"
        return f"<{type(self).__name__} {self.name} {self.role} {where} {state}>"

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a paused one does."""
        if self._child is not None:
            return self._child.poll() is None
        return self._id is not None and process.alive(self._id)

    @property
    def pid(self) -> int:
        """The pid of the server's (main) process. Raises `NotRunningError` when there is none."""
        return self._identity().pid

    @property
    def folder(self) -> Path:
        """Where the server keeps its data."""
        return self.run.folder / self.name

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.run.folder / f"{self.name}.log"

    @property
    def run(self) -> Run:
        if self._run is None:
            raise NotRunningError(
                f"{self.name} was expected to be started and is not: use `async with` or `await start()`"
            )
        return self._run

    @property
    def home(self) -> Home:
        if self._home is None:
            self._home = open_home(self._state)
        return self._home

    async def start(self) -> None:
        """Start and wait until it answers. Keeps the port it had before, if it had one."""
        if self.running:
            raise MisuseError(f"{self.name}: expected a server that is down, it already runs as pid {self.pid}")
        try:
            if self._run is None:
                await asyncio.to_thread(lambda: self.home)
                self._run = await open_run(self.home)
            binaries = await asyncio.to_thread(self._binaries)
            self.run.allow(binaries.program)
            await self._prepare(binaries)
            await self._launch(binaries)
        except BaseException as error:
            await self._give_up()
            # Our time-outs are OSErrors too (Python's TimeoutError is one) and have their sentence already.
            if isinstance(error, OSError) and not isinstance(error, ServersError):
                raise translate(error, self.home.path, f"starting {self.name}") from error
            raise

    async def stop(self) -> None:
        """Stop as an administrator would, all work written; killed when it takes longer than 10 s.

        No error when it is down.
        """
        await self._resume_paused()
        identity = self._id
        if identity is None or not self.running:
            return
        family = await asyncio.to_thread(process.tree, identity)
        process.send(identity, self._stop_signal())
        await finish(self._ended(family, _STOP_WITHIN))

    async def kill(self) -> None:
        """End it and all its children by SIGKILL, as a power cut would, and wait until they are gone."""
        identity = self._id
        if identity is None or not self.running:
            return
        family = await asyncio.to_thread(process.signal_tree, identity, signal.SIGKILL)
        self._paused = []
        await finish(self._ended(family, _STOP_WITHIN))

    async def restart(self) -> None:
        """Stop if it runs, then start on the same port."""
        await self.stop()
        await self.start()

    async def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._paused = await asyncio.to_thread(process.signal_tree, self._identity(), signal.SIGSTOP)

    async def resume(self) -> None:
        """Let it go on after `pause`."""
        self._identity()
        await self._resume_paused()

    async def close(self) -> None:
        """End it and, if it has a run of its own, remove all its files.

        Shielded from cancellation. May be called twice.
        """
        if self._owns_run:
            if self._run is not None:
                await finish(asyncio.to_thread(self._close_run))
        else:
            await finish(self.stop())

    def _close_run(self) -> None:
        assert self._run is not None  # checked by the caller
        self._run.close()
        self.reap()
        self._run = None
        self.port = 0

    def reap(self) -> None:
        """Collect the exit code of a server that somebody else has ended."""
        if self._child is not None:
            self._child.wait()
        self._child = self._id = None
        self._paused = []

    def adopt(self) -> None:
        """Take over the process that the run's manifest names, if it still lives."""
        facts = self.run.servers[self.name]
        self.port = facts["port"]
        self.role = facts["role"]
        identity = ProcessId(facts["pid"], facts["started"])
        self._id = identity if process.alive(identity) else None

    def detach(self) -> None:
        """Forget that the server is a child of this process, which is about to end before it."""
        if self._child is not None:
            self._child.returncode = 0  # else its destructor would warn of a child that still runs
            self._child = None

    async def _launch(self, binaries: Binaries) -> None:
        fixed = self.port
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = fixed or free_port()
            try:
                await self._launch_on(binaries, port)
            except PortLostError:
                if attempt == _PORT_ATTEMPTS:
                    raise PortLostError(self.name, port, attempt) from None
                if fixed:
                    await asyncio.sleep(_RETRY_PORT)  # whoever has it may be about to let it go
            else:
                return

    async def _launch_on(self, binaries: Binaries, port: int) -> None:
        self._configure(port)
        start_of_log = self.log.stat().st_size if self.log.exists() else 0
        child = await spawn(
            self._command(binaries, port), log=self.log, folder=self.run.folder, account=self.home.account
        )
        try:
            identity = process.identify(child.pid)
            deadline = time.monotonic() + self.within
            while not await self._answers(port, child.pid):
                if child.poll() is not None:
                    output = self._log_since(start_of_log)
                    if "ddress already in use" in output:
                        raise PortLostError(self.name, port, 1)
                    raise died(self.name, child.returncode, output, self.run.folder)
                if time.monotonic() > deadline:
                    raise ServersTimeoutError(
                        f"{self.name} was expected to answer on port {port} within "
                        f"{format_duration(self.within)} and did not; "
                        f"it said: {process.last_lines(self._log_since(start_of_log)) or 'nothing'}"
                    )
                await asyncio.sleep(POLL)
        except BaseException:
            if child.poll() is None:
                if identity is not None:
                    await finish(asyncio.to_thread(process.signal_tree, identity, signal.SIGKILL))
                child.kill()
                await finish(asyncio.to_thread(child.wait))
            raise
        assert identity is not None  # it answered, so it lived
        self._child, self._id, self.port = child, identity, port
        self.record()

    def record(self) -> None:
        """Write into the run's manifest what is true of this server now."""
        identity = self._identity()
        self.run.record(
            self.name,
            kind=self.kind,
            role=self.role,
            port=self.port,
            pid=identity.pid,
            started=identity.started,
        )

    async def _ended(self, family: list[ProcessId], within: float) -> None:
        def wait() -> list[ProcessId]:
            child = self._child
            deadline = time.monotonic() + within
            left = family
            while left and time.monotonic() < deadline:
                if child is not None:
                    child.poll()  # a zombie of ours counts as gone only for others
                left = process.wait_gone(left, 0.05)
            return left

        left = await asyncio.to_thread(wait)
        for member in left:
            process.send(member, signal.SIGKILL)
        if left and await asyncio.to_thread(wait):
            raise ServersTimeoutError(f"{self.name} was expected to end after SIGKILL and did not: its disk may hang")
        self.reap()

    async def _give_up(self) -> None:
        if self._owns_run and self._run is not None:
            await finish(asyncio.to_thread(self._close_run))

    async def _resume_paused(self) -> None:
        paused, self._paused = self._paused, []
        for member in paused:
            process.send(member, signal.SIGCONT)

    def _log_since(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read(1 << 20).decode(errors="replace")

    def _identity(self) -> ProcessId:
        if self._id is None or not self.running:
            raise NotRunningError(f"{self.name} was expected to run and is down: start it first")
        return self._id

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _binaries(self) -> Binaries: ...

    @abstractmethod
    async def _prepare(self, binaries: Binaries) -> None: ...

    @abstractmethod
    def _configure(self, port: int) -> None: ...

    @abstractmethod
    def _command(self, binaries: Binaries, port: int) -> list[str | Path]: ...

    @abstractmethod
    async def _answers(self, port: int, pid: int) -> bool: ...

    @abstractmethod
    def _stop_signal(self) -> int: ...
