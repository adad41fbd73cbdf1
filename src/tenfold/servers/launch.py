"""Starting processes from asyncio: servers that go on, and tools that run to their end.

`subprocess.Popen` in a thread rather than asyncio's own subprocesses: those are killed when the loop closes,
and the servers of ``tenfold up`` are to outlive it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from tenfold._core.units import format_duration
from tenfold.servers.errors import (
    DiskFullError,
    MissingBinaryError,
    ServerDiedError,
    ServersError,
    ServersTimeoutError,
    WrongArchitectureError,
)
from tenfold.servers.home import Account, translate
from tenfold.servers.process import last_lines

POLL: Final = 0.01
_T = TypeVar("_T")
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


async def spawn(
    argv: Sequence[str | Path], *, log: Path, folder: Path, account: Account | None
) -> subprocess.Popen[bytes]:
    """Start a process whose output is appended to ``log``; a terminal's Ctrl-C does not reach it."""
    task = asyncio.ensure_future(asyncio.to_thread(_popen, argv, log, folder, account))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        child = await task  # milliseconds: the thread is past its fork or about to be
        child.kill()
        await asyncio.to_thread(child.wait)
        raise


async def run_tool(
    argv: Sequence[str | Path],
    *,
    folder: Path,
    account: Account | None,
    within: float = 60.0,
    feed: str = "",
) -> str:
    """Run a tool to its end and return its output; it is killed after ``within`` seconds and on cancellation.

    Raises `ServerDiedError` with its last lines when it fails, `DiskFullError` when it fails for want of
    room, `ServersTimeoutError` when it takes too long.
    """
    name = Path(argv[0]).name
    task = asyncio.ensure_future(asyncio.to_thread(_popen, argv, None, folder, account))
    child: subprocess.Popen[bytes] | None = None
    exchange: asyncio.Future[tuple[bytes, bytes]] | None = None
    try:
        child = await asyncio.shield(task)
        exchange = asyncio.ensure_future(asyncio.to_thread(child.communicate, feed.encode()))
        done, _ = await asyncio.wait([exchange], timeout=within)
        if not done:
            raise ServersTimeoutError(
                f"{name} was expected to end within {format_duration(within)} and did not: "
                f"the machine or its disk is overloaded"
            )
        output = exchange.result()[0].decode(errors="replace")
    finally:
        child = await finish(task) if child is None else child
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # it leads its own group, and initdb has children
            await finish(asyncio.to_thread(child.wait))
        if exchange is not None:
            await finish(asyncio.wait([exchange]))  # its thread closes the pipes, now that nobody writes into them
            exchange.exception()  # seen: what ended the tool is told below or by whoever cancelled
        else:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    if child.returncode != 0:
        raise died(name, child.returncode, output, folder)
    return output


async def finish(work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T:
    """Run ``work`` to its end even when the caller is cancelled, and pass the cancellation on afterwards.

    For clean-up that has deadlines of its own: without them this would be a way to hang.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen; the cancellation outranks it
        raise cancelled
    return task.result()


async def together(*work: Coroutine[Any, Any, Any]) -> None:
    """Run all at once; the first failure cancels the others and is raised as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


async def wait_exit(child: subprocess.Popen[bytes], within: float) -> bool:
    """Wait for a child to end; False when it still runs after ``within`` seconds."""
    deadline = time.monotonic() + within
    while child.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL)
    return True


def died(name: str, returncode: int | None, output: str, folder: Path) -> ServersError:
    """The error for a process that failed, told from what it wrote."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return DiskFullError(folder, last_lines(output, 1))
    return ServerDiedError(name, returncode, last_lines(output))


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment: a stray PGPORT or PGDATA of the user's must not reach a server."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(folder), **kept, **(extra or {})}


def _popen(
    argv: Sequence[str | Path], log: Path | None, folder: Path, account: Account | None
) -> subprocess.Popen[bytes]:
    words = [str(word) for word in argv]
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        # A log is opened here, by the owner of the run, so that it need not be writable for the servers'
        # account.
        output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL if log is not None else subprocess.PIPE,
                stdout=subprocess.PIPE if output is None else output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment(folder),
                start_new_session=True,
                umask=0o077,
                **identity,
            )
        finally:
            if output is not None:
                os.close(output)
    except OSError as error:
        # ENOEXEC (8) is Linux and others; 86 is EBADARCH of macOS.
        if error.errno in (8, 86):
            raise WrongArchitectureError(Path(words[0]), f"{platform.system()} {platform.machine()}") from error
        if isinstance(error, FileNotFoundError) and not Path(words[0]).exists():
            raise MissingBinaryError(
                f"{words[0]} was there a moment ago and is gone: install tenfold[servers] anew",
                program=Path(words[0]).name,
            ) from error
        raise translate(error, folder, f"starting {Path(words[0]).name}") from error


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    own, _ = failures.split(ServersError)
    found: BaseException = own if own is not None else failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
