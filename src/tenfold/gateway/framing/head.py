"""Heads of requests and responses: one split, a look at each name, and the framing that follows (RFC 9112 §6.3).

Theory. A gateway stands between two parsers and must not let them see two different messages in the same bytes
("request smuggling": Linhart et al. 2005, Kettle 2019). The defence is not to repair: whatever could be read in two
ways is refused, and what is passed on is written so that there is one way to read it. That asks for three things of a
head. Its bytes are text and CRLF and nothing else: removing all text with one `bytes.translate` must leave exactly as
many CRLF as `bytes.splitlines` made cuts (at CR, LF and CRLF), which finds NUL, bare CR and bare LF at once. Each line
begins with a known or checked name and a colon, which finds folded lines and white space before colons. And exactly one
rule says how long the body is. Values that do not frame or route are nobody's business here: their lines are passed on
as they came.

The length of a body is one number: its bytes, 0 without one, `CHUNKED` or `UNTIL_CLOSE`.
"""

from __future__ import annotations

from typing import Final

from tenfold.gateway.framing import fields as f
from tenfold.gateway.framing.fields import CODING, CONNECTION, EXPECT, FORWARDED, HOST, LENGTH, UPGRADE
from tenfold.gateway.framing.gather import TEXT
from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refused
from tenfold.gateway.framing.start_line import (
    check_host,
    known_hosts,
    known_status_lines,
    origin_form,
    request_line,
    status_line,
)

CHUNKED: Final = -1
"""The body is in chunks."""
UNTIL_CLOSE: Final = -2
"""The body ends with the connection, as responses of HTTP/1.0 do."""

_LONGEST_LENGTH: Final = 18  # digits: below 2**63, which some that come after us count in


class Head:
    """What requests and responses have in common.

    ``lines`` are all lines as they came, ``plain`` those that are passed on as they are, ``claims`` the kind, value
    and line of those about which the forwarding decides; a response has none.
    """

    __slots__ = ("_fields", "claims", "http10", "keep_alive", "length", "lines", "plain", "upgrade")

    lines: list[bytes]
    plain: list[bytes]
    claims: list[tuple[int, bytes, bytes]]
    http10: bool
    keep_alive: bool
    """Whether the peer would take another message on this connection."""
    length: int
    upgrade: bytes | None
    """The protocol of an Upgrade that Connection names, in lower case."""
    _fields: dict[bytes, list[bytes]] | None

    @property
    def fields(self) -> dict[bytes, list[bytes]]:
        """Every field that came: lower-case name to values, in order. Built when first asked for."""
        found = self._fields
        if found is None:
            found = self._fields = {}
            for line in self.lines[1:]:
                name, _, value = line.partition(b":")
                found.setdefault(name.lower(), []).append(value.strip(b" \t"))
        return found

    def replace_fields(self, plain: list[bytes], fields: dict[bytes, list[bytes]]) -> None:
        """Go on with these; those of before may belong to a later message of the same fields too."""
        self.plain, self._fields = plain, fields

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with that lower-case name."""
        values = self.fields.get(name)
        return None if values is None else values[0]


class RequestHead(Head):
    """A request's head: ``method``, ``target`` (path and query, or ``*``), ``host`` (None: HTTP/1.0 without one)."""

    __slots__ = ("expects_continue", "host", "method", "target")

    method: bytes
    target: bytes
    host: bytes | None
    expects_continue: bool
    """The client waits for 100 (Continue) before it sends the body."""

    def again(self, method: bytes, target: bytes) -> RequestHead:
        """Another request with the very same fields."""
        head = RequestHead()
        head.method = method
        head.target = target
        head.lines = self.lines
        head.plain = self.plain
        head.claims = self.claims
        head.http10 = self.http10
        head.keep_alive = self.keep_alive
        head.length = self.length
        head.upgrade = self.upgrade
        head.host = self.host
        head.expects_continue = self.expects_continue
        head._fields = self._fields or self.fields
        return head

    def __repr__(self) -> str:
        return f"<RequestHead {self.method.decode()} {self.target.decode()} length={self.length}>"


class ResponseHead(Head):
    """A response's head. ``interim`` is one of the 1xx that come before the final one."""

    __slots__ = ("interim", "reason", "status")

    status: int
    reason: bytes
    interim: bool

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} length={self.length}>"


def parse_request(raw: bytes, limits: Limits) -> RequestHead:
    """The head whose bytes, without the empty line, are ``raw``. Raises `Refused`, not for the first fault always."""
    lines = raw.splitlines()
    if raw.translate(None, TEXT) != b"\r\n" * (len(lines) - 1):
        raise Refused(Reason.CONTROL)
    line = lines[0]
    if len(line) > limits.line:  # type: ignore[operator]
        raise Refused(Reason.LINE_TOO_LONG)
    method, target, version = request_line(line)
    head = RequestHead()
    head.lines = lines
    head.method = method
    host, length, coding, connection, expect = _fields(head, limits)
    http10 = head.http10 = version == b"HTTP/1.0"
    if host is not None:
        if host not in known_hosts:
            check_host(host)
    elif not http10:
        raise Refused(Reason.HOST_MISSING)
    if target[:1] != b"/" and target != b"*":
        target = origin_form(target, host, method)
    head.target = target
    head.host = host
    if coding is not None:
        if http10:
            raise Refused(Reason.CODING_IN_1_0)
        if length is not None:
            raise Refused(Reason.LENGTH_AND_CODING)
        if coding != b"chunked":
            raise Refused(Reason.CODING_UNKNOWN)
        head.length = CHUNKED
    elif length is None:
        head.length = 0
    else:
        head.length = size = _length(length)
        if limits.body is not None and size > int(limits.body):
            raise Refused(Reason.BODY_TOO_LARGE)
    head.expects_continue = False
    if expect is not None and not http10:
        if expect.lower() != b"100-continue":
            raise Refused(Reason.EXPECTATION)
        head.expects_continue = True
    _connection(head, connection)
    return head


def parse_response(raw: bytes, limits: Limits, method: bytes) -> ResponseHead:
    """As `parse_request`; ``method`` is the request's, on which it hangs whether there is a body."""
    lines = raw.splitlines()
    if raw.translate(None, TEXT) != b"\r\n" * (len(lines) - 1):
        raise Refused(Reason.CONTROL)
    line = lines[0]
    if len(line) > limits.line:  # type: ignore[operator]
        raise Refused(Reason.LINE_TOO_LONG)
    status, phrase, http10 = known_status_lines.get(line) or status_line(line)
    head = ResponseHead()
    head.lines = lines
    head.status = status
    head.reason = phrase
    head.http10 = http10
    head.interim = status < 200 and status != 101
    _, length, coding, connection, _ = _fields(head, limits)
    size = UNTIL_CLOSE
    if coding is not None:
        if http10:
            raise Refused(Reason.CODING_IN_1_0)
        if length is not None:
            raise Refused(Reason.LENGTH_AND_CODING)
        if coding.lower() != b"chunked":
            raise Refused(Reason.CODING_UNKNOWN)
        size = CHUNKED
    elif length is not None:
        size = _length(length)
    if status < 200 or status == 204:
        # They have no body whatever they say, and a Content-Length is not allowed to them (RFC 9110 §8.6).
        size = 0
        if length is not None:
            head.plain = [line for line in head.plain if line[:15].lower() != b"content-length:"]
    elif status == 304 or method == b"HEAD":
        size = 0
    head.length = size
    _connection(head, connection)
    if size == UNTIL_CLOSE:
        head.keep_alive = False
    return head


def _fields(head: Head, limits: Limits) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None, bytes | None]:
    """Sort the lines; the values of Host, Content-Length, Transfer-Encoding, Connection and Expect."""
    lines = head.lines
    if len(lines) > limits.fields + 1:
        raise Refused(Reason.TOO_MANY_FIELDS)
    host = length = coding = connection = expect = upgrade = None
    plain: list[bytes] = []
    claims: list[tuple[int, bytes, bytes]] = []
    keep = plain.append
    asks = type(head) is RequestHead  # who answers says nothing of a client
    known = f.known.get
    rest = iter(lines)
    next(rest)
    for line in rest:
        name, colon, value = line.partition(b":")
        kind = known(name)
        if kind == 0 and colon:
            keep(line)
            continue
        if kind is None:
            kind = f.learn(name)
        if not colon:
            raise Refused(Reason.NO_COLON)
        value = value.strip(b" \t")
        if kind == LENGTH:
            if length is not None:
                raise Refused(Reason.LENGTH_SEVERAL)
            length = value
            keep(line if line[15:] == b" " + value else b"Content-Length: " + value)
        elif kind == HOST:
            if host is not None:
                raise Refused(Reason.HOST_SEVERAL)
            host = value
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == CODING:
            if coding is not None:
                raise Refused(Reason.CODING_SEVERAL)
            coding = value
        elif kind == UPGRADE:
            upgrade = value if upgrade is None else upgrade + b"," + value
        elif kind == EXPECT:
            expect = value if expect is None else expect + b"," + value
        elif kind >= FORWARDED and asks:
            claims.append((kind, value, line))
        elif kind == 0 or kind >= FORWARDED:
            keep(line)
    head.plain = plain
    head.claims = claims
    head.upgrade = upgrade
    head._fields = None
    return host, length, coding, connection, expect


def _connection(head: Head, value: bytes | None) -> None:
    """What Connection says of the connection, and the removal of what it names."""
    if value is None or value == b"keep-alive":
        head.keep_alive = value is not None or not head.http10
        head.upgrade = None
        return
    named = set(f.tokens(value))
    head.keep_alive = b"close" not in named and (not head.http10 or b"keep-alive" in named)
    if b"upgrade" not in named or head.http10:
        head.upgrade = None
    elif head.upgrade is not None:
        head.upgrade = head.upgrade.lower()
    named -= {b"close", b"keep-alive", b"upgrade"}
    if named:
        head.plain = [line for line in head.plain if line.partition(b":")[0].lower() not in named]
        head.claims = [claim for claim in head.claims if claim[2].partition(b":")[0].lower() not in named]


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _LONGEST_LENGTH or (value[:1] == b"0" and value != b"0"):
        # A leading zero is octal to some.
        raise Refused(Reason.LENGTH_BAD)
    return int(value)
