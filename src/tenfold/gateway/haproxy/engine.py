"""`HAProxyGateway`: a configuration that an HAProxy carries out, kept as it should be while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import Tasks
from tenfold._core.units import Duration, duration
from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.admin import AdminServer
from tenfold.gateway.config import Address, Changes, Config, Pool, Router, diff, read_config
from tenfold.gateway.haproxy import runtime
from tenfold.gateway.haproxy.process import HAProxyError, Leaving, Process, check_file, check_version, find_binary
from tenfold.gateway.haproxy.render import Place, render
from tenfold.gateway.haproxy.secrets import secret, write_certificates
from tenfold.gateway.haproxy.servers import Override, Server, servers

_log: Final = logging.getLogger("tenfold.gateway")
_SAFE: Final = re.compile(r"/[A-Za-z0-9._/-]{1,90}")
_QUIET: Final = 0.5
_DISCOVERED: Final = 10.0
_BACKLOG: Final = 4096
_LEAVING: Final = 16
"""Workers that end, whose last numbers are waited for."""


class HAProxyGateway:
    """A reverse proxy that is an HAProxy, driven from the running event loop. Used as `Gateway` is, and asked as
    `Workers` are (`call_all`).

    Raises `MisuseError` for a configuration of another engine or where there is no HAProxy, `HAProxyError` for what
    HAProxy refuses, and `OSError` where it cannot listen.
    """

    count = 1

    def __init__(self, config: Config) -> None:
        _expect_ours(config)
        self.config = config
        self.binary: Final = find_binary(config.engine.binary)
        self.overrides: dict[tuple[str, str], Override] = {}
        self.reloads = self.restarts = 0
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._discoveries: dict[str, asyncio.Task[None]] = {}
        self._sockets: list[socket.socket] = []
        self._lock = asyncio.Lock()
        self._tasks = Tasks("haproxy")
        self._totals = runtime.Totals()
        self._rows: list[dict[str, str]] = []
        self._output = -1
        self._leaving: list[Leaving] = []
        self._own_directory = config.engine.directory is None
        self._process: Process | None = None
        self._draining = False
        self._server: AdminServer | None = None
        self.asked_to_drain: Callable[[], object] = _nothing
        """Called when an administrator says drain."""
        self.problem = ""
        """Why the last comparison failed; empty while all is well."""

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> HAProxyGateway:
        if self._process is not None:
            raise MisuseError("gateway: it was entered before; make one gateway for each block")
        await asyncio.to_thread(check_version, self.binary)
        async with contextlib.AsyncExitStack() as stack:
            directory = await asyncio.to_thread(self._make_directory)
            stack.callback(self._remove, directory)
            self._open()
            process = self._process = Process(
                self.binary, directory, [each.fileno() for each in self._sockets], self._output
            )
            stack.push_async_callback(process.stop)
            await stack.enter_async_context(self._tasks)
            await self._discover(self.config)
            await self._write(self.config)
            await process.start()
            await self._collect()
            self._tasks.spawn(self._reconcile_for_ever(), name="reconcile")
            if self.config.admin is not None:
                self._server = await stack.enter_async_context(AdminServer(self.config.admin, self))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _make_directory(self) -> str:
        given = self.config.engine.directory
        directory = tempfile.mkdtemp(prefix="tenfold-haproxy-") if given is None else os.path.abspath(given)
        if _SAFE.fullmatch(directory) is None:
            raise MisuseError(
                f"engine.directory: expected a path of up to 90 letters, digits, '.', '_', '-' and '/', "
                f"got {directory!r}"
            )
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        return directory

    def _remove(self, directory: str) -> None:
        for leaving in self._leaving:
            leaving.close()
        for address, each in zip(self.config.gateway.listen, self._sockets, strict=False):
            each.close()
            if address.path:
                Path(address.path).unlink(missing_ok=True)
        if self._output > 2:
            os.close(self._output)
        if self._own_directory:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            for name in ("haproxy.cfg", "haproxy.cfg.new", "master.sock", "stats.sock", "messages", "certificates"):
                Path(directory, name).unlink(missing_ok=True)
            for pem in Path(directory).glob("*.pem"):
                pem.unlink()

    def _open(self) -> None:
        """The sockets and the log, which HAProxy is born with."""
        for address in self.config.gateway.listen:
            self._sockets.append(_listening(address))
        log = self.config.gateway.access_log
        if log is None:
            self._output = os.open(os.devnull, os.O_WRONLY)
        elif log.path == "-":
            self._output = os.dup(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
        else:
            self._output = os.open(log.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    @property
    def admin(self) -> Address | None:
        """Where the admin API listens; None where there is none."""
        return None if self._server is None else self._server.address

    def _running(self) -> Process:
        if self._process is None:
            raise MisuseError("gateway: it is not running; use it as `async with HAProxyGateway(config) as gateway:`")
        return self._process

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the ports that the system chose."""
        found = []
        for address, each in zip(self.config.gateway.listen, self._sockets, strict=True):
            found.append(address if address.path else Address(address.host, each.getsockname()[1]))
        return tuple(found)

    @property
    def pid(self) -> int:
        """Of HAProxy's master."""
        return self._running().pid

    def state(self) -> dict[str, Any]:
        """Pools and their endpoints as they were told of last, as plain values ready for JSON."""
        now = {(row["pxname"], row["svname"]): row for row in self._rows}
        pools: dict[str, Any] = {}
        for pool in self.config.pools:
            endpoints: dict[str, dict[str, Any]] = {}
            for server in self._wanted(pool):
                row = now.get((f"pool.{pool.name}", server.name), {})
                backend, name = f"pool.{pool.name}", server.name
                endpoints[server.id] = {
                    "address": server.address,
                    "state": server.state,
                    "status": row.get("status", "unknown"),
                    "ready": runtime.up(row),
                    "weight": server.weight,
                    "in_flight": int(row.get("scur") or 0),
                    "requests": self._totals.get(backend, name, "stot"),
                    "failures": sum(self._totals.get(backend, name, column) for column in ("econ", "eresp")),
                }
            queued = int(now.get((f"pool.{pool.name}", "BACKEND"), {}).get("qcur") or 0)
            ready = sum(each["ready"] for each in endpoints.values())
            pools[pool.name] = {"pick": str(pool.pick), "ready": ready, "queued": queued, "endpoints": endpoints}
        process = self._running()
        total = self._totals.get
        return {
            "engine": "haproxy",
            "pid": process.pid,
            "listen": [str(address) for address in self.addresses],
            "draining": self._draining,
            "clients": int(now.get(("in", "FRONTEND"), {}).get("scur") or 0),
            "counters": {
                "requests": total("in", "FRONTEND", "req_tot"),
                "accepted": total("in", "FRONTEND", "conn_tot"),
                "bytes_in": total("in", "FRONTEND", "bin"),
                "bytes_out": total("in", "FRONTEND", "bout"),
                "refused": total("in", "FRONTEND", "ereq"),
                **{f"answered_{n}xx": total("in", "FRONTEND", f"hrsp_{n}xx") for n in range(1, 6)},
                "reloads": self.reloads,
                "restarts": self.restarts,
            },
            "pools": pools,
            "problem": self.problem,
        }

    def _wanted(self, pool: Pool) -> tuple[Server, ...]:
        return servers(pool, self._endpoints[pool.name], self.overrides, self._running().directory)

    async def _collect(self) -> None:
        """Take what all workers have counted."""
        process = self._running()
        info, _, rows = (await process.command("show info; show stat")).partition("\n\n")
        pid = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:"))
        self._rows = runtime.table(rows)
        self._totals.feed(pid, self._rows)
        for leaving in list(self._leaving):
            if leaving.pid == pid:
                continue
            try:
                last = runtime.table(await leaving.ask("show stat"))
            except HAProxyError:
                over = True  # cut at the end of its time
            else:
                self._totals.feed(leaving.pid, last)
                over = all(row["scur"] == "0" for row in last if (row["pxname"], row["svname"]) == ("in", "FRONTEND"))
            if over:
                leaving.close()
                self._leaving.remove(leaving)
        self._totals.keep([pid, *(each.pid for each in self._leaving)])

    # -- discovery ----------------------------------------------------------------------------------------------------

    async def _discover(self, config: Config) -> None:
        """Have endpoints of all pools; of those that are discovered, a first set. Raises `HAProxyError`."""
        for name in [name for name in self._discoveries if name not in {pool.name for pool in config.pools}]:
            self._discoveries.pop(name).cancel()
        before = {pool.name: pool.discovery for pool in self.config.pools}
        for pool in config.pools:
            if pool.discovery is None:
                self._endpoints[pool.name] = pool.endpoints
            if pool.name in self._discoveries and before.get(pool.name) != pool.discovery:
                self._discoveries.pop(pool.name).cancel()
            if pool.discovery is not None and pool.name not in self._discoveries:
                first = asyncio.Event()
                work = self._watch(pool, first)
                self._discoveries[pool.name] = self._tasks.spawn(work, name=f"discover-{pool.name}")
                try:
                    async with asyncio.timeout(_DISCOVERED):
                        await first.wait()
                except TimeoutError as exc:
                    self._discoveries.pop(pool.name).cancel()
                    raise HAProxyError(f"pool {pool.name}: {pool.discovery} told no endpoints in time") from exc

    async def _watch(self, pool: Pool, first: asyncio.Event) -> None:
        assert pool.discovery is not None  # asked by the caller
        async with contextlib.aclosing(pool.discovery.make().changes()) as changes:
            async for endpoints in changes:
                self._endpoints[pool.name] = tuple(endpoints)
                if first.is_set():
                    async with self._lock:
                        await self._told()
                first.set()

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _write(self, config: Config) -> str:
        """Let HAProxy judge the file, and put it where the next worker reads it. Returns what stood there."""
        process = self._running()
        place = Place(process.directory, tuple(each.fileno() for each in self._sockets))
        text = render(config, self._endpoints, self.overrides, place)
        return await asyncio.to_thread(self._put, config, text, process)

    def _put(self, config: Config, text: str, process: Process) -> str:
        write_certificates(config, process.directory)
        new = f"{process.file}.new"
        before = Path(process.file).read_text() if os.path.exists(process.file) else ""
        secret(new, text)
        check_file(self.binary, new, [each.fileno() for each in self._sockets])
        os.replace(new, process.file)
        return before

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force; requests under way end as they began.

        Raises `MisuseError` for a change that needs a restart, and `HAProxyError` for what HAProxy refuses; the old
        configuration stays in force then.
        """
        process = self._running()
        async with self._lock:
            _expect_ours(config)
            changes = diff(self.config, config)
            fixed = [*changes.restart, *(each for each in changes.settings if each.key == "gateway.access_log")]
            if fixed:
                told = "; ".join(map(str, fixed))
                raise MisuseError(f"reload: expected changes that a running gateway can make, got {told}; restart it")
            had = dict(self._endpoints)
            try:
                await self._discover(config)
                before = await self._write(config)
                try:
                    await self._again()
                except HAProxyError:
                    secret(process.file, before)
                    raise
            except BaseException:
                self._endpoints = had
                raise
            self.config = config
            self.reloads += 1
            names = {pool.name for pool in config.pools}
            self._endpoints = {name: each for name, each in self._endpoints.items() if name in names}
            known = {(name, each.id) for name, several in self._endpoints.items() for each in several}
            self.overrides = {key: each for key, each in self.overrides.items() if key in known}
            await self._compare()
            await self._collect()
            return changes

    async def _told(self) -> None:
        """Endpoints or their weights are others: the file first, then the worker."""
        await self._write(self.config)
        await self._compare()

    async def _compare(self) -> None:
        """Make the worker's servers those that are wanted; by a reload where commands cannot."""
        process = self._running()
        has = runtime.present(await process.command("show servers state"))
        for pool in self.config.pools:
            backend = f"pool.{pool.name}"
            wanted = self._wanted(pool)
            known = has.get(backend, {})
            moved = any(
                server.numeric and not server.address.startswith("unix@") and server.name in known
                and known[server.name].address != server.address.removeprefix("ipv6@").replace("[", "").replace("]", "")
                for server in wanted
            )  # fmt: skip
            if moved or any(not server.numeric and server.name not in known for server in wanted):
                await self._again()
                return
            for command in runtime.commands(backend, wanted, known):
                said = await process.command(command)
                if command.startswith("add server") and "registered" not in said:
                    _log.info("haproxy: %s: %s; reloading", command, said)
                    await self._again()
                    return

    async def _again(self) -> None:
        """Another worker."""
        process = self._running()
        leaving = await Leaving.of(process.directory)
        try:
            await process.reload()
        except BaseException:
            leaving.close()
            raise
        self._leaving.append(leaving)
        while len(self._leaving) > _LEAVING:
            self._leaving.pop(0).close()

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.config.engine.reconcile)
            try:
                async with self._lock:
                    await self._reconcile()
                self.problem = ""
            except (HAProxyError, OSError, TimeoutError) as exc:
                if str(exc) != self.problem:
                    _log.error("haproxy: %s", exc)
                self.problem = str(exc) or type(exc).__name__

    async def _reconcile(self) -> None:
        process = self._running()
        if self._draining:
            return
        if not process.running:
            _log.error("haproxy: it has ended by itself (%s); starting it again", process.messages())
            await process.start()
            self.restarts += 1
        await self._compare()
        await self._collect()

    async def drain(self, deadline: Duration | None = None) -> bool:
        """Take no more connections and let requests under way end, for ``deadline`` (the configuration's
        ``drain_timeout``) at most; what is left then is cut. True if nothing was.
        """
        process = self._running()
        most = self.config.gateway.drain_timeout
        given = most if deadline is None else min(most, duration(deadline, "deadline"))
        async with self._lock:
            self._draining = True
        with contextlib.suppress(HAProxyError):  # its last numbers; it may be gone
            await self._collect()
        for leaving in self._leaving:
            leaving.close()
        self._leaving.clear()
        loop = asyncio.get_running_loop()
        until = loop.time() + given
        quiet = loop.time() + min(_QUIET, given / 2)
        process.signal(signal.SIGUSR1)
        whole = False
        while process.running and loop.time() < until:
            await asyncio.sleep(0.02)
            if loop.time() >= quiet and await self._idle(process):
                whole = True
                break
        whole = whole or not process.running
        await process.stop()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return whole

    async def _idle(self, process: Process) -> bool:
        """Whether no worker has a request under way."""
        try:
            present, old = await process.workers()
            for pid in (*present, *old):
                streams = await process.master(f"@!{pid} show sess")
                if any("fe=in " in f"{line} " for line in streams.splitlines()):
                    return False
        except HAProxyError:
            return not process.running
        return True

    # -- asking -------------------------------------------------------------------------------------------------------

    async def call_all(self, method: str, params: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
        """Everything that an administrator can ask, with one answer: HAProxy's. Raises `TimeoutError` after
        ``timeout`` seconds and `MisuseError` for what makes no sense.
        """
        found = _METHODS.get(method)
        if found is None:
            raise MisuseError(f"method: expected one of {', '.join(_METHODS)}, got {method!r}")
        async with asyncio.timeout(timeout):
            return [await found(self, params)]

    async def _state(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._collect()
        return self.state()

    async def _metrics(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._collect()
        wanted = {pool.name: self._wanted(pool) for pool in self.config.pools}
        edge = any(route.edge is not None for route in self.config.routes)
        return {"metrics": runtime.samples(self._rows, self._totals, wanted, edge, self.reloads)}

    async def _config(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"config": self.config.document()}

    async def _purge(self, params: dict[str, Any]) -> dict[str, Any]:
        raise MisuseError(
            "purge: the engine haproxy has no purge; its cache forgets by time, and all of it at a reload"
        )

    async def _endpoint(self, params: dict[str, Any]) -> dict[str, Any]:
        name, id = params.get("pool"), params.get("id")
        if name not in self._endpoints:
            raise MisuseError(f"pool: expected one of {', '.join(self._endpoints) or 'none'}, got {name!r}")
        known = [each.id for each in self._endpoints[name]]
        if id not in known:
            raise MisuseError(f"id: expected one of {', '.join(known) or 'none'}, got {id!r}")
        states = [each for each in ("ready", "drain", "maint") if each in params]
        if len(states) + ("weight" in params) == 0 or len(states) > 1:
            raise MisuseError(f"endpoint: expected a weight or one of ready, drain and maint, got {params!r}")
        weight = params.get("weight")
        if weight is not None and (type(weight) not in (int, float) or not 0 <= weight < inf):
            raise MisuseError(f"weight: expected a number >= 0, or null for the declared one, got {weight!r}")
        for each in states:
            if params[each] is not True:
                raise MisuseError(f"{each}: expected true, got {params[each]!r}")
        async with self._lock:
            override = self.overrides.setdefault((str(name), str(id)), Override())
            if "weight" in params:
                override.weight = weight
            if states:
                override.state = states[0]
            await self._told()
            await self._collect()
        return {"pool": name, "id": id, **self.state()["pools"][name]["endpoints"][id]}

    async def _explain(self, params: dict[str, Any]) -> dict[str, Any]:
        url, method = params.get("url"), params.get("method", "GET")
        if not isinstance(url, str) or not isinstance(method, str):
            raise MisuseError(f"explain: expected texts for url and method, got {url!r} and {method!r}")
        host, _, path = url.partition("://")[2].partition("/") if "://" in url else ("", "", url.removeprefix("/"))
        headers = {str(each).lower(): str(value) for each, value in (params.get("headers") or {}).items()}
        route = Router(self.config.routes).match(
            method, host or headers.get("host", ""), "/" + path.partition("?")[0], headers
        )
        if route is None:
            return {"route": None, "why": "no route is for this request"}
        found: dict[str, Any] = {"route": route.name, "pool": route.pool}
        if route.pool is not None:
            found["endpoints"] = self.state()["pools"][route.pool]["endpoints"]
            found["why"] = f"HAProxy picks by {self.config.pool(route.pool).pick}, and does not tell in advance"
        return found

    async def _reload(self, params: dict[str, Any]) -> dict[str, Any]:
        text = params.get("toml")
        if not isinstance(text, str):
            raise MisuseError("reload: expected the text of a configuration in toml")
        return {"changes": list((await self.reload(read_config(text, "reload", engine="haproxy"))).lines())}

    async def _drain(self, params: dict[str, Any]) -> dict[str, Any]:
        if not self._draining:
            self._draining = True
            self.asked_to_drain()
            self._tasks.spawn(self.drain(), name="drain")
        return {"draining": True}

    def __repr__(self) -> str:
        return f"<HAProxyGateway {', '.join(map(str, self.addresses)) or 'not running'}>"


def _nothing() -> None:
    return None


_METHODS: Final[dict[str, Any]] = {
    "state": HAProxyGateway._state,
    "metrics": HAProxyGateway._metrics,
    "purge": HAProxyGateway._purge,
    "endpoint": HAProxyGateway._endpoint,
    "explain": HAProxyGateway._explain,
    "config": HAProxyGateway._config,
    "reload": HAProxyGateway._reload,
    "drain": HAProxyGateway._drain,
}


def _listening(address: Address) -> socket.socket:
    if address.path:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        Path(address.path).unlink(missing_ok=True)
        where: Any = address.path
    else:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(where)
        found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    return found


def _expect_ours(config: Config) -> None:
    if config.engine.name != "haproxy":
        raise MisuseError(f'gateway: expected a configuration for the engine "haproxy", got {config.engine.name!r}')
