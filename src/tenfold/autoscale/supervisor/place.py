"""Where workers listen: unix sockets in a directory of their own, or ports of 127.0.0.1 if paths would be too long."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.autoscale.supervisor.options import FleetError

HOST: Final = "127.0.0.1"
_LONGEST: Final = 103
"""Bytes of a unix socket's path: sun_path of macOS without its NUL; Linux has four more."""
_NUMBERS: Final = 8
"""Bytes that a worker's number may take in the path, beside ``.sock``."""
_TRIES: Final = 100
_PREFIX: Final = "tenfold-fleet-"


class Place:
    """A directory for the sockets of one fleet, below ``directory`` or the system's for temporary files, that nobody
    else can enter. `close` removes it and what is in it. Its owner holds a lock (flock) of it, which goes with the
    owner whatever ends that; the next one removes directories that nobody holds.

    Raises `MisuseError` for a directory in which none can be made.
    """

    def __init__(self, directory: Path | None) -> None:
        try:
            if directory is not None:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path, self._lock = _own((directory or Path(tempfile.gettempdir())).resolve())
        except OSError as error:
            raise MisuseError(
                f"directory: expected one in which sockets can be made, got {error}; name another one"
            ) from error
        self.path: Final = path
        self.tcp: Final = len(os.fsencode(self.path)) + len("/.sock") + _NUMBERS > _LONGEST
        """Whether workers listen on ports."""
        self._next = 1
        self._held: dict[str, socket.socket] = {}

    def next(self) -> tuple[str, str]:
        """A number never given before and the url for it, which is the caller's until `left`. A path at which something
        is already is passed over, and its number with it.

        Raises `FleetError` when nothing is free.
        """
        for _ in range(_TRIES):
            number, self._next = str(self._next), self._next + 1
            if self.tcp:
                held = _free_port()
                url = f"http://{HOST}:{held.getsockname()[1]}"
                self._held[url] = held
                return number, url
            url = f"unix://{self.path / number}.sock"
            if not os.path.lexists(_path(url)):
                return number, url
        raise FleetError(f"no free path for the socket of a worker in {_TRIES} tries; see what is in {self.path}")

    def left(self, url: str) -> None:
        """The worker there has ended: remove its socket, give its port back."""
        if url in self._held:
            self._held.pop(url).close()
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_path(url))

    def close(self) -> None:
        """Remove the directory, give back the ports."""
        for held in self._held.values():
            held.close()
        self._held.clear()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __repr__(self) -> str:
        return f"<Place {HOST if self.tcp else self.path}>"


def _own(base: Path) -> tuple[Path, int]:
    """A new directory below ``base`` and the descriptor that holds its lock. It gets its name when it is locked
    already, so that one which is being made is never taken for one that was left.
    """
    for each in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or somebody's who is alive
            lock = os.open(each, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(each, ignore_errors=True)
            finally:
                os.close(lock)
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
    lock = os.open(made, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return made.rename(base / made.name[1:]), lock


def accepts(url: str) -> bool:
    """Whether somebody listens there. Does not block: on one machine a connection is made or refused at once."""
    family = socket.AF_UNIX if url.startswith("unix:") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.1)  # for the full backlog of a worker that is stopped
        try:
            probe.connect(_path(url) if family == socket.AF_UNIX else (HOST, int(url.rpartition(":")[2])))
        except OSError:
            return False
        return True


def _path(url: str) -> str:
    return url.removeprefix("unix://")


def _free_port() -> socket.socket:
    """A port that nobody has, as a socket that holds it: the system gives it to nobody else then, and a worker can
    listen on it all the same, because both say SO_REUSEADDR and this one does not listen (socket(7)).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held
