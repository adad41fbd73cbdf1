"""A small strict reader of HTTP/1.1, the judge of what a backend or a client received.

It knows the whole of the bytes, nothing of pieces, limits or speed, and shares no line with `tenfold.gateway.framing`:
RFC 9112 read as narrowly as it can be. What it takes has one reading only; what it does not take has another somewhere.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")


class Read(NamedTuple):
    """What the bytes are."""

    messages: list[tuple[bytes, dict[bytes, list[bytes]], bytes]]
    """Start line, fields and decoded body of each complete message."""
    rest: str
    """What follows them: ``"nothing"``, ``"a part"`` of a message, or ``"a fault"``."""


class _Fault(Exception):
    pass


class _More(Exception):
    pass


def read(raw: bytes, *, methods: list[bytes] | None = None, ended: bool = False, lead: bool = False) -> Read:
    """Requests; or responses to requests of these ``methods``.

    ``ended``: the connection ended after the bytes. ``lead``: an empty line may stand before each request, which RFC
    9112 §2.2 asks of servers; what a proxy sends has none.
    """
    found: list[tuple[bytes, dict[bytes, list[bytes]], bytes]] = []
    asked = None if methods is None else list(methods)
    while raw:
        if lead and raw[:2] == b"\r\n":
            raw = raw[2:]
            if not raw:
                break
        try:
            message, raw = _message(raw, asked, ended)
        except _More:
            return Read(found, "a part")
        except _Fault:
            return Read(found, "a fault")
        found.append(message)
    return Read(found, "nothing")


def _message(raw, asked, ended):
    head, mark, rest = raw.partition(b"\r\n\r\n")
    if not mark:
        _text(head[:-1] if head[-1:] == b"\r" else head)
        raise _More
    _text(head)
    line, *lines = head.split(b"\r\n")
    fields: dict[bytes, list[bytes]] = {}
    for each in lines:
        match = _FIELD.fullmatch(each)
        if match is None:
            raise _Fault
        fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        raise _Fault
    if codings and codings[0].lower() != b"chunked":
        raise _Fault
    if asked is None:
        match = _REQUEST.fullmatch(line)
        if match is None or (match[3] == b"0" and codings):
            raise _Fault
        until_end = False
    else:
        match = _STATUS.fullmatch(line)
        if match is None or not asked or (match[1] == b"0" and codings):
            raise _Fault
        status = int(match[2])
        interim = 100 <= status < 200 and status != 101
        method = asked[0] if interim else asked.pop(0)
        if status < 200 or status in (204, 304) or method == b"HEAD":
            return (line, fields, b""), rest
        until_end = not lengths and not codings
    if codings:
        body, rest = _chunks(rest)
    elif lengths:
        size = int(lengths[0])
        if len(rest) < size:
            raise _More
        body, rest = rest[:size], rest[size:]
    elif until_end:
        if not ended:
            raise _More
        body, rest = rest, b""
    else:
        body = b""
    return (line, fields, body), rest


def _text(head):
    if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", head.replace(b"\r\n", b"")):
        raise _Fault


def _chunks(raw):
    body = b""
    while True:
        line, mark, raw = raw.partition(b"\r\n")
        if not mark:
            if not re.fullmatch(rb"[0-9A-Fa-f]{0,15}(?:;[\t -~\x80-\xff]*)?\r?", line):
                raise _Fault
            raise _More
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _Fault
        size = int(match[1], 16)
        if size == 0:
            break
        if len(raw) < size + 2:
            if raw[size:] not in (b"", b"\r"):
                raise _Fault
            raise _More
        if raw[size : size + 2] != b"\r\n":
            raise _Fault
        body, raw = body + raw[:size], raw[size + 2 :]
    while True:
        line, mark, raw = raw.partition(b"\r\n")
        if not mark:
            raise _More
        if not line:
            return body, raw
        if not _FIELD.fullmatch(line):
            raise _Fault
