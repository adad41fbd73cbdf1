"""Start lines, and the host that a target or Host names.

Theory. The first line decides what kind of message this is, and other protocols knock at the same door: HTTP/0.9 (no
version), the preface of HTTP/2, TLS (which is no text and refused as such). A target is a path (origin-form), a URL
(absolute-form, which RFC 9112 §3.2.2 wants taken, here only if it names the same host as Host does), or ``*`` with
OPTIONS; authority-form belongs to CONNECT, which a gateway does not do. Methods are those that both parsers know:
case counts, and what one peer takes for another method nobody shall guess.
"""

from __future__ import annotations

import re
from typing import Final

from tenfold.gateway.framing.fields import TOKEN
from tenfold.gateway.framing.refusal import Reason, Refused

METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE PATCH OPTIONS QUERY PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH".split()
)
"""What is passed on: RFC 9110, RFC 5789, QUERY and WebDAV. Methods that no parser here knows are refused."""

usual_line: Final = re.compile(rb"([A-Z]+) (/[!\"$-~]*) HTTP/1\.1").fullmatch
"""A match of method, which must be one of `METHODS`, and target, for a request line as nearly all are."""
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)

# Like the names of fields, few different ones come, and each is checked once.
known_hosts: Final[set[bytes]] = set()
_MOST_HOSTS: Final = 1024
known_status_lines: Final[dict[bytes, tuple[int, bytes, bool]]] = {}
_MOST_LINES: Final = 256


def request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version. Raises `Refused`."""
    match = usual_line(line)
    if match is not None:
        method, target = match.groups()
        if method in METHODS:
            return method, target, b"HTTP/1.1"
    return _unusual_line(line, line.split(b" "))


def _unusual_line(line: bytes, parts: list[bytes]) -> tuple[bytes, bytes, bytes]:
    """HTTP/1.0, the other forms of a target, and all that is refused."""
    if len(parts) != 3:
        if not line:
            raise Refused(Reason.EMPTY_LINE)
        raise Refused(Reason.HTTP_0_9 if len(parts) == 2 and parts[0] in METHODS and parts[1] else Reason.REQUEST_LINE)
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        if line == b"PRI * HTTP/2.0":
            raise Refused(Reason.HTTP_2)
        numbered = len(version) == 8 and version[:5] == b"HTTP/" and version[5:6].isdigit() and version[7:].isdigit()
        raise Refused(Reason.VERSION if numbered and version[6:7] == b"." else Reason.REQUEST_LINE)
    if method not in METHODS:
        if method in (b"CONNECT", b"TRACE"):
            raise Refused(Reason.METHOD_REFUSED)
        raise Refused(Reason.METHOD_UNKNOWN if TOKEN.fullmatch(method) else Reason.REQUEST_LINE)
    if (
        not (target[:1] == b"/" or (target == b"*" and method == b"OPTIONS") or _ABSOLUTE.fullmatch(target))
        or not target.isascii()
        or b"#" in target
        or b"\t" in target
    ):
        raise Refused(Reason.TARGET)
    return method, target, version


def status_line(line: bytes) -> tuple[int, bytes, bool]:
    """Status, phrase and whether it is HTTP/1.0. Raises `Refused`."""
    version, status, phrase = line[:8], line[9:12], line[12:]
    if (
        (version != b"HTTP/1.1" and version != b"HTTP/1.0")
        or line[8:9] != b" "
        or len(status) != 3
        or not status.isdigit()
        # The space before an empty phrase is often forgotten, and nothing hangs on it.
        or (phrase and phrase[:1] != b" ")
    ):
        raise Refused(Reason.STATUS_LINE)
    if not b"100" <= status <= b"599":
        raise Refused(Reason.STATUS)
    found = int(status), phrase[1:], version == b"HTTP/1.0"
    if len(known_status_lines) < _MOST_LINES and len(line) <= 64:
        known_status_lines[line] = found
    return found


def is_host(host: bytes) -> bool:
    """Whether it is a name or an address, with a port or without."""
    match = _HOST.fullmatch(host)
    return match is not None and (match[1] is None or int(match[1]) <= 65535)


def check_host(host: bytes) -> None:
    """Raise `Refused` unless it is one; remember it."""
    if not is_host(host):
        raise Refused(Reason.HOST_BAD)
    if len(known_hosts) < _MOST_HOSTS:
        known_hosts.add(host)


def origin_form(target: bytes, host: bytes | None, method: bytes) -> bytes:
    """A target that is a URL as a path. RFC 9112 §3.2.2 wants it taken; that it names the Host is our condition."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or host is None or match[1].lower() != host.lower():
        raise Refused(Reason.HOST_MISMATCH)
    path = match[2]
    if not path and method == b"OPTIONS":
        return b"*"
    return path if path[:1] == b"/" else b"/" + path
