"""What tells one user from another: an address, a header or a cookie of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tenfold.gateway.framing import RequestHead


def select(selector: str, head: RequestHead, client: str) -> str:
    """What tells one user from another (``"client"``, ``"header:NAME"``, ``"cookie:NAME"``); empty if there is none."""
    kind, _, name = selector.partition(":")
    if kind == "client":
        return client
    if kind == "header":
        return (head.get(name.lower().encode()) or b"").decode("latin-1")
    return cookie(head, name) or ""


def cookie(head: RequestHead, name: str) -> str | None:
    """The value of a cookie of the request."""
    return cookie_of(head.fields.get(b"cookie", ()), name.encode())


def cookie_of(lines: Collection[bytes], wanted: bytes) -> str | None:
    """The value of the first cookie of that name in these Cookie fields."""
    for line in lines:
        for part in line.split(b";"):
            found, _, value = part.strip().partition(b"=")
            if found == wanted:
                return value.decode("latin-1").strip('"')
    return None
