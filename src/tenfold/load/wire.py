"""HTTP/1.1 answers from bytes, without I/O.

Two readers of one language. `read_whole` takes what nearly every API sends, an answer with ``Content-Length``
on a connection that stays open and that arrived in one piece, and cuts it in about 1 µs. It
refuses everything it is not certain about (another version, 1xx, 204, 304, chunks, ``Connection: close``,
two lengths, a field that RFC 9112 would not have, a body that is not all there, a byte too many), and then
`Reader`, which stands on httptools (llhttp, the parser of Node.js), reads the same bytes again from the
start. So speed never decides what an answer means.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tenfold.load.answer import Answer

MAX_HEAD: Final = 64 * 1024
"""Bytes of status line and fields of one answer, informational ones included; nginx and Node.js refuse at
16–32 KiB.
"""
MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of one body. A load test that moves more than this in one answer measures the loopback."""


# RFC 9112 without its obsolete parts: a status line, fields of token ":" visible characters, nothing folded.
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*"
    rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)*"
)
_FRAMING: Final = re.compile(rb"\r\n(content-length|transfer-encoding|connection|upgrade)[ \t]*:[ \t]*([^\r]*)", re.I)
_KNOWN_HEADS: Final = 256
_COOKIE: Final = b"\r\nset-cookie"


class _Known(NamedTuple):
    """A head that was found to be in order, and what it says about the bytes that begin with it."""

    start: bytes
    """The head with the empty line behind it."""
    body: int
    """Where the body begins."""
    size: int
    """Of the whole answer."""
    status: int
    head: bytes
    cookies: bool


_known: dict[bytes, _Known] = {}
_last: tuple[bytes, int, int, int, bytes, bool] = (b"", 0, -1, 0, b"", False)
"""Of the answer before; a plain tuple, which unpacks several times faster than a named one."""


def cut() -> tuple[bytes, int, int, int, bytes, bool]:
    """Of the answer before: its head with the empty line behind it, where the body began, the size of the whole,
    status, head, and whether there were cookies. Bytes that begin so and are as many are such an answer again.
    """
    return _last


def read_whole(data: bytes) -> Answer | None:
    """The answer that is exactly ``data``, or None where only `Reader` may judge.

    Most heads come many times (they change with the second of ``Date``), so what was found out about one is
    remembered for a while. Bytes that begin with the very head of the answer before, empty line included, and
    are as many as it announced need no look-up at all.
    """
    start, body, size, status, head, cookies = _last
    if len(data) == size and data.startswith(start):
        return Answer(status, head, data[body:], cookies)
    found = _look_up(data)
    return Answer(found.status, found.head, data[found.body :], found.cookies) if found is not None else None


def _look_up(data: bytes) -> _Known | None:
    global _last
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end]
    found = _known.get(head)
    if found is None:
        judged = _inspect(head)
        if judged is None:
            return None
        if len(_known) >= _KNOWN_HEADS:
            _known.clear()
        status, length = judged
        found = _Known(data[: end + 4], end + 4, end + 4 + length, status, head, _COOKIE in head.lower())
        _known[head] = found
    if len(data) != found.size:
        return None
    _last = (*found,)
    return found


def _inspect(head: bytes) -> tuple[int, int] | None:
    """Status and body length of a head that is beyond doubt."""
    match = _HEAD.fullmatch(head)
    if match is None or match[1] in (b"204", b"304"):
        return None
    length = -1
    for name, value in _FRAMING.findall(head):
        kind, text = name.lower(), value.rstrip(b" \t")
        if kind == b"content-length":
            if length >= 0 or not text.isdigit() or len(text) > 15:
                return None
            length = int(text)
        elif kind != b"connection" or text.lower() != b"keep-alive":
            return None
    return (int(match[1]), length) if length >= 0 else None


class Reader:
    """Reads one answer from pieces of any size; informational answers (100, 103) before it are passed over.

    Feed it until `feed` returns True. ``keep`` then says whether the connection may carry another request.
    ``failure`` is set (and `feed` returns True) where the bytes are no HTTP or too large.
    """

    def __init__(self, head_only: bool = False) -> None:
        """``head_only`` for the answer to a HEAD request, which announces a body and sends none."""
        self.answer: Answer | None = None
        self.failure: str | None = None
        self.keep = False
        self._head_only = head_only
        self._status = 0
        self._reason = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._in_head = True
        self._delimited = False
        self._done = False
        self._surplus = False
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """Take the next piece; True when the answer, or a failure, stands."""
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.failure = None if self._done else "protocol"
            self.keep = False
        except HttpParserError:
            # After the end of the answer these are surplus bytes: the answer stands, the connection does not.
            self.failure = self.failure if self._done else "protocol"
            self.keep = False
        if (self._in_head and self._head_bytes > MAX_HEAD) or self._size > MAX_BODY:
            self.failure = "too large"
        if self._surplus:
            self.keep = False
        return self._done or self.failure is not None

    def end(self) -> bool:
        """The peer closed: True if that completes an answer that only the end delimits (RFC 9112, 6.3)."""
        if self._done or self._in_head or self._delimited or self.failure is not None:
            return self._done
        self._complete()
        self.keep = False
        return True

    # Callbacks of httptools; it finds them by name.
    def on_message_begin(self) -> None:
        if self._done:
            self._surplus = True
            return
        self._in_head = True
        self._fields = []
        self._reason = b""

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and not self._done:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._done:
            return
        self._status = self._parser.get_status_code()
        names = {name.lower() for name, _ in self._fields}
        self._delimited = b"content-length" in names or b"transfer-encoding" in names
        if self._status >= 200:
            self._in_head = False
            if self._head_only:
                self.keep = self._parser.should_keep_alive()
                self._complete()

    def on_body(self, body: bytes) -> None:
        if not self._done and self._size <= MAX_BODY:
            self._size += len(body)
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._done or self._status < 200:
            return
        self.keep = self._parser.should_keep_alive()
        self._complete()

    def _complete(self) -> None:
        lines = [
            b"HTTP/1.1 %d %b" % (self._status, self._reason),
            *(b": ".join(field) for field in self._fields),
        ]
        head = b"\r\n".join(lines)
        self.answer = Answer(self._status, head, b"".join(self._body), _COOKIE in head.lower())
        self._done = True
