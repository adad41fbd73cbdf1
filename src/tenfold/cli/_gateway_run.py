"""What ``tenfold gateway run`` does: a gateway until it is told to stop, in this process or in several."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS
from tenfold._core.tasks import Tasks
from tenfold.gateway.config import Changes, Config, ConfigFile, GatewayConfigError
from tenfold.gateway.config.read import EngineName
from tenfold.gateway.engine import Gateway
from tenfold.gateway.processes import (
    HandedOver,
    HandOverError,
    HandOverFailed,
    Inherited,
    Sockets,
    Supervisor,
    Telling,
    WorkersNotStartedError,
    hand_over,
)  # fmt: skip

if TYPE_CHECKING:
    from tenfold.gateway.haproxy import HAProxyGateway


def run(path: Path, engine: EngineName | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until another has taken over at SIGUSR2. 0: nothing was lost; 1: requests were
    cut at the end of the drain, or it could not start.

    Raises `GatewayConfigError` for a configuration that cannot be run.
    """
    try:
        inherited = Inherited()
    except MisuseError as error:
        print(f"tenfold: {error}", file=sys.stderr, flush=True)
        return 1
    try:
        file = ConfigFile(path, engine=engine)
        for warning in file.config.warnings:
            print(f"{warning} (warning)", file=sys.stderr)
        if file.config.engine.name == "haproxy":
            return asyncio.run(_serve(file, None, inherited))
        options = file.config.gateway
        admin = file.config.admin
        sockets = Sockets(
            options.listen, options.processes, inherited.sockets, admin=None if admin is None else admin.listen
        )
        for each in sockets.unclaimed:
            print(f"tenfold: nothing is configured to listen on the inherited socket {each}; closed", file=sys.stderr)
        try:
            return _run(file, sockets, inherited)
        finally:
            sockets.close()
    except GatewayConfigError:
        raise
    except (OSError, MisuseError, WorkersNotStartedError) as error:
        print(f"tenfold: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        inherited.close()


def _run(file: ConfigFile, sockets: Sockets, inherited: Inherited) -> int:
    serve = _serve(file, sockets, inherited)
    if file.config.gateway.processes > 1:
        return asyncio.run(serve)  # the supervisor, which serves no request
    try:
        import uvloop
    except ImportError:
        return asyncio.run(serve)
    return int(uvloop.run(serve))


async def _serve(file: ConfigFile, sockets: Sockets | None, inherited: Inherited) -> int:
    config = file.config
    stop = asyncio.Event()
    with Telling():
        running: Gateway | Supervisor | HAProxyGateway
        if sockets is None:
            from tenfold.gateway.haproxy import HAProxyGateway

            running = haproxy = HAProxyGateway(config)
            haproxy.asked_to_drain = stop.set
            haproxy.file = file
        elif config.gateway.processes > 1:
            running = supervisor = Supervisor(config, sockets, file=str(file.path))
            supervisor.asked_to_drain = stop.set
        else:
            running = gateway = Gateway(config, sockets=sockets.bound, admin=sockets.admin)
            gateway.file, stop = file, gateway.stopping  # which the admin API sets as well
        async with running, Tasks("gateway command") as tasks:

            async def take(config: Config, changes: Changes) -> None:
                await running.reload(config)

            async def reload() -> None:
                healed = bool(file.problems)
                try:
                    changes = await file.reload(take)
                except TenfoldError:
                    return  # told by the event
                if not changes and not healed:
                    print(f"tenfold: nothing has changed in {file.path}", file=sys.stderr, flush=True)

            async def reopen() -> None:
                if isinstance(running, Supervisor):
                    await running.reopen_log()
                    return
                try:
                    running.reopen_log()
                except MisuseError as error:
                    print(f"tenfold: {error}", file=sys.stderr, flush=True)

            async def restart() -> None:
                if sockets is None:  # HAProxy's sockets are its own
                    await reload()
                    return
                try:
                    pid = await hand_over(sockets.held)
                except HandOverError as error:
                    EVENTS.emit(HandOverFailed(str(error)))
                    return
                sockets.handed_over = True
                EVENTS.emit(HandedOver(pid))
                stop.set()

            def hand() -> None:
                if not stop.is_set() and (not restarting or restarting[-1].done()):
                    restarting[:] = [tasks.spawn(restart(), name="hot restart")]

            restarting: list[asyncio.Task[None]] = []
            acts: dict[signal.Signals, Callable[[], object]] = {
                signal.SIGTERM: stop.set,
                signal.SIGINT: stop.set,
                signal.SIGHUP: lambda: tasks.spawn(reload(), name="reload"),
                signal.SIGUSR1: lambda: tasks.spawn(reopen(), name="reopen"),
                signal.SIGUSR2: hand,
            }
            loop = asyncio.get_running_loop()
            for number, act in acts.items():
                loop.add_signal_handler(number, act)
            async with file.watching(take):
                where = ", ".join(map(str, running.addresses))
                admin = "" if running.admin is None else f"; admin on {running.admin}"
                print(f"tenfold: gateway on {where}; SIGHUP reloads, SIGTERM drains{admin}", flush=True)
                inherited.ready()
                await stop.wait()
            for number in acts:
                loop.remove_signal_handler(number)
                if number not in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)  # nothing more to do for it, and it is no reason to die
            whole = await running.drain()
    print("tenfold: gateway has stopped" + ("" if whole else "; requests were cut"), file=sys.stderr)
    return 0 if whole else 1
