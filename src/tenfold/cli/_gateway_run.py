"""What ``tenfold gateway run`` does: a gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold._core.errors import TenfoldError
from tenfold._core.events import EVENTS
from tenfold._core.tasks import Tasks
from tenfold.gateway.config import Changes, Config, ConfigFile
from tenfold.gateway.config.read import EngineName
from tenfold.gateway.engine import Gateway
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded

if TYPE_CHECKING:
    from tenfold.gateway.haproxy import HAProxyGateway


def run(path: Path, engine: EngineName | None = None) -> int:
    """Serve until SIGTERM or SIGINT. 0: nothing was lost; 1: requests were cut at the end of the drain."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_serve(path, engine))
    return int(uvloop.run(_serve(path, engine)))


async def _serve(path: Path, engine: EngineName | None) -> int:
    file = ConfigFile(path, engine=engine)
    for warning in file.config.warnings:
        print(f"{warning} (warning)", file=sys.stderr)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    async with _engine(file.config) as gateway, Tasks("gateway command") as tasks:

        async def take(config: Config, changes: Changes) -> None:
            await gateway.reload(config)

        async def reload() -> None:
            try:
                await file.reload(take)
            except TenfoldError:
                return  # told by the event

        def hang_up() -> None:
            tasks.spawn(reload(), name="reload")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        with EVENTS.subscribe(ConfigRejected, _rejected), EVENTS.subscribe(ConfigReloaded, _reloaded):
            async with file.watching(take):
                where = ", ".join(map(str, gateway.addresses))
                print(f"tenfold: gateway on {where}; SIGHUP reloads, SIGTERM drains", flush=True)
                await stop.wait()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        whole = await gateway.drain()
    print("tenfold: gateway has stopped" + ("" if whole else "; requests were cut"), file=sys.stderr)
    return 0 if whole else 1


def _engine(config: Config) -> Gateway | HAProxyGateway:
    """What carries the configuration out."""
    if config.engine.name != "haproxy":
        return Gateway(config)
    from tenfold.gateway.haproxy import HAProxyGateway

    return HAProxyGateway(config)


def _rejected(event: ConfigRejected) -> None:
    print("\n".join(event.problems), file=sys.stderr, flush=True)


def _reloaded(event: ConfigReloaded) -> None:
    for line in event.changes:
        print(f"tenfold: {line}", file=sys.stderr, flush=True)
