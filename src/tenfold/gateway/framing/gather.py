"""Finding the end of a head in bytes that come in pieces, and its first fault if it has one.

Theory. A head that is refused must be refused for the same reason however the network cut it, or a log tells about
segments and not about the client. So every fault has a place at which it is certain: a forbidden character where it
stands, a bare CR one byte later, a bad start line at its CRLF, an oversized line or head at the first byte too many,
and whatever only the whole head can tell at its end. The fault whose place comes first is the one reported. Looking for
it in this order costs; therefore a head that came in one piece is checked in any order that is fast, and only when
something is wrong with it is it read again here to find which fault came first.

A head that is not complete is looked at as it comes, each byte once, so that a client which will never send a valid one
is refused at once and not at the time-out, and one that drips bytes costs no more than the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refused

TEXT: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What may stand in a head beside CR and LF (RFC 9110 §5.5: HTAB, SP, VCHAR, obs-text)."""

_FAULT: Final = re.compile(rb"\r[^\n]|(?<!\r)\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Gather:
    """A head that is being collected. ``check`` is given the start line and raises `Refused`."""

    __slots__ = ("_check", "_head", "_line", "_line_end", "_scanned", "held")

    def __init__(self, limits: Limits, check: Callable[[bytes], object]) -> None:
        self._head = int(limits.head)
        self._line = int(limits.line)
        self._check = check
        self._line_end = -1
        self._scanned = 0
        self.held = bytearray()

    def add(self, data: bytes) -> int:
        """The length of the head, its empty line included, or 0 while it is incomplete.

        Raises `Refused` for the first fault.
        """
        held = self.held
        held += data
        if self._line_end < 0:
            most = self._line + 2
            found = held.find(b"\r\n", max(0, self._scanned - 1), most)
            self._scan(found + 2 if found >= 0 else min(len(held), most))
            if found < 0:
                if len(held) >= most:
                    raise Refused(Reason.LINE_TOO_LONG)
                return 0
            self._check(bytes(held[:found]))
            self._line_end = found
        # CR LF CR LF may begin with the CR LF of the start line. What was scanned never ends with a CR, so at most two
        # of its bytes are behind.
        found = held.find(b"\r\n\r\n", max(self._line_end, self._scanned - 2))
        size = found + 4 if found >= 0 else len(held)
        self._scan(min(size, self._head))
        if size > self._head:
            raise Refused(Reason.HEAD_TOO_LARGE)
        return size if found >= 0 else 0

    def _scan(self, stop: int) -> None:
        """Look at the bytes before ``stop`` that were not looked at yet; a CR at their end is left for later."""
        start = self._scanned
        if stop <= start:
            return
        part = self.held[start:stop]
        cut = part.endswith(b"\r")
        if part.translate(None, TEXT) != b"\r\n" * part.count(b"\r\n") + (b"\r" if cut else b""):
            fault = _FAULT.search(self.held, start, stop)
            if fault is not None:
                text = fault[0]
                raise Refused(
                    Reason.BARE_LF if text == b"\n" else Reason.BARE_CR if text[:1] == b"\r" else Reason.CONTROL
                )
        self._scanned = stop - cut


def first_fault(limits: Limits, data: bytes, check: Callable[[bytes], object], otherwise: Reason) -> Reason:
    """A head in one piece is refused: the reason that would have been found first, had it come byte by byte."""
    try:
        Gather(limits, check).add(data)
    except Refused as refused:
        return refused.reason
    return otherwise
