"""Bodies: a counter for those of a known length, and a parser for chunks, their extensions and the trailers.

Theory. Chunks (RFC 9112 §7.1) are a second grammar inside the message and a second place where two parsers can differ:
sizes with a sign, ``0x`` or white space, sizes that overflow, a lone LF after them, anything but CRLF after the data,
extensions that hold a line's end. All are refused here; a size is 1 to 15 hexadecimal digits.

A body is handed on in one of two ways. *As it came*: the bytes of whole, checked chunk lines and all data, so that a
piece which arrives inside a chunk is passed on without a copy. *Decoded*: the data alone, for a cache or a client of
HTTP/1.0; `chunk` and `last_chunk` wrap it again. A chunk's line or the trailers are handed on when they are complete
and not before: what was passed on when a body is refused does not hang on how the network cut it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tenfold.gateway.framing import fields as f
from tenfold.gateway.framing.gather import TEXT
from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refused

_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_UNTEXT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 9112 §7.1.1 without the "bad white space" that it allows for the sake of the past.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_EXTENSIONS: Final = re.compile(rb"(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+)*+")
_LONGEST: Final = 15  # digits of a size; 16 would overflow the 63 bits that some count in

_LINE, _DATA, _END, _TRAILERS = range(4)


class End:
    """The message is complete; ``trailers`` are the lines that came after a chunked body, mostly none."""

    __slots__ = ("trailers",)

    def __init__(self, trailers: tuple[bytes, ...] = ()) -> None:
        self.trailers: Final = trailers

    def __repr__(self) -> str:
        return f"<End trailers={len(self.trailers)}>"


END: Final = End()
"""The end of every message without trailers."""


class Chunks:
    """One chunked body that is being read. ``most`` is how much data it may have (None: any)."""

    __slots__ = ("_decoded", "_held", "_left", "_line", "_most", "_state", "_trailer", "size", "trailers")

    def __init__(self, limits: Limits, *, decoded: bool = False, most: int | None = None) -> None:
        self._decoded = decoded
        self._most = most
        self._line = int(limits.extension)
        self._trailer = int(limits.trailer)
        self._state = _LINE
        self._left = 0
        self._held = b""
        self.size = 0
        """Bytes of data, as the sizes of the chunks so far announce them."""
        self.trailers: tuple[bytes, ...] = ()
        """Lines of the trailers, once the body has ended."""

    def feed(self, data: bytes, out: list[Any]) -> bytes | None:
        """Append to ``out`` what is to be handed on.

        What follows the body, maybe nothing, once it has ended; None before. Raises `Refused`, after appending what
        came before the fault.
        """
        if self._held:
            data = self._held + data
        at = 0  # the bytes before it are understood
        decoded = self._decoded
        try:
            while True:
                state = self._state
                if state == _DATA:
                    end = min(at + self._left, len(data))
                    if decoded and end > at:
                        out.append(data[at:end])
                    self._left -= end - at
                    at = end
                    if self._left:
                        return None
                    self._state = _END
                elif state == _END:
                    mark = data[at : at + 2]
                    if mark == b"\r\n":
                        at += 2
                        self._state = _LINE
                    elif mark in (b"", b"\r"):
                        return None
                    else:
                        raise Refused(Reason.CHUNK_END)
                elif state == _LINE:
                    most = at + _LONGEST + self._line + 3
                    end = data.find(b"\r\n", at, most)
                    if end < 0:
                        self._check_line(data[at:most], whole=False)
                        return None
                    size = self._chunk_size(data[at:end])
                    at = end + 2
                    self._left = size
                    self._state = _DATA if size else _TRAILERS
                else:
                    used = self._read_trailers(data, at)
                    at += used
                    return data[at:] if used else None
        finally:
            self._held = data[at:]
            if at and not decoded:
                out.append(data if at == len(data) else data[:at])

    def _chunk_size(self, line: bytes) -> int:
        if _SIZE.fullmatch(line) is None:
            self._check_line(line, whole=True)
            line = line.partition(b";")[0]
        size = int(line, 16)
        if self._most is not None and self.size + size > self._most:
            raise Refused(Reason.BODY_TOO_LARGE)
        self.size += size
        return size

    def _check_line(self, line: bytes, *, whole: bool) -> None:
        """Raise `Refused` if ``line``, or any line that begins so where it is not whole, is no chunk's line."""
        digits = _SIZE.match(line)
        rest = line[digits.end() :] if digits else line
        open_end = b"" if whole else b"\r"  # a CR at the end may yet get its LF
        if digits is None or (rest[:1] != b";" and rest != b"" and rest != open_end):
            if line or whole:
                raise Refused(Reason.CHUNK_SIZE)
            return
        bad = _UNTEXT.search(rest)
        stop = bad.start() if bad else len(rest)
        if stop > self._line:
            raise Refused(Reason.CHUNK_EXTENSION_TOO_LONG)
        if bad and (whole or rest[stop:] != b"\r"):
            raise Refused(Reason.CHUNK_EXTENSION)
        if whole and _EXTENSIONS.fullmatch(rest) is None:
            raise Refused(Reason.CHUNK_EXTENSION)

    def _read_trailers(self, data: bytes, at: int) -> int:
        """How long the trailers and the empty line after them are, 0 while they are incomplete."""
        if data[at : at + 2] == b"\r\n":
            return 2
        end = data.find(b"\r\n\r\n", at, at + self._trailer + 4)
        if end < 0:
            if len(data) - at >= self._trailer + 4:
                raise Refused(Reason.TRAILER_TOO_LARGE)
            return 0
        text = data[at:end]
        lines = text.split(b"\r\n")
        if text.translate(None, TEXT) != b"\r\n" * (len(lines) - 1):
            raise Refused(Reason.TRAILER)
        for line in lines:
            name, colon, _ = line.partition(b":")
            if not colon or f.TOKEN.fullmatch(name) is None:
                raise Refused(Reason.TRAILER)
            if name.lower().replace(b"_", b"-") in f.NOT_IN_TRAILERS:
                raise Refused(Reason.TRAILER_FORBIDDEN)
        self.trailers = tuple(lines)
        return end + 4 - at

    def __repr__(self) -> str:
        state = ("at a chunk's line", "in a chunk", "at a chunk's end", "in the trailers")[self._state]
        return f"<Chunks {state} size={self.size}>"


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk; nothing for nothing, because an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: tuple[bytes, ...] = ()) -> bytes:
    """The end of a chunked body, with the lines of its trailers."""
    return b"\r\n".join((b"0", *trailers, b"", b"")) if trailers else b"0\r\n\r\n"
