"""`CausalityMiddleware`: the token travels with a client, so that its next request sees what this one wrote.

A request brings its token in a header (services) or a cookie (browsers); both are read, and count together. It gets one
back only if it has written, so that reads stay cacheable and cost nothing. The position is read when the answer
begins, hence after the last commit before it; what is committed later, in the background, no header can carry.

A token that is malformed, forged or signed with a key that was dropped is counted and stands for *unknown*: the
request's reads go to the primary, which is always right. Pure ASGI, no framework.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.db.causality import Causality, causality
from tenfold.db.token import UNKNOWN, BadToken, Token, TokenKeys

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER: Final = "Tenfold-Causality"
COOKIE: Final = "tenfold_causality"

_log: Final = logging.getLogger("tenfold.db")
_HEADER: Final = HEADER.lower().encode()


@dataclass(slots=True)
class TokenCounters:
    """``read`` tokens taken in, ``bad`` ones ignored, ``sent`` ones handed out, ``unknown`` of these, in part or whole:
    a primary did not say its position in time, or a transaction was still open.
    """

    read: int = 0
    bad: int = 0
    sent: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieOptions:
    """``max_age`` (5 min, in whole seconds, at least 1) is how long a browser keeps the token: longer than any replica
    that is in use may lag. ``secure`` (on) keeps it off plain HTTP, ``same_site`` ("Lax") off other sites' requests.
    It is always ``HttpOnly``. ``path`` ("/").
    """

    max_age: Duration = "5m"
    secure: bool = True
    same_site: Literal["Lax", "Strict", "None"] = "Lax"
    path: str = "/"

    def __post_init__(self) -> None:
        if duration(self.max_age, "max_age") < 1:
            raise MisuseError(f"max_age: expected at least 1s, got {self.max_age!r}")
        if self.same_site not in ("Lax", "Strict", "None"):
            raise MisuseError(f'same_site: expected "Lax", "Strict" or "None", got {self.same_site!r}')
        if self.same_site == "None" and not self.secure:
            raise MisuseError('same_site: browsers refuse "None" without secure=True')
        if not self.path.startswith("/") or not self.path.isprintable() or ";" in self.path or not self.path.isascii():
            raise MisuseError(f'path: expected a path such as "/shop", got {self.path!r}')

    def header(self, value: str) -> bytes:
        """The value of ``Set-Cookie``."""
        secure = "; Secure" if self.secure else ""
        age = int(duration(self.max_age, "max_age"))
        return (
            f"{COOKIE}={value}; Path={self.path}; Max-Age={age}; HttpOnly; SameSite={self.same_site}{secure}".encode()
        )


class CausalityMiddleware:
    """``CausalityMiddleware(app, keys=TokenKeys([secret]))``: a scope of `causality` around each request.

    ``cookie`` are `CookieOptions`; None sets and reads none. ``within`` (1 s) bounds the reading of the position when
    an answer begins; where that fails the client is handed *unknown* for that system (for all, where it is not known
    which), which sends its next reads there to the primary. So it is where the answer begins before a transaction that
    may have written is over, as in a dependency of FastAPI's that commits after its ``yield``.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: TokenKeys,
        cookie: CookieOptions | None = CookieOptions(),
        within: Duration = "1s",
        counters: TokenCounters | None = None,
    ) -> None:
        if not callable(app):
            raise MisuseError(f"CausalityMiddleware: expected an ASGI application, got {app!r}")
        if not isinstance(keys, TokenKeys):
            raise MisuseError("keys: expected TokenKeys([secret, …])")
        self.app: Final = app
        self.counters: Final = counters if counters is not None else TokenCounters()
        self._keys, self._cookie = keys, cookie
        self._within = duration(within, "within")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with causality(self._read(scope["headers"])) as causal:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start" and causal.writes:
                    message = {**message, "headers": [*message.get("headers", ()), *await self._written(causal)]}
                await send(message)

            await self.app(scope, receive, answer)

    def _read(self, headers: Iterable[tuple[bytes, bytes]]) -> Token | None:
        """The token of a request; of several what covers them all."""
        found: Token | None = None
        for text in self._texts(headers):
            try:
                token = self._keys.read(text)
                self.counters.read += 1
            except BadToken:
                token = UNKNOWN
                self.counters.bad += 1
            found = token if found is None else found.merge(token)
        return found

    def _texts(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
        for name, value in headers:
            if name == _HEADER:
                yield value.decode("latin-1").strip()
            elif name == b"cookie" and self._cookie is not None:
                for pair in value.decode("latin-1").split(";"):
                    key, equals, text = pair.strip().partition("=")
                    if equals and key == COOKIE:
                        yield text.strip('"')

    async def _written(self, causal: Causality) -> list[tuple[bytes, bytes]]:
        try:
            async with asyncio.timeout(self._within):
                await causal.settle()
        except Exception as error:  # noqa: BLE001 - the answer is the application's; unknown is always right
            _log.warning("the position of a commit could not be read: %s: %s", type(error).__name__, error)
        token = causal.so_far() or UNKNOWN
        text = self._keys.sign(token)
        self.counters.sent += 1
        self.counters.unknown += token.others_unknown or bool(token.unknown)
        headers = [(_HEADER, text.encode())]
        if self._cookie is not None:
            headers.append((b"set-cookie", self._cookie.header(text)))
        return headers

    def __repr__(self) -> str:
        return f"<CausalityMiddleware {self.counters}>"
