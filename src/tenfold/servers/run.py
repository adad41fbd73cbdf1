"""A run: a folder with a random name, the servers in it, and the process that owns them.

How nothing is left behind -------------------------- Every run has a manifest, ``run.json``: its random token
(which is the folder's name), its owner (pid and start time), and its servers. A run ends in one of four ways,
and each ends in `destroy`:

1. the owner closes it (the end of ``async with``: normally, by an exception, by cancellation, by SIGINT);
2. the owner dies without closing it (SIGTERM, SIGKILL, a crash): the *keeper*, a small process of its own,
   waits for the owner's death and destroys the run at once;
3. owner and keeper both die: the next start of any run *sweeps* those whose owner is dead;
4. the run was *released* (``tenfold up``): it has no owner, the keeper is dismissed, and somebody closes it
   by name.

PR_SET_PDEATHSIG was rejected for 2: it fires when the *thread* that forked ends, the kernel clears it when a
process changes its user id, and it neither removes folders nor exists outside Linux. A lock held by the owner
was rejected for 3: children made by fork hold it too, and so would keep a dead owner's run alive.

Whom `destroy` ends: processes whose program lies where this run's binaries lie *and* whose arguments name the
run's folder, together with what is below them. The folder's name is 80 random bits, so nobody else's server
can match.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from tenfold.servers import process
from tenfold.servers.process import ProcessId

MANIFEST: Final = "run.json"
_FORMAT: Final = 1
_POLITE: Final = 6.0
_FORCED: Final = 5.0

Manifest = dict[str, Any]


class Run:
    """One run's folder, seen from its owner. Made by `create`, found again by `load`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, runs: Path) -> Run:
        """A new run owned by this process, with a keeper that watches over it."""
        token = secrets.token_hex(10)
        folder = runs / token
        run = cls(folder, _new_manifest(token))
        # The folder appears with its manifest or not at all: a sweep must never see one without an owner.
        hidden = runs / f".{token}"
        hidden.mkdir(mode=0o755)
        hidden.chmod(0o755)
        (hidden / MANIFEST).write_text(json.dumps(run.manifest))
        hidden.rename(folder)
        run._start_keeper()
        return run

    @classmethod
    def load(cls, folder: Path) -> Run | None:
        """A run that exists already, or None. It gets no keeper and no owner by this."""
        manifest = read_manifest(folder)
        return None if manifest is None else cls(folder, manifest)

    @property
    def token(self) -> str:
        return cast(str, self.manifest["token"])

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        return cast("dict[str, dict[str, Any]]", self.manifest["servers"])

    def allow(self, program: Path) -> None:
        """Name a folder of programs that belong to this run; must precede the first start of any of them."""
        folder = f"{program.parent}/"
        if folder not in self.manifest["programs"]:
            self.manifest["programs"].append(folder)
            self.save()

    def record(self, name: str, **facts: Any) -> None:
        """Note facts on one server."""
        self.servers.setdefault(name, {}).update(facts)
        self.save()

    def release(self) -> None:
        """Let the run outlive this process."""
        self.manifest["owner"] = None
        self.save()
        self._dismiss_keeper()

    def own(self) -> None:
        """Take a released run over."""
        self.manifest["owner"] = _me()
        self.manifest["host"] = _host()
        self.save()
        self._start_keeper()

    def close(self) -> None:
        """End every process of the run, remove its folder, dismiss the keeper.

        May be called twice. Blocks; seconds at most.
        """
        destroy(self.folder)
        self._dismiss_keeper()

    def save(self) -> None:
        temporary = self.folder / f"{MANIFEST}.new"
        temporary.write_text(json.dumps(self.manifest, indent=1))
        temporary.replace(self.folder / MANIFEST)

    def _start_keeper(self) -> None:
        # -I and no site: the keeper needs the standard library and this package, and must start in
        # milliseconds.
        source = str(Path(__file__).resolve().parents[2])
        code = (
            f"import sys; sys.path.insert(0, {source!r}); from tenfold.servers.keeper import main; main(sys.argv[1:])"
        )
        owner = self.manifest["owner"]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, str(self.folder), str(owner["pid"]), owner["started"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _dismiss_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
            keeper.wait()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run's folder; None when there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT or manifest.get("token") != folder.name:
        return None
    return manifest


def destroy(folder: Path) -> None:
    """End the run's processes and remove its folder. What is gone already is no error."""
    manifest = read_manifest(folder)
    if manifest is not None:
        end_processes(manifest["token"], manifest["programs"])
        for server in folder.glob("*/postmaster.pid"):
            _free_shared_memory(server)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # a process that was ending wrote a last file while the folder was emptied
        shutil.rmtree(folder, ignore_errors=True)


def end_processes(token: str, programs: list[str]) -> None:
    """End what runs for this token:

    PostgreSQL by immediate shutdown (frees its shared memory), the rest by SIGKILL.
    """
    doomed: list[ProcessId] = []
    for info in process.naming(token, programs):
        family = process.tree(info.id)
        doomed.extend(family)
        process.send(info.id, signal.SIGQUIT if Path(info.argv[0]).name == "postgres" else signal.SIGKILL)
        for member in family:
            process.send(member, signal.SIGCONT)  # a paused server hears nothing
    for left in process.wait_gone(doomed, _POLITE):
        process.send(left, signal.SIGKILL)
    process.wait_gone(doomed, _FORCED)


def _free_shared_memory(lock_file: Path) -> None:
    """Free the 56-byte segment that a killed PostgreSQL leaves; line 7 of its lock file names key and id."""
    try:
        key, identifier = (int(word) for word in lock_file.read_text().splitlines()[6].split())
        libc = ctypes.CDLL(None, use_errno=True)
        # Ids are reused: the key, derived from the data folder, must still lead to this very one.
        if libc.shmget(ctypes.c_int(key), 0, 0) == identifier:
            libc.shmctl(identifier, 0, None)  # 0 is IPC_RMID
    except (OSError, ValueError, IndexError, AttributeError):
        return  # no such segment, or a system without them: nothing to free


def sweep(runs: Path) -> list[str]:
    """Destroy the runs whose owner is dead; returns their tokens."""
    swept = []
    for folder in runs.iterdir():
        manifest = read_manifest(folder)
        if manifest is None:
            # Half made or half removed. Its maker needs milliseconds, so one that is a minute old has been
            # left.
            with suppress(FileNotFoundError):  # another process sweeps too
                if time.time() - folder.stat().st_mtime > 60:
                    shutil.rmtree(folder, ignore_errors=True)
        elif manifest["owner"] is not None and not owner_alive(manifest):
            destroy(folder)
            swept.append(folder.name)
    return swept


def owner_alive(manifest: Manifest) -> bool:
    """Whether the owner may still run.

    An owner that cannot be seen from here (another host or container) counts as alive.
    """
    then, now = manifest["host"], _host()
    if then["node"] != now["node"]:
        return True
    if then["boot"] != now["boot"]:
        return False
    if then["pid_space"] != now["pid_space"]:
        return True
    owner = manifest["owner"]
    return process.alive(ProcessId(owner["pid"], owner["started"]))


def same_boot(manifest: Manifest) -> bool:
    """Whether the machine has been up since the run was owned last."""
    return bool(manifest["host"]["boot"] == process.boot())


def _new_manifest(token: str) -> Manifest:
    return {"format": _FORMAT, "token": token, "owner": _me(), "host": _host(), "programs": [], "servers": {}}


def _me() -> dict[str, Any]:
    me = process.identify(os.getpid())
    assert me is not None  # this process runs
    return {"pid": me.pid, "started": me.started}


def _host() -> dict[str, str]:
    return {"node": platform.node(), "boot": process.boot(), "pid_space": process.pid_space()}
