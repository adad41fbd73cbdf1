"""Cookies of the gateway's own: the endpoint that a client had, and the side of a canary that a visitor is on.

Theory. A sticky cookie holds the id of an endpoint and an HMAC of it (`balance.pick.Sticky`), so that a client can
neither choose an endpoint nor learn which there are; no process keeps a table. The cookie is set when it would change
and only then: at the first visit, and when the endpoint has left, is drained, out of use, or was tried for this request
and failed. An endpoint that is merely full keeps its clients: they come back to it once there is room.

These cookies are between the gateway and the client. They are taken out of what endpoints see, and they are added to an
answer on its way out, after the edge has stored it, so that no store of ours holds one. A cache further on could store
the answer with the cookie and make one user's endpoint everybody's; `no-cache="Set-Cookie"` (RFC 9111 §5.2.2.4) tells
it not to hand that field on. The attributes are those of a session cookie of the whole site that no script reads and no
other site sends along (RFC 6265bis); `Secure` where the client came by TLS, here or at a trusted hop.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final

from tenfold.balance.pick import Sticky

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenfold.balance import Ticket
    from tenfold.gateway.config import Pool, Route
    from tenfold.gateway.engine.forward import Exchange
    from tenfold.gateway.engine.sending import Sending
    from tenfold.gateway.framing import RequestHead

UNSHARED: Final = b'Cache-Control: no-cache="Set-Cookie"'
_MOST: Final = 10_000
_C: Final = b"cC"


class StickyCookie:
    """The cookie of one pool. ``name`` is the pick's ``cookie``, or ``tenfold_`` and the pool's name."""

    __slots__ = ("_cookies", "_signer", "name", "renewed")

    def __init__(self, options: Pool) -> None:
        spec = sticky_of(options.pick)
        assert spec is not None  # `of` looked
        self.name = cookie_name(options, spec)
        self._signer = Sticky(secret=[secret.reveal() for secret in spec.parameters["secret"]])
        self._cookies: dict[str, str] = {}
        self.renewed = 0
        """Cookies that were set."""

    @classmethod
    def of(cls, options: Pool) -> StickyCookie | None:
        """None where the pool has no such pick."""
        return None if sticky_of(options.pick) is None else cls(options)

    def value(self, endpoint: str) -> str:
        """What the cookie of a client is that is to stay with this endpoint."""
        found = self._cookies.get(endpoint)
        if found is None:
            if len(self._cookies) >= _MOST:
                self._cookies.clear()  # ids that come and go, as those of a discovery
            found = self._cookies[endpoint] = self._signer.cookie(endpoint)
        return found

    def renewal(self, exchange: Sending, ticket: Ticket) -> str:
        """The cookie to set where ``ticket`` says who answers; empty: the client's may stay."""
        given, used = exchange.cookie, ticket.endpoint.id
        wanted = self.value(used)
        if given == wanted:
            return ""
        named = endpoint_of(given)
        if named is not None and named not in exchange.tried and exchange.pool.balancer.full(named):
            return "" if compare_digest(self.value(named).encode(), given.encode("utf-8", "replace")) else wanted
        return wanted


def endpoint_of(cookie: str) -> str | None:
    """The id that a cookie holds, signed or not; None where it holds none."""
    text, dot, _ = cookie.partition(".")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode() if dot else None
    except ValueError:
        return None


def sticky_of(spec: Any) -> Any:
    """The pick `sticky` within a pick, or itself; None if there is none."""
    while spec is not None and spec.name != "sticky":
        spec = spec.parameters.get("inner")
    return spec


def cookie_name(options: Pool, spec: Any) -> str:
    """What the sticky cookie of a pool is called."""
    return str(spec.parameters.get("cookie") or f"tenfold_{options.name}")


def own_names(pools: Iterable[Pool], routes: Iterable[Route]) -> frozenset[bytes]:
    """The names of all cookies of the gateway's own in a configuration."""
    names = {cookie_name(pool, spec) for pool in pools if (spec := sticky_of(pool.pick)) is not None}
    names |= {route.canary.cookie for route in routes if route.canary is not None and route.canary.cookie is not None}
    return frozenset(name.encode() for name in names)


def take(head: RequestHead, names: frozenset[bytes]) -> dict[str, str]:
    """Take these cookies out of a request: name to value, of several with one name the first."""
    found: dict[str, str] = {}
    if not any(line[0] in _C and line[:7].lower() == b"cookie:" for line in head.plain):
        return found
    plain = []
    for line in head.plain:
        field, _, value = line.partition(b":")
        if field.lower() == b"cookie":
            kept = []
            for part in value.split(b";"):
                name, _, text = part.strip().partition(b"=")
                if name in names:
                    found.setdefault(name.decode(), text.decode("latin-1").strip('"'))
                elif name:
                    kept.append(part.strip())
            if not kept:
                continue
            line = b"%b: %b" % (field, b"; ".join(kept))
        plain.append(line)
    if found:
        values = [line.partition(b":")[2].strip() for line in plain if line[:7].lower() == b"cookie:"]
        others = {name: said for name, said in head.fields.items() if name != b"cookie"}
        head.replace_fields(plain, others | {b"cookie": values} if values else others)
    return found


def set_cookie(name: str, value: str, *, secure: bool) -> list[bytes]:
    """The lines of an answer that sets a cookie of the gateway's own."""
    line = f"Set-Cookie: {name}={value}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
    return [line.encode(), UNSHARED]


def renew(exchange: Exchange) -> None:
    """Set the sticky cookie with the answer whose head is about to go to the client."""
    sticky = exchange.pool.sticky
    if sticky is not None:
        sticky.renewed += 1
        secure = exchange.client.link(True).secure(exchange.head)
        exchange.extra += set_cookie(sticky.name, exchange.renewal, secure=secure)
