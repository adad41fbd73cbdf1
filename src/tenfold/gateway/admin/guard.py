"""Who is let in: the token, and the names by which the server may be addressed.

Theory. A token in a header stops everybody who does not know it, and is compared in constant time, so that it cannot
be guessed byte by byte. What is open without one (``/metrics``, if told so) a web page in the administrator's browser
could still read by DNS rebinding: a page's own host name is made to resolve to 127.0.0.1, and the browser takes our
answers for that page's. It cannot make the browser lie in ``Host``, so a request for a name that is not ours is
refused; figures (``127.0.0.1``) need no look-up and thus cannot be rebound. Simple cross-site requests carry an
``Origin``, which must be the same as Host. (RFC 6750 for the challenge.)
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tenfold.gateway.config import Admin
    from tenfold.gateway.framing import RequestHead

_LOCAL: Final = ("localhost",)
CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tenfold gateway"'


class Denied(NamedTuple):
    """Why a request is not looked at further."""

    status: int
    detail: str
    extra: bytes = b""


def denied(options: Admin, head: RequestHead, path: str) -> Denied | None:
    """Whether a request is refused, and why."""
    host = (head.host or b"").decode("latin-1")
    if not _ours(options, _name(host)):
        return Denied(
            421, f"this server is not called {_name(host)!r}; use an address in figures, localhost, or admin.names"
        )
    origin = head.get(b"origin")
    if origin is not None and origin.decode("latin-1").partition("://")[2].lower() != host.lower():
        return Denied(403, "requests of other sites' pages (Origin) are refused")
    if path == "/metrics" and not options.metrics_token:
        return None
    return _token(options, head)


def _token(options: Admin, head: RequestHead) -> Denied | None:
    values = head.fields.get(b"authorization", [])
    if len(values) != 1:
        return Denied(401, "expected Authorization: Bearer and the token of [admin]", CHALLENGE + b"\r\n")
    scheme, _, token = values[0].partition(b" ")
    right = hmac.compare_digest(token.strip(b" "), options.token.reveal().encode())
    if scheme.lower() != b"bearer" or not right:
        return Denied(401, "the token is not the one of [admin]", CHALLENGE + b', error="invalid_token"\r\n')
    return None


def _name(host: str) -> str:
    """A Host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _ours(options: Admin, name: str) -> bool:
    if name in _LOCAL or name == options.listen.host.lower() or name in (each.lower() for each in options.names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
