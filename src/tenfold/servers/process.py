"""Processes by identity: a pid together with the moment its process started, because pids are reused.

Synchronous and on the standard library alone, because the keeper (`tenfold.servers.keeper`) stands on it as
well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LINUX: Final = sys.platform.startswith("linux")
_POLL: Final = 0.01


@dataclass(frozen=True, slots=True)
class ProcessId:
    """Who a process is: ``started`` is clock ticks since boot on Linux and the start date elsewhere."""

    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A line of the process table."""

    id: ProcessId
    parent: int
    argv: tuple[str, ...]


def identify(pid: int) -> ProcessId | None:
    """The identity of the live process with this pid; None when there is none or it is a zombie."""
    if _LINUX:
        fields = _stat(pid)
        return None if fields is None else ProcessId(pid, fields[1])
    started = _ps("-o", "state=,lstart=", "-p", str(pid)).strip()
    return None if not started or started.startswith("Z") else ProcessId(pid, started.split(None, 1)[1])


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def send(process: ProcessId, number: int) -> bool:
    """Send a signal to this very process, never to a later one with its pid. False when it is gone."""
    try:
        if not hasattr(os, "pidfd_open"):
            if not alive(process):
                return False
            os.kill(process.pid, number)
            return True
        descriptor = os.pidfd_open(process.pid)
        try:
            # Between opening and sending the descriptor keeps naming the same process, so this check cannot
            # go stale.
            if not alive(process):
                return False
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        return False
    return True


def table() -> dict[int, ProcessInfo]:
    """Every process that can be seen, zombies left out."""
    found: dict[int, ProcessInfo] = {}
    if not _LINUX:
        for line in _ps("-axo", "pid=,ppid=,state=,lstart=,command=").splitlines():
            pid, parent, state, *rest = line.split(None, 3)
            words = rest[0].split() if rest else []
            if not state.startswith("Z") and len(words) >= 5:
                found[int(pid)] = ProcessInfo(ProcessId(int(pid), " ".join(words[:5])), int(parent), tuple(words[5:]))
        return found
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            pid_number = int(entry)
            fields = _stat(pid_number)
            if fields is None:
                continue
            try:
                raw = (_PROC / entry / "cmdline").read_bytes()
            except OSError:
                continue
            argv = tuple(os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0"))
            found[pid_number] = ProcessInfo(ProcessId(pid_number, fields[1]), fields[0], argv)
    return found


def tree(root: ProcessId) -> list[ProcessId]:
    """The process and all below it, parents first; empty when it is gone."""
    processes = table()
    if root.pid not in processes or processes[root.pid].id != root:
        return []
    below: dict[int, list[ProcessId]] = {}
    for info in processes.values():
        below.setdefault(info.parent, []).append(info.id)
    found = [root]
    for process in found:
        found.extend(below.get(process.pid, ()))
    return found


def naming(word: str, programs: Iterable[str]) -> list[ProcessInfo]:
    """Processes whose program lies below one of ``programs`` and of whose arguments one contains ``word``.

    A run's folder has a random name. A server that was given this folder was started for that run and for no
    other; somebody's ``tail -f`` on its log runs another program and is left alone.
    """
    prefixes = tuple(programs)
    return [
        info
        for info in table().values()
        if info.argv and info.argv[0].startswith(prefixes) and any(word in argument for argument in info.argv[1:])
    ]


def working_in(folder: Path) -> list[ProcessId]:
    """Processes whose working folder this is; none where the system does not tell (outside Linux)."""
    wanted, found = str(folder), []
    for pid, info in table().items():
        try:
            if os.readlink(_PROC / str(pid) / "cwd") == wanted:
                found.append(info.id)
        except OSError:
            continue  # it has just ended, or it belongs to somebody else
    return found


def signal_tree(root: ProcessId, number: int) -> list[ProcessId]:
    """Signal a process and all below it, parents first so that none can replace a child; returns whom."""
    return [process for process in tree(root) if send(process, number)]


def wait_gone(processes: Iterable[ProcessId], within: float) -> list[ProcessId]:
    """Block until none of them runs or ``within`` seconds have passed; returns those that are left."""
    deadline = time.monotonic() + within
    left = [process for process in processes if alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL)
        left = [process for process in left if alive(process)]
    return left


def boot() -> str:
    """A name for the time between two boots; processes recorded under another name are gone.

    Empty when unknown.
    """
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_space() -> str:
    """A name for the set of pids that this process sees: a container has its own. Empty when unknown."""
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> tuple[int, str] | None:
    """Parent and start time of a live process, from proc_pid_stat(5)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may itself hold blanks and brackets.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZXx" else (int(fields[1]), fields[19])


def _ps(*arguments: str) -> str:
    environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, env=environment, check=False).stdout


def last_lines(text: str, count: int = 5) -> str:
    """The last lines of a log on one line, control characters taken out, for the end of an error message."""
    lines = [re.sub(r"[^\x20-\x7e\u00a0-\uffff]", " ", line).strip() for line in text.splitlines()]
    return " | ".join([line for line in lines if line][-count:])
