"""The virtual user that a journey is handed: requests, waiting, cookies, variables, seeded randomness."""

from __future__ import annotations

import random
import re
import types
from collections.abc import Awaitable, Generator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypedDict, Unpack
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive
from tenfold.load.answer import Answer
from tenfold.load.connection import Failure
from tenfold.load.cookies import CookieJar
from tenfold.load.errors import RequestFailed
from tenfold.load.step import step
from tenfold.load.trampoline import PARKED, resume

if TYPE_CHECKING:
    from tenfold.load.connection import Connection
    from tenfold.load.engine import Engine
    from tenfold.load.pool import Pool

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})  # RFC 9110, 9.2.2
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_WIRES: Final = 10_000
_SAFE: Final = "/?#[]@!$&'()*+,;=:%-._~"
_FIELD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Options(TypedDict, total=False):
    """What `User.request` and its shorthands take besides the URL."""

    headers: Mapping[str, str] | None
    json: Any
    data: bytes | str | Mapping[str, Any] | None
    timeout: units.Duration | None


class User:
    """One run of one journey. It has no name and no past: its cookie jar and ``vars`` start empty."""

    __slots__ = (
        "_coroutine",
        "_counted",
        "_deadline",
        "_engine",
        "_first",
        "_index",
        "_jar",
        "_journey",
        "_random",
        "_samples",
        "_step",
        "_vars",
    )

    def __init__(self, engine: Engine, journey: str, index: int, intended: float) -> None:
        self._engine = engine
        self._journey = journey
        self._index = index
        self._first: float | None = intended
        self._step: step | None = None
        self._jar: CookieJar | None = None
        self._vars: dict[str, Any] | None = None
        self._random: random.Random | None = None
        self._counted = 0
        self._samples = 0
        self._deadline = 0.0
        """Of the request under way."""
        self._coroutine: Any = None

    @property
    def cookies(self) -> CookieJar:
        """The jar of this user. ``Set-Cookie`` of every answer goes in, matching cookies go out."""
        if self._jar is None:
            self._jar = CookieJar()
        return self._jar

    @property
    def vars(self) -> dict[str, Any]:
        """Room for whatever the journey wants to keep."""
        if self._vars is None:
            self._vars = {}
        return self._vars

    @property
    def random(self) -> random.Random:
        """A generator seeded from the run's seed and the number of this arrival: same seed, same choices."""
        if self._random is None:
            self._random = derive(self._engine.seed, "user", self._index)
        return self._random

    def post(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """``await user.post("/path", json={…})``; options as for `request`."""
        return self._exchange(url, method="POST", **options)

    def put(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """``await user.put("/path", json={…})``; options as for `request`."""
        return self._exchange(url, method="PUT", **options)

    def patch(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """``await user.patch("/path", json={…})``; options as for `request`."""
        return self._exchange(url, method="PATCH", **options)

    def delete(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """``await user.delete("/path")``; options as for `request`."""
        return self._exchange(url, method="DELETE", **options)

    def head(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """``await user.head("/path")``; options as for `request`."""
        return self._exchange(url, method="HEAD", **options)

    def request(self, method: str, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
        """Send one request and wait for its answer. Redirects are answers like others and are not followed.

        ``url``
            A path on the target, or a whole URL on an allowed host.
        ``headers``
            Fields beside ``Host``, ``User-Agent`` and ``Accept``.
        ``json``, ``data``
            The body: anything msgspec can encode, or bytes, text or a mapping (sent as a form).
        ``timeout``
            From here to the last byte, waiting for a connection included. Default: the run's (10 s).

        Raises `RequestFailed` where no answer comes; the open step has been marked as failed by then. Outside
        of a step the request is a step of its own, named by method and first path segment.
        """
        return self._exchange(url, method=method, **options)

    @types.coroutine
    def _exchange(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | str | Mapping[str, Any] | None = None,
        timeout: units.Duration | None = None,
        method: str = "GET",
    ) -> Generator[object, Any, Answer]:
        """``await user.get("/path")``; options as for `request`."""
        engine = self._engine
        pool = engine.pool
        opened = self._step
        current = opened if opened is not None else engine.implicit(self, method, url)
        wire: bytes | None = None
        if headers is None and json is None and data is None and self._jar is None:
            wire = (pool.gets.get(url) or _remember(pool, url)) if method == "GET" else _plain(pool, method, url)
        if wire is None:
            pool, url, wire = self._compose(method, url, headers, json, data)
        now = monotonic()
        self._deadline = now + (engine.timeout if timeout is None else units.duration(timeout, "timeout"))
        fresh = False
        while True:
            if pool.idle and not fresh:
                connection = pool.idle.pop()
            else:
                pool.want(self, fresh)
                got: Connection | Failure = yield PARKED
                if isinstance(got, Failure):
                    self._failed(current, opened, got.kind)
                if not got.open:
                    continue
                connection = got
                now = monotonic()
            connection.user = self
            if method != "GET":
                connection.head_only = method == "HEAD"
            if current.sent == 0.0:
                current.sent = now
            if pool.outgoing is None:
                connection.write(wire)
            else:  # with the others whose answers are being handed out
                pool.outgoing.append((connection, wire))
            answer = yield PARKED
            if answer.__class__ is Answer:
                break
            if answer.retryable and not fresh and method in _IDEMPOTENT:
                fresh = True
                pool.retries += 1
                continue
            self._failed(current, opened, answer.kind)
        current.answered = pool.now
        if method != "GET":
            connection.head_only = False
        if answer.status != 200 or current.expect is not None:
            current.judge(answer.status)
        if answer._cookies:
            for cookie in answer.headers.get_all("set-cookie"):
                self.cookies.store(pool.host, url, cookie)
        if opened is None:
            current.__exit__(None, None, None)
        return answer

    if TYPE_CHECKING:

        def get(self, url: str, **options: Unpack[Options]) -> Awaitable[Answer]:
            """``await user.get("/path")``; options as for `request`."""
            raise NotImplementedError
    else:
        get = _exchange  # the most frequent request: it goes without a frame and a dictionary of options

    def _failed(self, current: step, opened: step | None, kind: str) -> NoReturn:
        current.answered = monotonic()
        current.fail(kind)
        if opened is None:
            current.__exit__(None, None, None)
        # Held by no frame of its own traceback, so that it dies by reference counting alone.
        raise RequestFailed(kind)

    def _compose(
        self, method: str, url: str, headers: Mapping[str, str] | None, json: Any, data: Any
    ) -> tuple[Pool, str, bytes]:
        """The general case: another origin, fields, a body, cookies."""
        pool = self._engine.pool
        if not url.startswith("/"):
            parts = urlsplit(url)
            if not parts.scheme and not parts.netloc:
                raise MisuseError(f'request: expected a path such as "/items" or a whole URL, got {url!r}')
            pool = self._engine.pool_for(url)
            url = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        url = quote(url, safe=_SAFE)
        body, kind = _body(json, data)
        fields = _checked(method, url, pool.fields).decode()
        given = {name.lower() for name in headers} if headers is not None else ()
        if body is not None or method in ("POST", "PUT", "PATCH"):
            body = body or b""
            fields += f"Content-Length: {len(body)}\r\n"
            if kind and "content-type" not in given:
                fields += f"Content-Type: {kind}\r\n"
        if self._jar is not None and "cookie" not in given:
            cookies = self._jar.header(pool.host, url, pool.scheme == "https")
            if cookies:
                fields += f"Cookie: {cookies}\r\n"
        if headers is not None:
            for name, value in headers.items():
                text = str(value)
                if not _FIELD.fullmatch(name) or "\r" in text or "\n" in text:
                    raise MisuseError(f"request: expected a header field without line breaks, got {name!r}: {text!r}")
                fields += f"{name}: {text}\r\n"
        return pool, url, (fields + "\r\n").encode("latin-1", "replace") + (body or b"")

    def think(self, low: units.Duration, high: units.Duration | None = None) -> Awaitable[None]:
        """Wait ``low``, or a uniformly random time between ``low`` and ``high``. Outside of steps it counts
        nowhere.
        """
        return self._pause(low, high)

    @types.coroutine
    def _pause(self, low: units.Duration, high: units.Duration | None) -> Generator[object, Any, None]:
        seconds = units.duration(low, "think")
        if high is not None:
            seconds += (units.duration(high, "think") - seconds) * self._engine.random()
        self._engine.loop.call_later(seconds, self._wake)
        yield PARKED

    def _wake(self) -> None:
        if self._engine.alive(self):
            resume(self, None)

    def __repr__(self) -> str:
        return f"User({self._journey}, arrival {self._index})"


def _remember(pool: Pool, url: str) -> bytes | None:
    """The bytes of a GET of a path, without fields of its own, kept for the next time."""
    wire = _plain(pool, "GET", url)
    if wire is not None:
        if len(pool.gets) >= _WIRES:
            pool.gets.clear()
        pool.gets[url] = wire
    return wire


def _plain(pool: Pool, method: str, url: str) -> bytes | None:
    """The bytes of a request to a path, without fields or body of its own; None for a whole URL."""
    if not url.startswith("/"):
        return None
    length = "" if method in _BODILESS else "Content-Length: 0\r\n"
    return _checked(method, url, f"{pool.fields}{length}\r\n")


def _checked(method: str, url: str, rest: str) -> bytes:
    if not method.isascii() or not method.isalpha():
        raise MisuseError(f'request: expected a method such as "GET", got {method!r}')
    if not (url.isascii() and url.isprintable()) or " " in url:
        url = quote(url, safe=_SAFE)
    return f"{method} {url}{rest}".encode()


def _body(json: Any, data: Any) -> tuple[bytes | None, str]:
    if json is not None:
        if data is not None:
            raise MisuseError("request: expected json= or data=, got both; send one body")
        return msgspec.json.encode(json), "application/json"
    if isinstance(data, Mapping):
        return urlencode(data, doseq=True).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    if data is None or isinstance(data, bytes):
        return data, ""
    raise MisuseError(f"request: expected data= as bytes, text or a mapping, got {type(data).__name__}")
