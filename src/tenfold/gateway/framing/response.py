"""Reading responses from one upstream connection: bytes in, events out, and whether the connection may be kept.

Theory. How long a response is hangs on the request (HEAD has no body, 101 needs an Upgrade), so the reader is told of
each request before it is sent. What comes when nothing was asked for belongs to nobody: passed on, it would be the
answer to the next client's question (response splitting, or a backend that answers twice); so such a connection is
never used again.

    IDLE ──expect()──▶ HEAD ──final head──▶ LENGTH, CHUNKS or CLOSE ──end──▶ DONE ──expect()──▶ HEAD
                        │ ▲                                                     ▲
                        └1xx                └───────── no body ─────────────────┘
                        └──101──▶ TUNNEL       a byte in IDLE or DONE, or any fault ──▶ REFUSED
"""

from __future__ import annotations

from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.framing.body import END, Chunks, End
from tenfold.gateway.framing.gather import Gather, first_fault
from tenfold.gateway.framing.head import CHUNKED, ResponseHead, parse_response
from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refusal, Refused
from tenfold.gateway.framing.start_line import status_line
from tenfold.gateway.framing.usual import usual_response

ResponseEvent = ResponseHead | bytes | End | Refusal

_IDLE, _HEAD, _LENGTH, _CHUNKS, _CLOSE, _TUNNEL, _DONE, _REFUSED = range(8)
_RAW: Final = (_CLOSE, _TUNNEL)
_NAMES: Final = ("idle", "head", "length", "chunks", "close", "tunnel", "done", "refused")
_BAD_GATEWAY: Final = 502


class ResponseReader:
    """The responses of one upstream connection.

    `expect` before each request; then `feed` gives heads (of 1xx responses first, if there are any), slices of the
    body and `End`; or, as the last event of all, a `Refusal` of status 502. After the head of a 101 all bytes are the
    tunnel's.
    """

    __slots__ = (
        "_chunks",
        "_decoded",
        "_gather",
        "_interims",
        "_keep",
        "_left",
        "_limits",
        "_method",
        "_state",
        "_upgrade",
        "began",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _IDLE
        self._method = b""
        self._upgrade: bytes | None = None
        self._decoded = False
        self._gather: Gather | None = None
        self._chunks: Chunks | None = None
        self._interims = 0
        self._left = 0
        self._keep = True
        self.began = False
        """Whether a byte of the response has come: from then on the request must not be sent again."""

    @property
    def reusable(self) -> bool:
        """Whether nothing is under way, nothing came that was not asked for, and the peer does not close."""
        return self._keep and self._state in (_IDLE, _DONE)

    @property
    def free(self) -> bool:
        """Whether the response is complete, and the connection `reusable`."""
        return self._keep and self._state == _DONE

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._state == _DONE

    def expect(self, method: bytes, upgrade: bytes | None = None, decoded: bool = False) -> None:
        """A request of that method is about to be sent, asking for the protocol ``upgrade`` if any.

        ``decoded`` hands on a chunked body as its data alone, for a cache or a client of HTTP/1.0. Raises
        `MisuseError` on a connection that is not `reusable`.
        """
        if not self._keep or (self._state != _IDLE and self._state != _DONE):
            raise MisuseError(f"expect: expected a reusable connection, got {self!r}; open another one")
        self._method = method
        self._upgrade = upgrade
        self._decoded = decoded
        self._interims = 0
        self._state = _HEAD
        self.began = False

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """What ``data`` completes. After a `Refusal` there are no more events."""
        events: list[ResponseEvent] = []
        if data:
            self.began = True
            if self._state == _HEAD:
                data = self._head(data, events)
            if data:
                self._feed(data, events)
        return events

    def usual(self, data: bytes) -> tuple[int, bytes, int] | None:
        """Whether ``data`` begins with a final head as most are (`usual_response`), and all of it is the answer's.

        Its status, ``data`` as it is for a client that keeps its connection, and how much of the body is still to come:
        tell `passed`, if it is passed on. None for all others; nothing is changed by asking.
        """
        if self._state != _HEAD or self._gather is not None or self._method == b"HEAD":
            return None
        return usual_response(data, self._limits)

    def passed(self, left: int) -> None:
        """What `usual` has found was passed on, and ``left`` bytes of the body are to come."""
        self.began = True
        self._left = left
        self._state = _LENGTH if left else _DONE

    def eof(self) -> list[ResponseEvent]:
        """The peer sends no more: the end of a body that lasts until then, or a refusal in the midst of a response."""
        state = self._state
        self._keep = False
        if state in _RAW:
            self._state = _DONE
            return [END]
        if state in (_HEAD, _LENGTH, _CHUNKS):
            return [self._refuse(Reason.PREMATURE_END)]
        return []

    def _feed(self, data: bytes, events: list[ResponseEvent]) -> None:
        while self._state == _HEAD:
            rest = self._head(data, events)
            if not rest:
                return
            data = rest
        state = self._state
        if state == _LENGTH:
            left = self._left = self._left - len(data)
            if left > 0:
                events.append(data)
                return
            self._state = _DONE
            rest = data[left:] if left else b""
            events.append(data[:left] if left else data)
            events.append(END)
        elif state == _CHUNKS:
            chunks = self._chunks
            assert chunks is not None
            try:
                rest_or_none = chunks.feed(data, events)
            except Refused as refused:
                events.append(self._refuse(refused.reason))
                return
            if rest_or_none is None:
                return
            rest = rest_or_none
            self._state = _DONE
            self._chunks = None
            events.append(End(chunks.trailers) if chunks.trailers else END)
        elif state in _RAW:
            events.append(data)
            return
        elif state == _REFUSED:
            return
        else:
            rest = data
        if rest:
            events.append(self._refuse(Reason.UNSOLICITED))

    def _head(self, data: bytes, events: list[ResponseEvent]) -> bytes:
        """Read a head; the bytes after it."""
        gather = self._gather
        limits = self._limits
        try:
            if gather is None and (end := data.find(b"\r\n\r\n")) > 0:
                size = end + 4
            else:
                if gather is None:
                    gather = self._gather = Gather(limits, status_line)
                size = gather.add(data)
                if not size:
                    return b""
                data = bytes(gather.held)
                self._gather = None
            if size > limits.head:  # type: ignore[operator]
                raise Refused(Reason.HEAD_TOO_LARGE)
            head = parse_response(data[: size - 4], limits, self._method)
            self._begin(head)
        except Refused as refused:
            reason = refused.reason
            if gather is None:
                reason = first_fault(limits, data[: data.find(b"\r\n\r\n") + 4], status_line, reason)
            events.append(self._refuse(reason))
            return b""
        events.append(head)
        rest = data[size:]
        if self._state == _DONE:
            events.append(END)
        return rest

    def _begin(self, head: ResponseHead) -> None:
        """What comes after that head."""
        length = head.length
        if length > 0:
            self._keep = head.keep_alive
            self._left = length
            self._state = _LENGTH
            return
        if head.status < 200:
            if head.status == 101:
                asked = self._upgrade
                if asked is None or head.upgrade is None or head.upgrade != asked.lower():
                    raise Refused(Reason.UPGRADE_UNASKED)
                self._keep = False
                self._state = _TUNNEL
                return
            self._interims += 1
            if self._interims > self._limits.interim:
                raise Refused(Reason.INTERIM_FLOOD)
            return
        self._keep = head.keep_alive
        if length == 0:
            self._state = _DONE
        elif length == CHUNKED:
            self._chunks = Chunks(self._limits, decoded=self._decoded)
            self._state = _CHUNKS
        else:
            self._state = _CLOSE

    def _refuse(self, reason: Reason) -> Refusal:
        self._state = _REFUSED
        self._keep = False
        self._gather = self._chunks = None
        return Refusal(_BAD_GATEWAY, reason)

    def __repr__(self) -> str:
        return f"<ResponseReader {_NAMES[self._state]} reusable={self.reusable}>"
