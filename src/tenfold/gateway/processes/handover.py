"""Hot restart: another process takes the listening sockets over, and the one that had them drains.

Theory. A socket that listens lives as long as any process holds it, and its queue with it. So the new gateway is
started with the sockets open, says that it serves, and only then the old one stops to accept: at no instant does nobody
accept, and who waits in the queue is accepted by either. This is what nginx does on SIGUSR2 and gunicorn after it.
The sockets come to the new process as systemd's come to a service (sd_listen_fds(3)): from descriptor 3 on,
``LISTEN_FDS`` of them, meant for the process ``LISTEN_PID``. As nobody knows a process's id before it runs, a hand-over
says its own id there, and beside it in ``TENFOLD_READY_FD`` which descriptor is to be told that the new one serves;
the new one takes the sockets if they are meant for itself or come from its parent in that way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import MutableMapping, Sequence
from typing import Final

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold.gateway.processes.sockets import taken

FIRST: Final = 3
READY: Final = b"ready\n"
_READY_FD: Final = "TENFOLD_READY_FD"
_NAMES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", _READY_FD)
_END: Final = 5.0
_LOOK: Final = 0.02


class HandOverError(TenfoldError):
    """The new process did not come to serve. The old one goes on."""


class Inherited:
    """What this process was started with: ``sockets`` that listen, by systemd or an older gateway, which waits to be
    told that this one serves (`ready`). Takes the variables out of ``environ``, so that they go no further.

    Raises `MisuseError` for descriptors that are none or no such sockets.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        given = {name: environ.pop(name) for name in _NAMES if name in environ}
        self.sockets: list[socket.socket] = []
        self._ready: int | None = None
        try:
            count, meant = int(given.get("LISTEN_FDS", "0")), int(given.get("LISTEN_PID", "0"))
            ready = int(given[_READY_FD]) if _READY_FD in given else None
        except ValueError:
            raise MisuseError(f"inherited sockets: expected whole numbers, got {given}") from None
        if meant == os.getpid() or (ready is not None and meant == os.getppid()):
            self._ready = ready
            if ready is not None:
                os.set_inheritable(ready, False)
            self.sockets = taken(range(FIRST, FIRST + count))

    def ready(self) -> None:
        """Tell who waits for it that this process serves: the older gateway, and systemd (``Type=notify``)."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            try:
                with contextlib.suppress(BrokenPipeError):  # it has gone in the meantime; the sockets are here
                    os.write(ready, READY)
            finally:
                os.close(ready)
        where = os.environ.get("NOTIFY_SOCKET", "")
        if where:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
                service.connect("\0" + where[1:] if where[0] == "@" else where)
                service.send(f"READY=1\nMAINPID={os.getpid()}".encode())

    def close(self) -> None:
        """Let go of the descriptor of an older gateway that was never told."""
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None


async def hand_over(
    sockets: Sequence[socket.socket], *, timeout: float = 60.0, command: Sequence[str] | None = None
) -> int:
    """Start ``command`` (default: this process's own) with these sockets, and wait until it says that it serves. Its
    process id; it is on its own from then on.

    Raises `HandOverError` where it ends before, or ``timeout`` seconds pass; it is stopped then.
    """
    argv = [sys.executable, *sys.orig_argv[1:]] if command is None else list(command)
    said, says = os.pipe()
    last = FIRST + len(sockets)
    high: list[int] = []
    try:
        high += [  # so that no copy overwrites another
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, last + 1) for each in (*(made.fileno() for made in sockets), says)
        ]
        environ = {
            **os.environ,
            "LISTEN_FDS": str(len(sockets)), "LISTEN_PID": str(os.getpid()), _READY_FD: str(last),
        }  # fmt: skip
        actions = [(os.POSIX_SPAWN_DUP2, each, FIRST + number) for number, each in enumerate(high)]
        # Not `subprocess`: what stands for a child there kills it when it is collected, and this one outlives us.
        pid = os.posix_spawn(argv[0], argv, environ, file_actions=actions)  # noqa: ASYNC221 - it waits for nothing
    except OSError as error:
        os.close(said)
        raise HandOverError(f"{argv[0]} could not be started: {error.strerror}") from error
    finally:
        os.close(says)
        for each in high:
            os.close(each)
    heard: bytes | None = None
    try:
        async with asyncio.timeout(timeout):
            heard = await _heard(said)
        if heard == READY:
            return pid
        reason = "it ended before it served; what it says is on standard error"
    except TimeoutError:
        reason = f"it did not serve within {timeout:g} s"
    except BaseException:
        await _stop(pid)
        raise
    finally:
        os.close(said)
    code = await _stop(pid, by_itself=heard == b"")
    raise HandOverError(f"process {pid}: {reason} (exit code {code})")


async def _heard(descriptor: int) -> bytes:
    """What comes out of a pipe first: empty, if it is closed."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, len(READY))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _stop(pid: int, *, by_itself: bool = False) -> int:
    """Its exit code, once it has ended; it gets a few seconds for that, and is told to unless it does ``by_itself``."""
    loop = asyncio.get_running_loop()
    if not by_itself:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = loop.time() + _END
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        if found:
            return os.waitstatus_to_exitcode(status)
        if loop.time() > until:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK)
