"""Routes that answer by themselves: redirects and fixed responses."""

from __future__ import annotations

from tenfold.gateway.config import Route
from tenfold.gateway.engine.problem import own
from tenfold.gateway.framing import RequestHead


def canned(route: Route, head: RequestHead, *, close: bool) -> tuple[int, bytes]:
    """Status and bytes of the answer of a route with ``redirect`` or ``respond``."""
    changes = route.response_headers
    extra = b""
    if changes is not None:
        lines = (*changes.set.items(), *changes.add.items())
        extra = b"".join(f"{name}: {value}\r\n".encode() for name, value in lines)
    head_only = head.method == b"HEAD"
    redirect = route.redirect
    if redirect is not None:
        path, mark, query = head.target.partition(b"?")
        to = redirect.to.replace("{host}", (head.host or b"").decode("latin-1"))
        to = to.replace("{path}", path.decode("latin-1")).replace("{query}", (mark + query).decode("latin-1"))
        extra = b"Location: " + to.encode("latin-1") + b"\r\n" + extra
        return redirect.status, own(redirect.status, b"", b"", close=close, extra=extra, head_only=head_only)
    respond = route.respond
    assert respond is not None  # a route has one of the three
    kind = respond.content_type.encode()
    return respond.status, own(
        respond.status, kind, respond.body.encode(), close=close, extra=extra, head_only=head_only
    )
