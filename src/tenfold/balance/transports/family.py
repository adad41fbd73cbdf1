"""httpx2 and httpx have the same faces and different classes: `Family` is the one a request belongs to. With it, what
both transports do to a request before it is sent: another address, and a body that can be sent again.
"""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError
from tenfold.balance.transports.address import base_of
from tenfold.balance.transports.rules import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenfold.balance.endpoint import Endpoint

_KEEP_ALIVE: Final = 4.0
"""Seconds that an idle connection is kept: fewer than servers keep theirs (uvicorn: 5), so that the client closes
first and the race of `rules` is rare.
"""
_CONNECTIONS: Final = 100
_URLS: Final = 256
_KINDS: Final = {
    "ConnectError": Failure.UNSENT,
    "ConnectTimeout": Failure.UNSENT,
    "ProxyError": Failure.UNSENT,
    "PoolTimeout": Failure.NOT_HERS,
    "ReadTimeout": Failure.NO_ANSWER,
    "WriteTimeout": Failure.NO_ANSWER,
    "ReadError": Failure.BROKEN,
    "WriteError": Failure.BROKEN,
    "CloseError": Failure.BROKEN,
    "RemoteProtocolError": Failure.BROKEN,
}


class Family:
    """The classes of one of the two libraries."""

    def __init__(self, module: Any) -> None:
        from tenfold.balance.errors import NoEndpoint

        self.module: Final = module
        self.name: Final[str] = module.__name__
        self.kinds: Final = {getattr(module, name): kind for name, kind in _KINDS.items()}
        self.no_endpoint: Final = type("NoEndpoint", (NoEndpoint, module.ConnectError), {"__module__": __name__})
        """`NoEndpoint` that the library's own ``except ConnectError`` catches as well."""
        self._context: ssl.SSLContext | None = None

    def failure(self, error: BaseException) -> Failure:
        """How far the request got."""
        for kind in type(error).__mro__:
            found = self.kinds.get(kind)
            if found is not None:
                return found
        return Failure.OURS

    def pool(self, endpoint: Endpoint, kind: str) -> Any:
        """A transport of the library's own for one endpoint; ``kind`` is the name of its class."""
        limits = self.module.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE
        )
        parts = urlsplit(endpoint.url)
        options: dict[str, Any] = {"limits": limits, "verify": self._trust(parts.scheme)}
        if parts.scheme == "unix":
            options["uds"] = parts.path
        return getattr(self.module, kind)(**options)

    def _trust(self, scheme: str) -> ssl.SSLContext:
        # Loading the certificates takes long, so all endpoints share one context, and plain ones do without.
        if scheme != "https":
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._context is None:
            self._context = self.module.create_ssl_context()
        return self._context

    def __repr__(self) -> str:
        return f"<Family {self.name}>"


@cache
def _family(name: str) -> Family:
    return Family(sys.modules[name] if name in sys.modules else import_module(name))


def family_of(request: Any) -> Family:
    """The library that a request is of. Raises `MisuseError` for one of neither."""
    name = type(request).__module__.partition(".")[0]
    if name not in ("httpx2", "httpx"):
        raise MisuseError(f"balanced transport: expected a request of httpx2 or httpx, got {request!r}")
    return _family(name)


class Lane:
    """The connections to one endpoint, and how a request is addressed to it."""

    __slots__ = ("_base", "_host", "_lock", "_preserve_host", "_urls", "endpoint", "gone", "inner", "open", "served")

    def __init__(self, endpoint: Endpoint, inner: Any, *, preserve_host: bool) -> None:
        self._lock = threading.Lock()
        self.endpoint = endpoint
        self.inner = inner
        self.open = 0
        """Requests that use it now."""
        self.served = False
        """Whether a response has ended here, so that there may be an idle connection."""
        self.gone = False
        """Whether it is to be closed as soon as nobody uses it."""
        self._base = base_of(endpoint)
        self._host = self._base["authority"].encode()
        self._preserve_host = preserve_host
        self._urls: dict[Any, Any] = {}

    def enter(self) -> None:
        """One request more uses it."""
        with self._lock:
            self.open += 1

    def leave(self) -> None:
        """One fewer."""
        with self._lock:
            self.open -= 1

    def addressed(self, request: Any, stream: Any) -> Any:
        """A copy of ``request`` for this endpoint: the caller's stays as it is, for redirects and the next try."""
        copy = object.__new__(type(request))
        copy.__dict__.update(request.__dict__)
        copy.url = self._url(request.url)
        copy.stream = stream
        extensions = dict(request.extensions)
        if not self._preserve_host:
            copy.headers = type(request.headers)(
                [pair if pair[0].lower() != b"host" else (pair[0], self._host) for pair in request.headers.raw]
            )
        else:
            copy.headers = request.headers.copy()
            if self._base["scheme"] == "https":
                # The certificate is asked for, and checked, by the name that the caller knows the service by.
                extensions.setdefault("sni_hostname", request.url.host)
        copy.extensions = extensions
        return copy

    def _url(self, url: Any) -> Any:
        found = self._urls.get(url)
        if found is None:
            base = self._base
            found = url.copy_with(scheme=base["scheme"], host=base["host"], port=base["port"])
            if len(self._urls) >= _URLS:
                self._urls.clear()
            self._urls[url] = found
        return found

    def __repr__(self) -> str:
        return f"<Lane {self.endpoint.id!r} open={self.open}{' gone' if self.gone else ''}>"


class Replay:
    """A streamed body that remembers up to ``bound`` bytes of itself, so that it can be sent once more.

    A body that came to an end within the bound, or that broke off within it, starts again with what is remembered and
    goes on with the rest. Beyond the bound everything is forgotten, and ``overflow`` is called.
    """

    __slots__ = ("_bound", "_kept", "_overflow", "_size", "_source", "replayable")

    def __init__(self, source: Any, bound: int, overflow: Callable[[], object]) -> None:
        self._source = aiter(source) if hasattr(source, "__aiter__") else iter(source)
        self._bound = bound
        self._overflow = overflow
        self._kept: list[bytes] = []
        self._size = 0
        self.replayable = True

    def keep(self, part: bytes) -> None:
        """Remember ``part``, or forget all."""
        if not self.replayable:
            return
        self._size += len(part)
        if self._size > self._bound:
            self.replayable = False
            self._kept.clear()
            self._overflow()
        else:
            self._kept.append(part)

    def parts(self) -> Iterator[bytes]:
        """The whole body."""
        yield from tuple(self._kept)
        for part in self._source:
            self.keep(part)
            yield part

    async def aparts(self) -> AsyncIterator[bytes]:
        """The whole body."""
        for kept in tuple(self._kept):
            yield kept
        async for part in self._source:
            self.keep(part)
            yield part
