"""Reading requests from one client connection: bytes in, events out, one request at a time.

Theory. HTTP/1.1 lets a client send its next request before it has the answer to the last ("pipelining"). A gateway that
reads on would have to keep answers in order and could be made to hold any number of requests. So the reader stops at
the end of each request and keeps what came after it until it is told to go on; whoever owns the socket stops reading it
as long as something is kept, and TCP tells the client.

    HEAD ──head──▶ LENGTH or CHUNKS ──last byte──▶ DONE ──next()──▶ HEAD
      └───────────── no body ──────────────────────▲
    any of the first three ──fault──▶ REFUSED

Clients say the same of themselves in one request after another, which is why HTTP/2 sends it but once (HPACK, RFC 7541
§1). So the reader keeps the fields of its last request that had any twice, and where the next one's are the same to
the byte, their checks and their meaning are known, and only the request line is read.

A head passes two parsers: ours, which knows every reason and is the stricter one, and llhttp (of Node.js, through
httptools, without a callback into Python), written by others: a slip in either must be a slip in both to do harm.
Fields that llhttp has accepted twice on this connection are not shown to it a third time, under a request line of the
usual form, every one of which it accepts (a test asks it for each method and each byte).
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from tenfold._core.errors import MisuseError
from tenfold.gateway.framing.body import END, Chunks, End
from tenfold.gateway.framing.gather import Gather, first_fault
from tenfold.gateway.framing.head import CHUNKED, RequestHead, parse_request
from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refusal, Refused
from tenfold.gateway.framing.start_line import METHODS, request_line, usual_line

RequestEvent = RequestHead | bytes | End | Refusal

_HEAD, _LENGTH, _CHUNKS, _DONE, _REFUSED = range(5)
_BODY: Final = (_LENGTH, _CHUNKS)
_NAMES: Final = ("head", "length", "chunks", "done", "refused")
_G: Final = ord("G")
_SHORT: Final = 8192
_MOST_HELD: Final = 1024 * 1024
_NO_CALLBACKS: Final = object()


class RequestReader:
    """The requests of one client connection.

    `feed` gives the events of a request: its head, the slices of its body, `End`; or, as the last event of all, a
    `Refusal`. Slices are the bytes as they came, chunk lines included, or the data alone with ``decoded``.
    After `End` nothing is read until `next`.
    """

    __slots__ = (
        "_block",
        "_chunks",
        "_decoded",
        "_gate",
        "_gather",
        "_lead",
        "_left",
        "_limits",
        "_line",
        "_model",
        "_most",
        "_size",
        "_state",
        "_surplus",
    )

    def __init__(self, limits: Limits, *, decoded: bool = False) -> None:
        self._limits = limits
        self._line = int(limits.line)
        self._most = int(limits.head)
        self._decoded = decoded
        self._state = _HEAD
        self._gather: Gather | None = None
        self._gate: HttpRequestParser | None = None
        self._chunks: Chunks | None = None
        self._left = 0
        self._size = 0
        self._surplus = b""
        self._block = b""
        self._model: RequestHead | None = None
        self._lead: bytes | None = b""  # a part of an empty line before the request; None: there was one

    @property
    def idle(self) -> bool:
        """Whether no byte of a request has come yet: the connection may be closed without harm."""
        return self._state == _HEAD and self._gather is None

    @property
    def ended(self) -> bool:
        """Whether the request is complete, so that `next` may be called."""
        return self._state == _DONE

    @property
    def held(self) -> int:
        """Bytes that came after the request: while there are any, do not read more from the socket."""
        return len(self._surplus)

    @property
    def size(self) -> int:
        """Bytes of a chunked body so far, as its chunks announce them, for limits that only the route knows; the other
        bodies' size is `RequestHead.length`.
        """
        return self._size if self._chunks is None else self._chunks.size

    def feed(self, data: bytes) -> list[RequestEvent]:
        """What ``data`` completes: nothing after a `Refusal`, and nothing between `End` and `next`.

        Raises `MisuseError` when a megabyte has come after a request, for want of a pause.
        """
        state = self._state
        events: list[RequestEvent] = []
        if state == _HEAD:
            if self._gather is None and not self._lead:
                # A GET mostly comes alone in its piece; where it does not, `_head` finds out.
                if data.endswith(b"\r\n\r\n") and data[0] == _G and len(data) <= _SHORT:
                    self._head(data, len(data), events)
                    return events
                end = data.find(b"\r\n\r\n")
                if end > 0 and data[0] != 13:
                    self._head(data, end + 4, events)
                    return events
            self._slow(data, events)
        elif state in _BODY:
            if data:
                self._body(data, events)
        elif state == _DONE:
            self._surplus += data
            if len(self._surplus) > _MOST_HELD:
                raise MisuseError(
                    f"feed: expected the socket to be left alone while bytes are held, got {len(self._surplus)} of "
                    "them; pause reading when `held` is not 0 and go on after `next`"
                )
        return events

    def whole(self, data: bytes) -> RequestHead | None:
        """The head of a request without a body that came as a whole and alone, with fields that are known; it has ended
        then. None, and nothing done, for all others, which are `feed`'s.
        """
        model = self._model
        if model is None or model.length or self._state != _HEAD or self._lead or self._gather is not None:
            return None
        block = self._block
        if not data.endswith(block):
            return None
        cut = len(data) - len(block)
        line = usual_line(data, 0, cut)
        if line is None or cut > self._line or len(data) > self._most:
            return None
        method, target = line.groups()
        if method not in METHODS:
            return None
        self._state = _DONE
        self._surplus = b""
        return model.again(method, target)

    def next(self) -> list[RequestEvent]:
        """Go on to the next request, of which all or a part may have come already.

        Raises `MisuseError` before the end of the one that is being read.
        """
        if self._state != _DONE:
            raise MisuseError(f"next: expected a request that has ended, got {self!r}; wait for its End")
        data = self._surplus
        self._state = _HEAD
        self._size = 0
        self._surplus = b""
        self._lead = b""
        return self.feed(data) if data else []

    def rest(self) -> bool:
        """The same, but only where no byte of it has come yet; False, and nothing done, where that is not so."""
        if self._state != _DONE or self._surplus:
            return False
        self._state = _HEAD
        self._size = 0
        self._lead = b""
        return True

    def surplus(self) -> bytes:
        """What came after a request that switches protocols: the first bytes for the tunnel. They are handed out
        once.
        """
        data, self._surplus = self._surplus, b""
        return data

    def eof(self) -> Refusal | None:
        """The client sends no more. A refusal if that is in the midst of a request."""
        if self._state in _BODY or (self._state == _HEAD and self._gather is not None):
            return self._refuse(Reason.PREMATURE_END)
        return None

    def _slow(self, data: bytes, events: list[RequestEvent]) -> None:
        gather = self._gather
        if gather is None:
            # One empty line before a request is read and ignored (RFC 9112 §2.2).
            if self._lead is not None:
                data = self._lead + data
                if data == b"\r":
                    self._lead = data
                    return
                self._lead = b""
                if data[:2] == b"\r\n":
                    self._lead = None
                    data = data[2:]
            if not data:
                return
            gather = self._gather = Gather(self._limits, request_line)
        try:
            size = gather.add(data)
        except Refused as refused:
            events.append(self._refuse(refused.reason))
            return
        if size:
            self._gather = None
            self._head(bytes(gather.held), size, events)

    def _head(self, data: bytes, size: int, events: list[RequestEvent]) -> None:
        limits = self._limits
        try:
            if size > limits.head:  # type: ignore[operator]
                raise Refused(Reason.HEAD_TOO_LARGE)
            cut = data.find(b"\r\n")
            block = data[cut:size]
            same = block == self._block
            known = self._known(data, cut) if same else None
            head = parse_request(data[: size - 4], limits) if known is None else known
        except Refused as refused:
            first = data.find(b"\r\n\r\n") + 4
            if first < size:
                # An empty line is in it, so it is more than one head; no head with one in it is accepted.
                self._head(data, first, events)
                return
            events.append(self._refuse(first_fault(limits, data[:size], request_line, refused.reason)))
            return
        if known is None:
            if not self._gated(head, data if size == len(data) else data[:size]):
                events.append(self._refuse(Reason.GATEKEEPER))
                return
            if not same:
                self._block, self._model = block, None
            elif self._model is None and not head.http10:
                # A copy, because what is done to the head on its way must not be done to the next one.
                self._model = head.again(b"", b"")
        left = head.length
        events.append(head)
        rest = data[size:]
        if left == 0:
            self._state = _DONE
            self._surplus = rest
            events.append(END)
            return
        if left == CHUNKED:
            most = limits.body
            self._chunks = Chunks(limits, decoded=self._decoded, most=None if most is None else int(most))
            self._state = _CHUNKS
        else:
            self._left = left
            self._state = _LENGTH
        if rest:
            self._body(rest, events)

    def _known(self, data: bytes, cut: int) -> RequestHead | None:
        """The head of a request whose fields are the last one's, if those came twice and its first line is usual."""
        model = self._model
        if model is not None and cut <= self._limits.line:  # type: ignore[operator]
            line = usual_line(data, 0, cut)
            if line is not None:
                method, target = line.groups()
                if method in METHODS:
                    return model.again(method, target)
        return None

    def _gated(self, head: RequestHead, data: bytes) -> bool:
        """Whether llhttp takes it too."""
        # It waits for the body that it is not given, so a parser lasts for as long as there is none.
        gate = self._gate or HttpRequestParser(_NO_CALLBACKS)
        self._gate = gate if head.length == 0 and head.keep_alive and head.upgrade is None else None
        try:
            gate.feed_data(data)
        except HttpParserUpgrade:
            self._gate = None
        except HttpParserError:
            return False
        return True

    def _body(self, data: bytes, events: list[RequestEvent]) -> None:
        if self._state == _LENGTH:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                events.append(data)
                return
            self._state = _DONE
            if left < 0:
                self._surplus = data[left:]
                data = data[:left]
            events.append(data)
            events.append(END)
            return
        chunks = self._chunks
        assert chunks is not None
        try:
            rest = chunks.feed(data, events)
        except Refused as refused:
            events.append(self._refuse(refused.reason))
            return
        if rest is not None:
            self._state = _DONE
            self._surplus = rest
            self._size = chunks.size
            self._chunks = None
            events.append(End(chunks.trailers) if chunks.trailers else END)

    def _refuse(self, reason: Reason) -> Refusal:
        self._state = _REFUSED
        self._gather = self._chunks = self._gate = None
        return Refusal(reason.status, reason)

    def __repr__(self) -> str:
        return f"<RequestReader {_NAMES[self._state]} held={len(self._surplus)}>"
