"""The access log: a line for each request, or for a share of them, written beside the traffic and never before it.

Lines are gathered and written by a thread, one batch at a time. What a slow disk or reader does not take is dropped
and counted: a log that stops the traffic is worse than a gap in it.

Several processes may write to one file or pipe, and no line may be torn. To a file opened with O_APPEND each write(2)
goes to the end as a whole, whatever its length (POSIX; Linux holds the inode's lock meanwhile), so a batch is one
write. A pipe takes a write as a whole up to PIPE_BUF, 4096 bytes, only: there, whole lines are written that far at a
time, and what a client says at length is shortened until its line fits.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.gateway.config import AccessLog as Options
    from tenfold.gateway.config import Changes, Config
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.ending import Ending
    from tenfold.gateway.engine.problem import Fault
    from tenfold.gateway.engine.site import Site

_log: Final = logging.getLogger("tenfold.gateway")
_MOST: Final = 50_000
_PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
_SHORTER: Final = (1024, 256, 64, 16)
_LEFT: Final = 499
"""What the log calls the status of a request whose client left (nginx's number for it)."""


class AccessLog:
    """Writes the lines of one gateway process."""

    __slots__ = (
        "_again", "_encode", "_fd", "_lines", "_lock", "_most", "_site", "_writing", "dropped", "options", "written",
    )  # fmt: skip

    def __init__(self, site: Site, options: Options) -> None:
        self._site = site
        self.options = options
        self._lines: list[bytes] = []
        self._writing = False
        self._again = False
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode
        self.written = 0
        self.dropped = 0
        self._fd = (
            os.dup(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
            if options.path == "-"
            else _opened(options.path)
        )
        self._most = _PIPE_BUF if stat.S_ISFIFO(os.fstat(self._fd).st_mode) else 0
        """Bytes that are written as a whole; 0: as many as there are."""

    def exchange(self, exchange: Ending) -> None:
        """A request has ended."""
        options = self.options
        status = exchange.status or _LEFT
        kept = options.sample == 1.0 or (options.errors and status >= 500)
        if not kept and self._site.random.random() >= options.sample:
            return
        head = exchange.head
        identity = exchange.identity
        self._add(
            {
                "client": exchange.client.peer,
                "method": head.method.decode(),
                "target": head.target.decode("latin-1"),
                "host": (head.host or b"").decode("latin-1"),
                "status": status,
                "bytes": exchange.bytes_out,
                "ms": round((self._site.clock() - exchange.clocked) * 1000, 3) if exchange.clocked else 0.0,
                "route": exchange.route.route.name,
                "endpoint": exchange.tried[-1] if exchange.tried else "",
                "tries": len(exchange.tried),
                "request_id": "" if identity is None else identity.request_id.decode("latin-1"),
                "fault": exchange.fault,
                "agent": (head.get(b"user-agent") or b"").decode("latin-1"),
                "referer": (head.get(b"referer") or b"").decode("latin-1"),
            }
        )

    def refused(self, client: Client, fault: Fault) -> None:
        """What came was no request."""
        self._add(
            {"client": client.peer, "method": "-", "target": "-", "host": "", "status": fault.status, "bytes": 0,
             "ms": 0.0, "route": "", "endpoint": "", "tries": 0, "request_id": "", "fault": fault.reason,
             "agent": "", "referer": ""}
        )  # fmt: skip

    def _add(self, told: dict[str, Any]) -> None:
        if len(self._lines) >= _MOST:
            self.dropped += 1
            return
        line = self._line(told)
        if self._most and len(line) > self._most:
            for longest in _SHORTER:
                line = self._line({name: _cut(value, longest) for name, value in told.items()})
                if len(line) <= self._most:
                    break
        self._lines.append(line)

    def _line(self, told: dict[str, Any]) -> bytes:
        now = self._site.wall()
        if self.options.format == "json":
            return self._encode({"time": round(now, 3), **told}) + b"\n"
        when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
        line = (
            f'{told["client"]} - - [{when}] "{_quoted(told["method"])} {_quoted(told["target"])} HTTP/1.1" '
            f'{told["status"]} {told["bytes"]} "{_quoted(told["referer"])}" "{_quoted(told["agent"])}"\n'
        )
        return line.encode("utf-8", "replace")

    def reopen(self) -> None:
        """Begin the file anew, under the same name, with the next batch."""
        self._again = self.options.path != "-"

    def flush(self) -> None:
        """Hand what is gathered to a thread, unless one is still writing."""
        if (self._lines or self._again) and not self._writing:
            self._writing = True
            lines, self._lines = self._lines, []
            future = self._site.loop.run_in_executor(None, self._write, lines)
            future.add_done_callback(self._wrote)

    def _write(self, lines: list[bytes]) -> int:
        with self._lock:
            if self._again:
                self._again = False
                self._begin()
            for batch in _batches(lines, self._most):
                data = memoryview(batch)
                while data:
                    data = data[os.write(self._fd, data) :]
        return len(lines)

    def _begin(self) -> None:
        try:
            opened = _opened(self.options.path)
        except OSError as error:
            _log.error("gateway: the access log goes on in the old file: %s", error)
            return
        os.dup2(opened, self._fd, inheritable=False)
        os.close(opened)

    def _wrote(self, future: Any) -> None:
        self._writing = False
        if future.cancelled() or future.exception() is not None:
            self.dropped += 1
        else:
            self.written += future.result()

    def close(self) -> None:
        """Write the rest, and close. Blocks."""
        lines, self._lines = self._lines, []
        try:
            self._write(lines)
        finally:
            os.close(self._fd)


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def _batches(lines: list[bytes], most: int) -> Iterator[bytes]:
    """Whole lines, joined up to ``most`` bytes; 0: all of them."""
    if not most:
        yield b"".join(lines)
        return
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        if gathered and size + len(line) > most:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(line)
        size += len(line)
    yield b"".join(gathered)


def _cut(value: Any, longest: int) -> Any:
    return f"{value[:longest]}…" if isinstance(value, str) and len(value) > longest else value


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def log_of(site: Site, config: Config, changes: Changes) -> AccessLog | None:
    """The access log under a new configuration: the same one where nothing is new about it.

    Raises `MisuseError` where it cannot be written.
    """
    if all(each.key != "gateway.access_log" for each in changes.settings):
        return site.log
    options = config.gateway.access_log
    if options is None:
        return None
    try:
        return AccessLog(site, options)
    except OSError as error:
        raise MisuseError(f"reload: cannot write the access log {options.path}: {error.strerror}") from error
