"""What HAProxy is born with: a folder of its own, listening sockets, and where the access log goes.

Theory. A folder that nobody named is temporary, and belongs to the process that holds the lock (flock) of its file
``owner``. The lock goes with its holder whatever ends it, SIGKILL too, and cannot pass to a stranger with the same
process id; so a folder whose lock can be taken is nobody's, and the next start removes it. The file gets its name when
it is locked already, so that a folder which is being made is never taken for one that was left.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import AccessLog, Address

_log: Final = logging.getLogger("tenfold.gateway")
PREFIX: Final = "tenfold-haproxy-"
_SAFE: Final = re.compile(r"/[A-Za-z0-9._/-]{1,80}")
_BACKLOG: Final = 4096
_OURS: Final = (
    "haproxy.cfg", "haproxy.cfg.new", "master.sock", "stats.sock", "messages", "certificates", "servers.state", "owner"
)  # fmt: skip


class Home:
    """The folder: ``given``, or a temporary one, which is gone afterwards. Blocks; raises `MisuseError` for a path that
    HAProxy's sockets cannot have or where another gateway lives, and `OSError`.
    """

    def __init__(self, given: str | None) -> None:
        self._temporary: Final = given is None
        if given is None:
            sweep()
        directory = tempfile.mkdtemp(prefix=PREFIX) if given is None else os.path.abspath(given)
        if _SAFE.fullmatch(directory) is None:
            raise MisuseError(
                f"engine.directory: expected a path of up to 80 letters, digits, '.', '_', '-' and '/', "
                f"got {directory!r}"
            )
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        self.directory: Final = directory
        self._lock: Final = self._own()

    def _own(self) -> int:
        owner = f"{self.directory}/owner"
        if not self._temporary and os.path.exists(owner):
            fd = os.open(owner, os.O_RDWR)
            if not _locked(fd):
                os.close(fd)
                raise MisuseError(f"engine.directory: expected a folder of its own, {self.directory} is another's")
            return fd
        fd = os.open(f"{owner}.new", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(f"{owner}.new", owner)
        return fd

    def remove(self) -> None:
        """Leave nothing of it; of a folder that was given, the files that were put there."""
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            for name in _OURS:
                Path(self.directory, name).unlink(missing_ok=True)
            for pem in Path(self.directory).glob("*.pem"):
                pem.unlink()
        os.close(self._lock)


def _locked(fd: int) -> bool:
    """Whether the lock could be taken."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep() -> list[str]:
    """Remove temporary folders of this user whose owner was killed; returns them. Blocks."""
    found = []
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner"):
        try:
            if owner.stat().st_uid != os.geteuid():
                continue
            fd = os.open(owner, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # it is being removed, or somebody else's
        try:
            if _locked(fd):
                shutil.rmtree(owner.parent, ignore_errors=True)
                found.append(str(owner.parent))
                _log.info("haproxy: removed %s, whose owner had been killed", owner.parent)
        finally:
            os.close(fd)
    return found


def listening(address: Address) -> socket.socket:
    """A socket that listens there. Raises `OSError`."""
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


def log_output(log: AccessLog | None) -> int:
    """The descriptor that HAProxy writes its lines to. Raises `OSError`."""
    if log is None:
        return os.open(os.devnull, os.O_WRONLY)
    if log.path == "-":
        return os.dup(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
    return os.open(log.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
