"""Field names: which of them the gateway must look at, and a memory of those that were found to be well-formed.

Theory. To check the ten names of every head against RFC 9110's token grammar costs more than all else about the head,
and the names that come are nearly always the same few in one of two spellings. So a name is checked once and its
spelling remembered with what it is for: 0 for the many that are passed on as they came. Looking a name up is then its
check. The memory is bounded in number and length; when it is full, or filled with rubbish by a client on purpose, new
spellings are checked every time, which is slower by a microsecond and otherwise the same.
"""

from __future__ import annotations

import re
from typing import Final

from tenfold.gateway.framing.refusal import Reason, Refused

PLAIN: Final = 0
HOST: Final = 1
LENGTH: Final = 2
CODING: Final = 3
CONNECTION: Final = 4
UPGRADE: Final = 5
EXPECT: Final = 6
HOP: Final = 7
"""For the next hop only, and never passed on: Keep-Alive, Proxy-Connection, Proxy-Authorization, TE and the like."""
FORWARDED: Final = 8
"""Forwarded: what earlier hops say of the client."""
X_FOR: Final = 9
X_CLAIM: Final = 10
"""X-Forwarded-Host, -Proto, -Port and others that only a trusted hop may say."""
REQUEST_ID: Final = 11
TRACE_PARENT: Final = 12
TRACE_STATE: Final = 13

KINDS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"proxy-authorization": HOP,
    b"proxy-authenticate": HOP,
    b"proxy-authentication-info": HOP,
    b"te": HOP,
    b"http2-settings": HOP,
    b"forwarded": FORWARDED,
    b"x-forwarded-for": X_FOR,
    b"x-forwarded-host": X_CLAIM,
    b"x-forwarded-proto": X_CLAIM,
    b"x-forwarded-port": X_CLAIM,
    b"x-forwarded-ssl": X_CLAIM,
    b"x-forwarded-scheme": X_CLAIM,
    b"x-real-ip": X_CLAIM,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACE_PARENT,
    b"tracestate": TRACE_STATE,
}
"""Lower-case names that are not simply passed on, and what they are."""

NOT_IN_CONNECTION: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))
"""Connection may not name these: without them the message would be another one."""

NOT_IN_TRAILERS: Final = frozenset(KINDS) | frozenset(
    (
        b"authorization", b"cookie", b"set-cookie", b"www-authenticate", b"cache-control", b"content-encoding",
        b"content-range", b"content-type", b"location", b"max-forwards", b"range", b"trailer", b"vary", b"age",
        b"date", b"expires", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range",
        b"pragma", b"retry-after",
    )
)  # fmt: skip
"""RFC 9110 §6.5.1: a recipient that merges trailers into the head would believe these."""

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
"""RFC 9110 §5.6.2."""

_MOST: Final = 2048
_LONGEST: Final = 64
_USUAL: Final = (
    b"Accept Accept-Encoding Accept-Language Accept-Ranges Access-Control-Allow-Origin Age Authorization Cache-Control "
    b"Content-Disposition Content-Encoding Content-Language Content-Range Content-Security-Policy Content-Type Cookie "
    b"Date DNT ETag Expires If-Match If-Modified-Since If-None-Match If-Range Last-Modified Link Location Origin "
    b"Pragma Priority Range Referer Retry-After Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User Server "
    b"Server-Timing Set-Cookie Strict-Transport-Security Trailer Upgrade-Insecure-Requests User-Agent Vary "
    b"X-Content-Type-Options X-Frame-Options"
).split()


def learn(name: bytes) -> int:
    """What a field of that name is for, after checking that it is a name. Raises `Refused`."""
    if TOKEN.fullmatch(name) is None:
        raise Refused(_fault(name))
    lower = name.lower()
    kind = KINDS.get(lower, PLAIN)
    # CGI and WSGI servers read an underscore as a hyphen, and would see in Content_Length what we do not see.
    if kind == PLAIN and b"_" in lower and lower.replace(b"_", b"-") in KINDS:
        raise Refused(Reason.FIELD_LOOKALIKE)
    if len(known) < _MOST and len(name) <= _LONGEST:
        known[name] = kind
    return kind


def _fault(name: bytes) -> Reason:
    if name[:1] in (b" ", b"\t"):
        return Reason.FOLDED
    if name[-1:] in (b" ", b"\t") and TOKEN.fullmatch(name.rstrip(b" \t")):
        return Reason.SPACE_BEFORE_COLON
    return Reason.FIELD_NAME


known: Final[dict[bytes, int]] = {
    spelling: KINDS.get(name.lower(), PLAIN)
    for name in (*_USUAL, *KINDS)
    for spelling in (name, name.lower(), name.title())
}
"""Spellings that have been checked. Only `learn` adds to it."""


def tokens(value: bytes) -> list[bytes]:
    """The lower-case members of a list such as Connection's.

    Raises `Refused` where one is no token, or frames or routes the message.
    """
    found = []
    for part in value.lower().split(b","):
        name = part.strip(b" \t")
        if not name:
            continue  # RFC 9110 §5.6.1.2: empty members are read and ignored
        if TOKEN.fullmatch(name) is None or name in NOT_IN_CONNECTION:
            raise Refused(Reason.CONNECTION_NAMES)
        found.append(name)
    return found
