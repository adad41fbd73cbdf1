"""The worker: one ASGI app in one server, one process, one event loop. Started by `process`, ends with who started it.

Theory. A worker whose supervisor is gone serves nobody: no front sends it requests and nobody would ever end it. A
supervisor that was killed can tell nobody, so the worker watches. On Linux the kernel does (prctl PR_SET_PDEATHSIG);
everywhere the other end of the line does: it is closed when its owner dies, however it dies, and a thread that reads
from it wakes up. It must not be the event loop that reads, because that may be blocked, which is when it matters.

The other way the line carries signs of life: a byte now and then, sent by the event loop, so that a loop that does not
turn (stopped, blocked, dead-locked) sends none. That is what gunicorn's workers tell with the time of a file.

granian runs as its embedded server, because its own supervisor would put a second one beside ours, with a process more
for each worker and nobody to end the inner one when the outer is killed. It is called experimental there; measured, it
takes no more processor time for a request than granian's own workers do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_BACKLOG: Final = 1024


def main(arguments: Sequence[str]) -> None:
    """Serve until told to end by SIGTERM."""
    parser = argparse.ArgumentParser(prog="tenfold.autoscale.supervisor.worker")
    parser.add_argument("app")
    parser.add_argument("--factory", action="store_true")
    parser.add_argument("--server", choices=("granian", "uvicorn"), required=True)
    parser.add_argument("--app-dir", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--drain", type=float, required=True)
    parser.add_argument("--beat", type=float, required=True)
    parser.add_argument("--line", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    told = parser.parse_args(arguments)
    line = socket.socket(fileno=told.line)
    end_with(told.parent, line)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to act on
    app = load(told.app, told.app_dir, factory=told.factory)
    serve = _uvicorn if told.server == "uvicorn" else _granian
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(serve(app, told.url, told.drain), line, told.beat))


def end_with(parent: int, line: socket.socket) -> None:
    """End this process by force when ``parent`` dies or the other end of ``line`` is closed."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while line.recv(4096):
                pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="tenfold: end with the supervisor", daemon=True).start()


def load(app: str, app_dir: str, *, factory: bool) -> Any:
    """The application ``"module:attribute"``, found in ``app_dir`` first."""
    sys.path.insert(0, str(Path(app_dir).resolve()))
    module, _, attributes = app.partition(":")
    found: Any = importlib.import_module(module)
    for each in attributes.split("."):
        found = getattr(found, each)
    return found() if factory else found


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(serving: Any, line: socket.socket, every: float) -> None:
    beating = asyncio.get_running_loop().create_task(_beat(line, every))
    try:
        await serving
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def _beat(line: socket.socket, every: float) -> None:
    while True:
        # A full line has signs enough in it, and of a broken one the thread takes notice.
        with contextlib.suppress(OSError):
            line.send(b".", socket.MSG_DONTWAIT)
        await asyncio.sleep(every)


async def _uvicorn(app: Any, url: str, drain: float) -> None:
    import uvicorn

    where: dict[str, Any] = {"uds": _path(url)} if _path(url) else {"host": "127.0.0.1", "port": _port(url)}
    config = uvicorn.Config(
        app, **where, interface="asgi3", access_log=False, log_level="warning", backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(drain)), proxy_headers=True, forwarded_allow_ips="*",
    )  # fmt: skip
    await uvicorn.Server(config).serve()


async def _granian(app: Any, url: str, drain: float) -> None:
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server.embed import Server
    from granian.utils.proxies import wrap_asgi_with_proxy_headers

    where: dict[str, Any] = {"uds": Path(_path(url))} if _path(url) else {"address": "127.0.0.1", "port": _port(url)}
    server = Server(
        wrap_asgi_with_proxy_headers(app, trusted_hosts="*"), **where, interface=Interfaces.ASGI, backlog=_BACKLOG,
        log_level=LogLevels.error, log_access=False,
    )  # fmt: skip
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    try:
        await server.serve()
    except RuntimeError as error:  # of its listener; the lines after the first are Rust's stack
        sys.exit(f"granian cannot serve at {url}: {str(error).partition(chr(10))[0]}")


def _path(url: str) -> str:
    return url.removeprefix("unix://") if url.startswith("unix:") else ""


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


if __name__ == "__main__":
    main(sys.argv[1:])
