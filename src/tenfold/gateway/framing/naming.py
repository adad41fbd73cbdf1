"""What a request is called on its way: an id for the logs, and a traceparent (W3C Trace Context) for the traces.

Theory. A request gets both unless it has good ones. Where both are new they share 128 random bits, so that logs and
traces find each other. Randomness is handed in, for some requests at a time, because most of what it costs is asking.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from tenfold.gateway.framing import fields as f
from tenfold.gateway.framing.forwarding import Forwarding
from tenfold.gateway.framing.head import RequestHead

Draw = Callable[[int], int]
"""That many random bits as a number, as `random.Random.getrandbits` gives them."""

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_PARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NOT_ZERO: Final = 1 << 64 | 1  # neither a trace nor a span may be 0
_AT_ONCE: Final = 32
_NONE_ZERO: Final = sum(_NOT_ZERO << 192 * number for number in range(_AT_ONCE))

_tuple: Final = tuple.__new__  # half of the time that `Identity` takes to call it


class Identity(NamedTuple):
    """What a request is called: its id, and the lines that tell the upstream."""

    request_id: bytes
    lines: bytes


class Naming:
    """How requests are named under one `Forwarding`."""

    __slots__ = ("_both", "_id_name", "_id_start", "_new", "_options")

    def __init__(self, options: Forwarding) -> None:
        self._options = options
        self._both = options.request_id != "off" and options.trace != "off"  # for those that came with neither
        self._id_start = options.request_id_name.encode() + b": "
        low = options.request_id_name.lower().encode()
        self._id_name = None if f.KINDS.get(low) == f.REQUEST_ID else low  # where it is not the usual one
        self._new: list[Identity] = []

    def identify(self, head: RequestHead, draw: Draw) -> Identity:
        """The request's id and trace. Once for each request, however often it is sent upstream."""
        if self._id_name is not None:
            self._name_id(head, self._id_name)
        if not head.claims and self._both:
            new = self._new
            if not new:
                self._make(draw)
            return new.pop()
        options = self._options
        came = parent = None
        lines = []
        for kind, value, line in head.claims:
            if kind == f.REQUEST_ID:
                # Two are none: nobody could tell which one the other logs.
                came = value if came is None else b""
            elif kind == f.TRACE_PARENT:
                parent = value if parent is None else b""
            elif kind == f.TRACE_STATE:
                lines.append(line)
        new_trace = new_id = b""
        if options.trace == "off":
            if parent is not None:
                lines.append(b"traceparent: " + parent)
        elif options.trace == "pass" and parent and _TRACE_PARENT.fullmatch(parent):
            lines.append(b"traceparent: " + parent)
        else:
            text = (draw(192) | _NOT_ZERO).to_bytes(24, "big").hex().encode()
            new_trace = text[:32]
            lines = [b"traceparent: 00-%b-%b-01" % (new_trace, text[32:])]
        if came and options.request_id != "new" and _ID.fullmatch(came):
            new_id = came
        elif options.request_id != "off":
            new_id = new_trace or b"%032x" % draw(128)
        if new_id:
            lines.append(self._id_start + new_id)
        return Identity(new_id, b"\r\n".join(lines))

    def _name_id(self, head: RequestHead, name: bytes) -> None:
        """The header of that name has the id, and X-Request-Id is a header like others."""
        plain = []
        claims = [claim for claim in head.claims if claim[0] != f.REQUEST_ID]
        for line in head.plain:
            found, _, value = line.partition(b":")
            if found.lower() == name:
                claims.append((f.REQUEST_ID, value.strip(b" \t"), line))
            else:
                plain.append(line)
        plain += [line for kind, _, line in head.claims if kind == f.REQUEST_ID]
        head.plain, head.claims = plain, claims

    def _make(self, draw: Draw) -> None:
        """Names for the next requests that come without any."""
        text = (draw(192 * _AT_ONCE) | _NONE_ZERO).to_bytes(24 * _AT_ONCE, "big").hex().encode()
        lines = b"traceparent: 00-%b-%b-01\r\n" + self._id_start + b"%b"
        for at in range(0, 48 * _AT_ONCE, 48):
            trace = text[at : at + 32]
            self._new.append(_tuple(Identity, (trace, lines % (trace, text[at + 32 : at + 48], trace))))
