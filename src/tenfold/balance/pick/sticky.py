"""Sticky sessions: a cookie names the member that a client had, and it has that one again while it is there.

The cookie is the endpoint's id and an HMAC of it (RFC 2104, with SHA-256, cut to 128 bits), so that a client can
neither choose a member nor learn by trying which there are. It holds no more: who may have it may have that member. If
the cookie is missing, forged, signed with a secret that is no longer in use, or names one that may not be used now, the
inner policy chooses, and the answer should set the cookie anew.

A signature is worked out once for each member and secret, not for each request.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from hmac import compare_digest
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.pick.lazily import inner_pick, sort_by_id
from tenfold.balance.pick.p2c import P2C

_SHORTEST: Final = 16
_LABEL: Final = b"tenfold sticky 1\0"  # what one signs here means nothing elsewhere
_BYTES: Final = 16

Secret = str | bytes


class Sticky(Pick):
    """The member named by `Request.cookie`; else as ``inner`` (`P2C`) says.

    ``secret`` signs: 16 bytes or more, from a real source of chance. Given several, the first signs and all are good:
    put a new one in front, and take the old one away when its cookies have gone.

    Raises `MisuseError` for a short secret, or none.
    """

    name = "sticky"

    def __init__(self, inner: Pick | None = None, *, secret: Secret | Sequence[Secret]) -> None:
        self.inner = inner_pick(P2C() if inner is None else inner, "Sticky")
        several = list(secret) if isinstance(secret, list | tuple) else [secret]
        self._secrets = [_secret(one) for one in several]
        if not self._secrets:
            raise MisuseError("Sticky secret: expected one or more, got none")
        self._named: dict[str, Member] = {}  # by the id as it stands in the cookie
        self._cookies: dict[str, list[bytes]] = {}

    def cookie(self, endpoint_id: str) -> str:
        """What to set as the cookie's value for a client that is to stay with this endpoint. All of it is URL-safe."""
        return self._signed(_base64(endpoint_id.encode()))[0].decode()

    def declare(self, members: Sequence[Member]) -> None:
        self.inner.declare(members)

    def rebuild(self, members: Sequence[Member]) -> None:
        self.members = sort_by_id(members)
        self._named = {_base64(member.id.encode()): member for member in self.members}
        self._cookies = {text: cookies for text, cookies in self._cookies.items() if text in self._named}
        self.inner.rebuild(self.members)

    def started(self, member: Member, now: float) -> None:
        self.inner.started(member, now)

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        self.inner.finished(member, now, elapsed, ok)

    def named(self, cookie: str) -> Member | None:
        """The member that a good cookie names, if it may be used."""
        text = cookie.partition(".")[0]
        member = self._named.get(text)
        if member is None:
            return None
        cookies = self._cookies.get(text)
        if cookies is None:
            cookies = self._cookies[text] = self._signed(text)
        given = cookie.encode("utf-8", "surrogatepass")
        return member if any(compare_digest(good, given) for good in cookies) else None

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """All members, the best first, each once."""
        member = self.named(request.cookie) if request.cookie else None
        if member is not None:
            yield member
        for other in self.inner.order(now, draw, request):
            if other is not member:
                yield other

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        reasons = self.inner.explain(now, request)
        member = self.named(request.cookie) if request.cookie else None
        if member is None:
            return reasons
        score = min(0.0, *(reason.score for reason in reasons))
        named = Reason(member.id, score, "named by the client's cookie")
        return [named, *(reason for reason in reasons if reason.id != member.id)]

    def _signed(self, text: str) -> list[bytes]:
        cookies = []
        for secret in self._secrets:
            mac = hmac.digest(secret, _LABEL + text.encode(), "sha256")[:_BYTES]
            cookies.append(f"{text}.{_base64(mac)}".encode())
        return cookies

    def __repr__(self) -> str:
        return f"Sticky({self.inner!r})"


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _secret(value: object) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    if not isinstance(raw, bytes) or len(raw) < _SHORTEST:
        # Not the value: secrets have no business in a log.
        got = f"{len(raw)} bytes" if isinstance(raw, bytes) else f"a {type(value).__name__}"
        raise MisuseError(f"Sticky secret: expected {_SHORTEST} bytes or more, such as secrets.token_hex(), got {got}")
    return raw
