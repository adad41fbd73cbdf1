"""Let browsers, a CDN and the gateway's edge hold what an ASGI application answers: the third level.

`HTTPCache` goes around the application; a handler says by `mark` how long its answer may be held and which tags it
depends on::

    from tenfold.cache.http import CacheControl, HTTPCache, mark

    @app.get("/products/{number}")
    async def page(number: int):
        mark(CacheControl(max_age="1m", s_maxage="1h"), tags=[f"product:{number}"])
        return await product(number)

    app.add_middleware(HTTPCache)

What it adds to a GET or HEAD: a strong ETag of the content, 304 for a client that has it (RFC 9110 §13),
Cache-Control, Vary, and the tags as ``Surrogate-Key``, by which a CDN purges. Put it *outside* of compression: a strong
ETag is one of the bytes sent.

Content is held back only if its length is known and no more than ``etag_limit``; a stream (server-sent events, files
sent by the server, downloads) passes at once, without an ETag of ours. An answer with Set-Cookie is for one client:
it gets ``no-store`` and is never a 304, unless ``cookies=True``. What a default allows is ``private`` for requests with
Authorization. An error is never given the time that its handler had meant for an answer.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Size, size
from tenfold.cache.http_rules import (
    SAFE,
    CacheControl,
    not_modified,
    strong_etag,
    surrogate_key,
    surrogate_keys,
    vary,
    verdict,
)

__all__ = ["CacheControl", "HTTPCache", "mark", "surrogate_key"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_log: Final = logging.getLogger("tenfold.cache")
_CONDITIONS: Final = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_LONGEST_KEYS: Final = 16_000  # bytes; CDNs cut or refuse longer ones, and then purge too little
_NO_STORE: Final = CacheControl(no_store=True)
_ALONE: Final = CacheControl(private=True, no_cache=True)


class _Marks:
    """What a handler said of its answer."""

    __slots__ = ("control", "tags", "vary")

    def __init__(self) -> None:
        self.control: CacheControl | None = None
        self.tags: list[str] = []
        self.vary: list[str] = []


_MARKS: ContextVar[_Marks | None] = ContextVar("tenfold.cache.http", default=None)


def mark(control: CacheControl | None = None, *, tags: Iterable[str] = (), vary: Iterable[str] = ()) -> bool:
    """Say how the present answer may be held. Tags and ``vary`` (names of request headers) add up; the last
    ``control`` counts. False where no `HTTPCache` listens, as in a test of the handler alone.
    """
    if isinstance(tags, str) or isinstance(vary, str):
        raise MisuseError(f'mark: expected lists such as ["catalog"], got a text ({tags!r}, {vary!r})')
    marks = _MARKS.get()
    if marks is None:
        return False
    if control is not None:
        marks.control = control
    marks.tags.extend(tags)
    marks.vary.extend(vary)
    return True


class HTTPCache:
    """ASGI middleware: see the module.

    ``default`` is the Cache-Control of a 200 that neither marks nor sets one (default: none). ``etag_limit`` (1 MB) is
    the longest content that gets an ETag. ``tag_header`` is ``Surrogate-Key``, or what your CDN calls it.
    """

    def __init__(
        self,
        app: App,
        *,
        default: CacheControl | None = None,
        etag_limit: Size = "1MB",
        tag_header: str = "Surrogate-Key",
        cookies: bool = False,
    ) -> None:
        if default is not None and not isinstance(default, CacheControl):
            raise MisuseError(f"default: expected a CacheControl or None, got {default!r}")
        self.app: Final = app
        self.default: Final = default
        self.etag_limit: Final = size(etag_limit, "etag_limit")
        self.tag_header: Final = tag_header.encode("ascii")
        self.cookies: Final = cookies
        self.not_modified = 0
        """How many answers were a 304."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in SAFE:
            await self.app(scope, receive, send)
            return
        marks = _Marks()
        token = _MARKS.set(marks)
        try:
            await self.app(scope, receive, _Answer(self, scope, marks, send))
        finally:
            _MARKS.reset(token)

    def __repr__(self) -> str:
        return f"<HTTPCache default={str(self.default or '')!r} not_modified={self.not_modified}>"


class _Answer:
    """The way of one answer: held until its headers can be decided, then sent."""

    def __init__(self, owner: HTTPCache, scope: Scope, marks: _Marks, send: Send) -> None:
        self._owner, self._marks, self._send = owner, marks, send
        self._method: str = scope["method"]
        self._conditions: dict[str, str] = {}
        self._authorised = False
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            self._authorised |= name == "authorization"
            if name in _CONDITIONS:  # a list may come in several lines
                before = self._conditions.get(name)
                text = value.decode("latin-1")
                self._conditions[name] = text if before is None else f"{before}, {text}"
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._length = 0
        self._sent = self._dropped = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if self._dropped:
            return  # the rest of an answer whose place a 304 has taken
        if self._sent:
            await self._send(message)
        elif kind == "http.response.start" and self._start is None:
            self._start = message
        elif kind == "http.response.body" and self._start is not None:
            await self._body(self._start, message)
        else:
            if self._start is not None:
                await self._go(self._start, None)
            await self._pass(message)

    async def _body(self, start: Message, message: Message) -> None:
        part, more = message.get("body", b""), message.get("more_body", False)
        if more and (self._length + len(part) > self._owner.etag_limit or not self._short(start)):
            await self._go(start, None)
            await self._pass({**message, "body": b"".join(self._parts) + part})
            self._parts.clear()
            return
        self._parts.append(part)
        self._length += len(part)
        if more:
            return
        content = b"".join(self._parts)
        await self._go(start, content)
        await self._pass({**message, "body": b"" if self._method == "HEAD" else content})

    def _short(self, start: Message) -> bool:
        """Whether the length is told, and short enough to be waited for."""
        length = _field(start["headers"], b"content-length")
        return length is not None and length.isdigit() and int(length) <= self._owner.etag_limit

    async def _pass(self, message: Message) -> None:
        if not self._dropped:
            await self._send(message)

    async def _go(self, start: Message, content: bytes | None) -> None:
        """Decide the headers and send them, or a 304 or 412 in their place. ``content`` None: not known."""
        self._sent = True
        headers: Headers = [(name, value) for name, value in start.get("headers", ())]
        status: int = start["status"]
        personal = _field(headers, b"set-cookie") is not None and not self._owner.cookies
        control = self._control(status, headers, personal=personal)
        if control is not None:
            _set(headers, b"cache-control", str(control).encode("ascii"))
        self._set_vary(headers)
        if status in _MARKED and not personal and self._marks.tags:
            self._set_tags(headers)
        if status != 200 or personal:
            await self._send({**start, "headers": headers})
            return
        etag = self._etag(headers, content)
        modified = _field(headers, b"last-modified")
        code = verdict(self._method, self._conditions, etag, None if modified is None else modified.decode("latin-1"))
        if code is None:
            await self._send({**start, "headers": headers})
            return
        self._dropped = True
        if code == 304:
            self._owner.not_modified += 1
            headers = not_modified(headers)
        else:
            headers = [(b"content-length", b"0"), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": code, "headers": headers})
        await self._send({"type": "http.response.body", "body": b""})

    def _control(self, status: int, headers: Headers, *, personal: bool) -> CacheControl | None:
        """The Cache-Control to set; None leaves the application's own, or none."""
        own = _field(headers, b"cache-control") is not None
        marked = self._marks.control if status in _MARKED else None
        if personal:
            wanted = marked is not None or (status == 200 and self._owner.default is not None)
            return _NO_STORE if wanted and not (own and marked is None) else None
        if marked is not None:
            return marked
        default = self._owner.default
        if own or default is None or status != 200:
            return None
        if self._authorised and not default.no_store:
            return dataclasses.replace(default, private=True, s_maxage=None)
        return default

    def _set_vary(self, headers: Headers) -> None:
        fields = [value.decode("latin-1") for name, value in headers if name.lower() == b"vary"]
        wanted = [*fields, *self._marks.vary]
        if _field(headers, b"content-encoding") is not None:
            wanted.append("Accept-Encoding")
        if wanted:
            _set(headers, b"vary", vary(*wanted).encode("latin-1"))

    def _set_tags(self, headers: Headers) -> None:
        keys = surrogate_keys(self._marks.tags).encode("ascii")
        if len(keys) <= _LONGEST_KEYS:
            _set(headers, self._owner.tag_header, keys)
            return
        # A CDN that does not know all tags would go on serving what was invalidated.
        _log.warning("%d tags are too many for one header; the answer is not for shared caches", len(self._marks.tags))
        _set(headers, b"cache-control", str(_ALONE).encode("ascii"))

    def _etag(self, headers: Headers, content: bytes | None) -> str | None:
        own = _field(headers, b"etag")
        if own is not None:
            return own.decode("latin-1")
        if content is None or len(content) > self._owner.etag_limit:
            return None
        length = _field(headers, b"content-length")
        if self._method == "HEAD" and (not content or length != str(len(content)).encode()):
            return None  # an application that leaves the content out: its tag is not known
        control = _field(headers, b"cache-control")
        if control is not None and b"no-store" in control.lower():
            return None
        about = [_field(headers, name) or b"" for name in (b"content-type", b"content-encoding", b"content-language")]
        etag = strong_etag(content, *about)
        headers.append((b"etag", etag.encode("ascii")))
        return etag


# What a mark is for: answers that a handler gives on purpose. Not for errors, which nobody is to hold.
_MARKED: Final = frozenset({200, 203, 204, 206, 300, 301, 302, 303, 304, 307, 308, 404, 410})


def _field(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    for one, value in headers:
        if one.lower() == name:
            return value
    return None


def _set(headers: Headers, name: bytes, value: bytes) -> None:
    lower = name.lower()
    headers[:] = [pair for pair in headers if pair[0].lower() != lower]
    headers.append((lower, value))
