"""`HAProxyGateway`: a configuration that an HAProxy carries out, kept as it should be while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tenfold import __version__
from tenfold._core.errors import MisuseError
from tenfold._core.tasks import Tasks
from tenfold._core.units import Duration, duration
from tenfold.gateway.admin import AdminServer
from tenfold.gateway.config import Address, Changes, Config, ConfigFile
from tenfold.gateway.haproxy import state
from tenfold.gateway.haproxy.asking import Asking
from tenfold.gateway.haproxy.binary import HAProxyError, check_version, find_binary
from tenfold.gateway.haproxy.home import Home, listening, log_output
from tenfold.gateway.haproxy.keeping import Keeper
from tenfold.gateway.haproxy.process import Process
from tenfold.gateway.haproxy.servers import Override

_QUIET: Final = 0.5


class HAProxyGateway:
    """A reverse proxy that is an HAProxy, driven from the running event loop. Used as `Gateway` is, and asked as
    `Workers` are (`call_all`).

    Raises `MisuseError` for a configuration of another engine or where there is no HAProxy, `HAProxyError` for what
    HAProxy refuses, and `OSError` where it cannot listen.
    """

    count = 1

    def __init__(self, config: Config) -> None:
        _expect_ours(config)
        self.binary: Final = find_binary(config.engine.binary)
        self.draining = False
        self.asked_to_drain: Callable[[], object] = _nothing
        """Called when an administrator says drain."""
        self.file: ConfigFile | None = None
        """Where the configuration came from, if that is a file; `reload` without a text reads it again."""
        self._given = config
        self._sockets: list[socket.socket] = []
        self._tasks = Tasks("haproxy")
        self._keeper: Keeper | None = None
        self._asking: Final = Asking(self)
        self._server: AdminServer | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> HAProxyGateway:
        if self._keeper is not None:
            raise MisuseError("gateway: it was entered before; make one gateway for each block")
        config = self._given
        await asyncio.to_thread(check_version, self.binary)
        async with contextlib.AsyncExitStack() as stack:
            home = await asyncio.to_thread(Home, config.engine.directory)
            stack.callback(home.remove)
            stack.callback(self._close)
            for address in config.gateway.listen:
                self._sockets.append(listening(address))
            output = log_output(config.gateway.access_log)
            stack.callback(os.close, output)
            numbers = tuple(each.fileno() for each in self._sockets)
            process = Process(self.binary, home.directory, numbers, output)
            keeper = self._keeper = Keeper(config, process, numbers, self._tasks)
            stack.push_async_callback(process.stop)
            stack.callback(keeper.numbers.release)
            await stack.enter_async_context(self._tasks)
            await keeper.start()
            self._tasks.spawn(keeper.for_ever(), name="reconcile")
            stack.callback(self._asking.close)
            if config.admin is not None:
                self._server = await stack.enter_async_context(AdminServer(config.admin, self))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _close(self) -> None:
        for address, each in zip(self._given.gateway.listen, self._sockets, strict=False):
            each.close()
            if address.path:
                Path(address.path).unlink(missing_ok=True)

    @property
    def keeper(self) -> Keeper:
        """What keeps HAProxy as it should be. Raises `MisuseError` where it is not running."""
        if self._keeper is None:
            raise MisuseError("gateway: it is not running; use it as `async with HAProxyGateway(config) as gateway:`")
        return self._keeper

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._given if self._keeper is None else self._keeper.config

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the ports that the system chose."""
        found = []
        for address, each in zip(self._given.gateway.listen, self._sockets, strict=True):
            found.append(address if address.path else Address(address.host, each.getsockname()[1]))
        return tuple(found)

    @property
    def admin(self) -> Address | None:
        """Where the admin API listens; None where there is none."""
        return None if self._server is None else self._server.address

    @property
    def pid(self) -> int:
        """Of HAProxy's master."""
        return self.keeper.process.pid

    @property
    def overrides(self) -> dict[tuple[str, str], Override]:
        """What administrators have said of endpoints, by pool and id."""
        return self.keeper.overrides

    def state(self) -> dict[str, Any]:
        """Pools and their endpoints as they were told of last, as plain values ready for JSON."""
        keeper = self.keeper
        own = {"reloads": keeper.reloads, "restarts": keeper.restarts}
        return {
            "engine": "haproxy",
            "pid": keeper.process.pid,
            "version": __version__,
            "listen": [str(address) for address in self.addresses],
            "draining": self.draining,
            "clients": keeper.numbers.now("in", "FRONTEND", "scur"),
            "counters": state.counters(keeper.numbers) | own,
            "pools": state.pools(keeper.config, keeper.discovering.endpoints, keeper.all_wanted(), keeper.numbers),
            "problem": keeper.problem,
        }

    async def call_all(self, method: str, params: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
        """Everything that an administrator can ask, with one answer: HAProxy's. Raises `TimeoutError` after
        ``timeout`` seconds and `MisuseError` for what makes no sense.
        """
        async with asyncio.timeout(timeout):
            return [await self._asking.call(method, params)]

    # -- changing -----------------------------------------------------------------------------------------------------

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force; requests under way end as they began.

        Raises `MisuseError` for a change that needs a restart, and `HAProxyError` for what HAProxy refuses; the old
        configuration stays in force then.
        """
        _expect_ours(config)
        changes = await self.keeper.reload(config)
        if self._server is not None and config.admin is not None:
            self._server.options = config.admin
        return changes

    def reopen_log(self) -> None:
        """HAProxy is born with its log and cannot open it again. Raises `MisuseError` that says what to do."""
        raise MisuseError(
            "access_log: the engine haproxy cannot open it again; rotate by copy and truncate (logrotate: "
            "copytruncate), which loses nothing of a file that is appended to, or restart"
        )

    def begin_to_drain(self) -> None:
        """Drain, in the background, and tell whoever runs this."""
        if not self.draining:
            self.draining = True
            self.asked_to_drain()
            self._tasks.spawn(self.drain(), name="drain")

    async def drain(self, deadline: Duration | None = None) -> bool:
        """Take no more connections and let requests under way end, for ``deadline`` (the configuration's
        ``drain_timeout``) at most; what is left then is cut. True if nothing was.
        """
        keeper = self.keeper
        process = keeper.process
        most = keeper.config.gateway.drain_timeout
        given = most if deadline is None else min(most, duration(deadline, "deadline"))
        async with keeper.lock:
            self.draining = keeper.ending = True
        with contextlib.suppress(HAProxyError):  # its last numbers; it may be gone
            await keeper.collect()
        keeper.numbers.release()
        loop = asyncio.get_running_loop()
        until = loop.time() + given
        quiet = loop.time() + min(_QUIET, given / 2)
        process.signal(signal.SIGUSR1)
        whole = False
        while process.running and loop.time() < until:
            await asyncio.sleep(0.02)
            if loop.time() >= quiet and await process.idle():
                whole = True
                break
        whole = whole or not process.running
        await process.stop()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return whole

    def __repr__(self) -> str:
        return f"<HAProxyGateway {', '.join(map(str, self.addresses)) if self._sockets else 'not running'}>"


def _nothing() -> None:
    return None


def _expect_ours(config: Config) -> None:
    if config.engine.name != "haproxy":
        raise MisuseError(f'gateway: expected a configuration for the engine "haproxy", got {config.engine.name!r}')
