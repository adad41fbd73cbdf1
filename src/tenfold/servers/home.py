"""The folder that holds everything: templates, staged binaries, and one folder for each run of servers.

It is ``$TENFOLD_STATE``, else ``$XDG_STATE_HOME/tenfold``, else ``~/.local/state/tenfold``. PostgreSQL
refuses to run as root, so root runs the servers as an account without rights, and that account must be able
to reach the files. Where root's folder lies below one that the account may not enter (``/root`` is mode 700),
everything lies in ``/var/lib/tenfold/NAME`` instead (``/var/tmp/tenfold/NAME`` where ``/var/lib`` cannot be
written); NAME is derived from the folder asked for, so that two different ones stay apart.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenfold.servers.errors import DiskFullError, ServersError
from tenfold.servers.locate import Binaries
from tenfold.servers.process import identify

STATE_VARIABLE: Final = "TENFOLD_STATE"

# `nobody` owns nothing. The account `postgres` may own a real database, which a throwaway server that trusts
# every local connection could then read through COPY ... FROM PROGRAM; so it comes last.
_ACCOUNTS: Final = ("nobody", "daemon", "postgres")
_SHARED_ROOTS: Final = ("/var/lib/tenfold", "/var/tmp/tenfold")
_OWN_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the servers run under when this process is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder and the account of its servers; ``account`` is None unless this process is root."""

    path: Path
    account: Account | None

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def templates(self) -> Path:
        return self.path / "templates"

    @property
    def binaries(self) -> Path:
        return self.path / "bin"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder on the same disk, gone at the end unless it was renamed.

        Dead makers' ones are removed too.
        """
        top = _own(self.path / "tmp")
        for leftover in top.iterdir():
            pid, _, _ = leftover.name.partition("-")
            if not pid.isdigit() or not leftover.name.startswith(_maker(int(pid))):
                shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_maker(os.getpid()), dir=top))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def give(self, path: Path) -> None:
        """Hand a folder to the servers' account."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def staged(self, binaries: Binaries) -> Binaries:
        """The same binaries at a place where the servers' account can run them:

        a copy, made once, if it has to be.
        """
        if self.account is None or all(reachable(part, self.account) for part in (binaries.program, *binaries.parts)):
            return binaries
        program = binaries.program.resolve()
        mark = f"{program}:{program.stat().st_mtime_ns}".encode()
        place = _own(self.binaries) / hashlib.blake2b(mark, digest_size=8).hexdigest()
        copy = Binaries(
            place / binaries.program.relative_to(binaries.root),
            place,
            tuple(place / part.relative_to(binaries.root) for part in binaries.parts),
        )
        if place.exists():
            return copy
        try:
            with self.scratch() as scratch:
                for part in binaries.parts:
                    target = scratch / "copy" / part.relative_to(binaries.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if part.is_dir():
                        shutil.copytree(part, target, symlinks=True)
                    else:
                        shutil.copy2(part, target)
                _open_to_all(scratch / "copy")
                _into_place(scratch / "copy", place)
        except (OSError, shutil.Error) as error:
            raise translate(error, place, "copying the servers' binaries") from error
        return copy


def open_home(state: str | os.PathLike[str] | None = None) -> Home:
    """Find and make the state folder; ``state`` overrides the environment.

    Raises `ServersError` when it cannot be used.
    """
    wanted = _wanted(state)
    account = _account()
    try:
        if account is None or _enterable(wanted, account):
            return Home(_own(wanted), account)
        name = hashlib.blake2b(os.fsencode(wanted), digest_size=6).hexdigest()
        for root in _SHARED_ROOTS:
            if os.access(Path(root).parent, os.W_OK):
                return Home(_own(_own(Path(root)) / name), account)
    except OSError as error:
        raise translate(error, wanted, "making the state folder") from error
    raise ServersError(
        f"no folder was found that the account {account.name} can enter: "
        f"set {STATE_VARIABLE} to one that does not lie below a mode-700 folder"
    )


def reachable(path: Path, account: Account) -> bool:
    """Whether the account may enter every folder above ``path`` and read and execute ``path`` itself."""
    return _enterable(path.parent, account) and _may(path, account, stat.S_IROTH | stat.S_IXOTH)


def translate(error: OSError, path: Path, doing: str) -> ServersError:
    """The one sentence for a failed file operation."""
    text = str(error)
    if "No space left" in text or "quota" in text:
        return DiskFullError(path, error.strerror or "no space left on the device")
    return ServersError(
        f"{doing} failed at {error.filename or path}: {error.strerror or text}; check rights and {STATE_VARIABLE}"
    )


def _maker(pid: int) -> str:
    """How the names of this process's scratch folders begin; of a dead one's none does."""
    maker = identify(pid)
    return "dead" if maker is None else f"{pid}-{maker.started.replace(' ', '_')}-"


def _wanted(state: str | os.PathLike[str] | None) -> Path:
    chosen = state or os.environ.get(STATE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    # The XDG specification: a path that is not absolute is to be ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path("~/.local/state").expanduser()
    return folder.absolute() / "tenfold"


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServersError(
        f"PostgreSQL refuses to run as root and none of the accounts {', '.join(_ACCOUNTS)} exists: "
        f"make one of them, or run as an ordinary user"
    )


def _own(path: Path) -> Path:
    """Make a folder that is ours and that others may only enter; refuse one that somebody else has made."""
    for _ in range(_OWN_TRIES):
        try:
            facts = path.lstat()
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o755, exist_ok=True)
            path.chmod(0o755)
            continue
        if stat.S_ISLNK(facts.st_mode):
            # A link of our own to a folder of our own (a state folder moved to another disk) is as good as
            # the folder.
            if facts.st_uid == os.geteuid():
                path = path.resolve()
                continue
        elif stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
            return path
        break
    raise ServersError(
        f"{path} was expected to be a folder of this user: remove it or set {STATE_VARIABLE} to another place"
    )


def _enterable(path: Path, account: Account) -> bool:
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    existing = existing.resolve()
    return all(_may(folder, account, stat.S_IXOTH) for folder in (existing, *existing.parents))


def _may(path: Path, account: Account, wanted: int) -> bool:
    """Read and execute by mode bits, owner before group before others as the kernel does it; no ACLs."""
    facts = path.stat()
    shift = 6 if facts.st_uid == account.uid else 3 if facts.st_gid == account.gid else 0
    return (facts.st_mode >> shift) & wanted == wanted


def _open_to_all(top: Path) -> None:
    for folder, _, files in os.walk(top):
        os.chmod(folder, 0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                executable = file.stat().st_mode & stat.S_IXUSR
                file.chmod(0o755 if executable else 0o644)


def _into_place(ready: Path, place: Path) -> None:
    """Rename, or leave it to be thrown away when somebody else was first."""
    try:
        ready.rename(place)
    except OSError:
        if not place.is_dir():
            raise
