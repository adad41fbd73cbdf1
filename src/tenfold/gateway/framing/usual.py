"""Heads of responses that can be passed on as they came, told by one regular expression.

Theory. Nearly all final responses that a backend writes in one piece are of one form: HTTP/1.1, fields that are
nobody's business here, one Content-Length, and maybe ``Connection: keep-alive``. To see that a head is of this form
takes a third of the time that it takes to read it line by line, and all that is to be done to it then is to take that
one line out.

The expression is not a second grammar that could differ from the first one, but a part of it: it accepts a field only
if its name begins as none of those does that frame the message or are for the next hop, and only if its value is text,
so that whatever it accepts `parse_response` accepts and means the same by (a test compares them). What it does not know
goes the long way. All repetitions are possessive: each byte is looked at once.
"""

from __future__ import annotations

import re
from typing import Final

from tenfold.gateway.framing.limits import Limits

_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*+\r\n"
_NAME: Final = (
    rb"(?:[ABDGIJL-OQRSVWYZabdgijl-oqrsvwyz]"
    rb"|[Cc](?:[AaLlRr]|ontent-(?:[DdEeRrSsTt]|[Ll][ao]))"  # but Connection, Content-Length
    rb"|[Ee](?:[Tt]|xpi)"  # but Expect
    rb"|[Pp](?:[Ee]|r[ai])"  # but Proxy-*
    rb"|[Tt]i"  # but TE, Transfer-Encoding
    rb"|[Xx]-)"
    rb"[A-Za-z0-9-]*+:"
)
_FIELDS: Final = rb"(?:" + _NAME + _TEXT + rb")*+"
_KEEP: Final = rb"(?:([Cc]onnection: [Kk]eep-[Aa]live\r\n(?:[Kk]eep-[Aa]live:" + _TEXT + rb")?+)" + _FIELDS + rb")?+"
_usual: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2}) " + _TEXT + _FIELDS + _KEEP
    + rb"(?:[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,17})\r\n" + _FIELDS + _KEEP + rb")?+\r\n"
).match  # fmt: skip

_BODILESS: Final = (b"204", b"304")
_LARGE: Final = 8192
_LEAST: Final = 4
"""Bytes that a field has at least, its CRLF included."""


def usual_response(data: bytes, limits: Limits) -> tuple[int, bytes, int] | None:
    """Status, ``data`` without what is for the next hop only, and how many bytes of the body do not yet stand in it.

    None where the head is not whole, not of the usual form or too large, or where more follows than its body.
    """
    found = _usual(data)
    if found is None:
        return None
    end = found.end()
    if end > limits.line:  # type: ignore[operator]
        return None
    if end > _LEAST * limits.fields and data.count(b"\r\n", 0, end) - 2 > limits.fields:
        return None
    status, first, length, second = found.groups()
    left = 0
    if status in _BODILESS:
        if len(data) > end or (length is not None and status == b"204"):
            return None  # a Content-Length is not allowed to 204 (RFC 9110 §8.6), and has to be taken out
    elif length is None:
        return None
    else:
        left = int(length) - len(data) + end
        if left < 0:
            return None
    if first is not None:
        if second is not None:
            return None  # said twice: not usual
        data = _without(data, *found.span(2))
    elif second is not None:
        data = _without(data, *found.span(4))
    return int(status), data, left


def _without(data: bytes, start: int, stop: int) -> bytes:
    if len(data) < _LARGE:
        return data[:start] + data[stop:]
    return b"".join((data[:start], memoryview(data)[stop:]))  # one copy instead of two
