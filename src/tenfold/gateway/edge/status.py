"""Cache-Status (RFC 9211): what the edge did with a request, for whoever reads the response."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")


class Fwd(Enum):
    """Why a request went on to the origin (RFC 9211 §2.2)."""

    BYPASS = b"bypass"
    """The edge was not to handle it."""
    METHOD = b"method"
    """The method says so."""
    URI_MISS = b"uri-miss"
    """Nothing is stored under the URL."""
    VARY_MISS = b"vary-miss"
    """Something is, but not for a request such as this one."""
    REQUEST = b"request"
    """A fresh response is there, but the request's own Cache-Control refuses it."""
    STALE = b"stale"
    """What is there is stale, or must be checked before each use."""


def line_start(name: str) -> bytes:
    """The field up to and including the cache's name."""
    return b"Cache-Status: " + name.encode("ascii")


def hit(start: bytes, ttl: int, detail: bytes = b"") -> bytes:
    """The line of a response from the store; ``ttl`` is what is left of its freshness, below 0 when stale."""
    return b"%b; hit; ttl=%d%b\r\n" % (start, ttl, b"; detail=" + detail if detail else b"")


def forwarded(
    start: bytes,
    fwd: Fwd,
    *,
    fwd_status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    ttl: int | None = None,
    detail: bytes = b"",
) -> bytes:
    """The line of a response for which the origin was asked. ``detail`` is a token."""
    out = [start, b"; fwd=", fwd.value]
    if fwd_status is not None:
        out.append(b"; fwd-status=%d" % fwd_status)
    if ttl is not None:
        out.append(b"; ttl=%d" % ttl)
    if stored:
        out.append(b"; stored")
    if collapsed:
        out.append(b"; collapsed")
    if detail:
        out.append(b"; detail=" + detail)
    out.append(b"\r\n")
    return b"".join(out)
