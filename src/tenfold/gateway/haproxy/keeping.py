"""HAProxy kept as it should be: the file written, the worker told, and both compared again and again.

Theory. Desired state is here and nowhere else. A change goes to the file first, because every worker to come is made of
it, and to the present worker by commands; where commands cannot (another address, a name to be looked up, a backend
that takes no servers at run time), another worker is made. A worker knows nothing of what the last one's checks had
found, so it is told: ``servers.state`` has the endpoints that were down, which stay down until a check says otherwise,
and nothing else, because weights and drains are the file's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS
from tenfold._core.tasks import Tasks
from tenfold.gateway.config import Changes, Config, Pool, diff
from tenfold.gateway.haproxy import runtime
from tenfold.gateway.haproxy.binary import HAProxyError, check_file
from tenfold.gateway.haproxy.discovering import Discovering
from tenfold.gateway.haproxy.happenings import HAProxyAstray, HAProxyCorrected, HAProxyReloaded, HAProxyRestarted
from tenfold.gateway.haproxy.numbers import Numbers
from tenfold.gateway.haproxy.process import Process
from tenfold.gateway.haproxy.render import Place, render
from tenfold.gateway.haproxy.secrets import secret, write_certificates
from tenfold.gateway.haproxy.servers import Override, Server, servers
from tenfold.gateway.haproxy.talking import Leaving

_log: Final = logging.getLogger("tenfold.gateway")


class Keeper:
    """Keeps ``process``, which has ``sockets``, as ``config`` says. ``hub`` hears of what happens."""

    def __init__(self, config: Config, process: Process, sockets: tuple[int, ...], tasks: Tasks) -> None:
        self.config = config
        self.process: Final = process
        self.overrides: dict[tuple[str, str], Override] = {}
        self.reloads = self.restarts = 0
        self.problem = ""
        """Why the last comparison failed; empty while all is well."""
        self.ending = False
        """Whether it may end."""
        self.numbers: Final = Numbers(process)
        self.lock: Final = asyncio.Lock()
        """Held while something is changed."""
        self.discovering: Final = Discovering(tasks, self._moved)
        self._sockets = sockets
        self._unwritten = False

    def wanted(self, pool: Pool) -> tuple[Server, ...]:
        """What a pool's servers should be."""
        return servers(pool, self.discovering.endpoints[pool.name], self.overrides, self.process.directory)

    def all_wanted(self) -> dict[str, tuple[Server, ...]]:
        """That of all pools."""
        return {pool.name: self.wanted(pool) for pool in self.config.pools}

    async def collect(self) -> None:
        """Take what was counted. Raises `HAProxyError`."""
        await self.numbers.collect(self.all_wanted())

    async def start(self) -> None:
        """Write all there is to write, and start. Raises `HAProxyError`."""
        await self.discovering.follow(self.config)
        await self._write(self.config)
        await self._start()
        await self.collect()

    async def _start(self) -> None:
        secret(f"{self.process.directory}/servers.state", "1\n")
        await self.process.start()

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _write(self, config: Config) -> str:
        """Let HAProxy judge the file, and put it where the next worker reads it. Returns what stood there."""
        place = Place(self.process.directory, self._sockets)
        text = render(config, self.discovering.endpoints, self.overrides, place)
        return await asyncio.to_thread(self._put, config, text)

    def _put(self, config: Config, text: str) -> str:
        process = self.process
        write_certificates(config, process.directory)
        new = f"{process.file}.new"
        before = Path(process.file).read_text() if os.path.exists(process.file) else ""
        secret(new, text)
        check_file(process.binary, new, self._sockets)
        os.replace(new, process.file)
        return before

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force, or raise and leave the old one there."""
        async with self.lock:
            changes = diff(self.config, config)
            if changes.restart:
                told = "; ".join(map(str, changes.restart))
                raise MisuseError(f"reload: expected changes that a running gateway can make, got {told}; restart it")
            fixed = next((each for each in changes.settings if each.key == "gateway.access_log"), None)
            if fixed is not None:
                raise MisuseError(
                    f"reload: expected the access log as it was, got {fixed}; the engine haproxy is born with its log; "
                    "restart it"
                )
            had = dict(self.discovering.endpoints)
            try:
                await self.discovering.follow(config)
                before = await self._write(config)
                try:
                    await self._again("another configuration")
                except HAProxyError:
                    secret(self.process.file, before)
                    raise
            except BaseException as exc:
                self.discovering.endpoints = had
                if isinstance(exc, Exception):  # whose sources are followed again
                    await self._or_astray(lambda: self.discovering.follow(self.config))
                raise
            self.config = config
            self.reloads += 1
            self.discovering.forget(config)
            known = {(name, each.id) for name, several in self.discovering.endpoints.items() for each in several}
            self.overrides = {key: each for key, each in self.overrides.items() if key in known}
            await self._compare()
            await self.collect()
            return changes

    async def told(self) -> None:
        """Endpoints or their weights are others: the file first, then the worker. To be called with the lock."""
        self._unwritten = True
        await self._write(self.config)
        self._unwritten = False
        await self._compare()

    async def _moved(self) -> None:
        async with self.lock:
            await self._or_astray(self.told)

    async def _compare(self) -> tuple[str, ...]:
        """Make the worker's servers those that are wanted, by a reload where commands cannot. Returns what was said."""
        has = runtime.present(await self.process.command("show servers state"))
        said: list[str] = []
        for pool in self.config.pools:
            backend = f"pool.{pool.name}"
            wanted, known = self.wanted(pool), has.get(backend, {})
            name = runtime.unreachable(wanted, known)
            if name is not None:
                await self._again(f"pool {pool.name}: the address of {name} is another")
                return tuple(said)
            for command in runtime.commands(backend, wanted, known):
                answer = await self.process.command(command)
                said.append(command)
                if command.startswith("add server") and "registered" not in answer:
                    await self._again(f"pool {pool.name} takes no servers while it runs: {' '.join(answer.split())}")
                    return tuple(said)
        return tuple(said)

    async def _again(self, why: str) -> None:
        """Another worker."""
        process = self.process
        leaving = await Leaving.of(process.directory)
        try:
            state = runtime.down(await leaving.ask("show servers state"), self.all_wanted())
            secret(f"{process.directory}/servers.state", state)
            await process.reload()
        except BaseException:
            leaving.close()
            raise
        self.numbers.keep(leaving)
        EVENTS.emit(HAProxyReloaded(await process.worker(), why))

    # -- comparing ----------------------------------------------------------------------------------------------------

    async def for_ever(self) -> None:
        """Compare every ``engine.reconcile`` seconds."""
        while True:
            await asyncio.sleep(self.config.engine.reconcile)
            async with self.lock:
                await self._or_astray(self._reconcile)

    async def _or_astray(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it; what fails is told once, and tried again with the next comparison."""
        try:
            await work()
            self.problem = ""
        except (HAProxyError, OSError, TimeoutError) as exc:
            said = str(exc) or type(exc).__name__
            if said != self.problem:
                _log.error("haproxy: %s", said)
                EVENTS.emit(HAProxyAstray(said))
            self.problem = said

    async def _reconcile(self) -> None:
        if self.ending:
            return
        process = self.process
        if not process.running:
            words = process.messages()
            _log.error("haproxy: it has ended by itself (%s); starting it again", words)
            await self._start()
            self.restarts += 1
            EVENTS.emit(HAProxyRestarted(process.pid, words))
        if self._unwritten:
            await self.told()
        elif commands := await self._compare():
            EVENTS.emit(HAProxyCorrected(commands))
        await self.collect()
