"""Client transports for httpx2 and httpx that tell the next service what a call inherits, and keep to it
themselves.

Both libraries have the same faces, so this takes whichever transport it is given and imports neither.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.resilience.errors import DeadlineTooShort
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.wire import (
    PRIORITY,
    PRIORITY_HEADER,
    RETRIED_BY_CALLER,
    RETRY,
    TIMEOUT,
    Priority,
    format_timeout,
    parse_timeout,
)

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport, BaseTransport, Request, Response
else:
    # Clients ask a transport for its methods, not for its class.
    AsyncBaseTransport = BaseTransport = object

_PHASES: Final = ("connect", "read", "write", "pool")
_LEAST: Final = 0.001  # the wire counts milliseconds, and 0 of them is "too late"


class _Marker:
    """What both transports do to a request before it is sent."""

    __slots__ = ("_clock", "_margin")

    def __init__(self, margin: Duration, clock: Clock) -> None:
        self._margin = duration(margin, "margin")
        self._clock = clock

    def marked(self, request: Any) -> Any:
        """A copy of the request with our headers and its time-outs cut to what is left.

        A copy, because the same request may be sent again, later or at the same time. Raises `DeadlineTooShort`
        when nothing is left.
        """
        until, retried = SCOPE.get()
        priority = PRIORITY.get()
        if until == math.inf and not retried and priority is Priority.NORMAL:
            return request
        copy = type(request)(
            request.method, request.url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        headers = copy.headers
        if retried:
            headers[RETRY] = RETRIED_BY_CALLER
        if priority is not Priority.NORMAL and PRIORITY_HEADER not in headers:
            headers[PRIORITY_HEADER] = priority.label
        if until == math.inf:
            return copy
        remaining = until - self._clock.monotonic()
        told = remaining - self._margin
        if told < _LEAST:
            raise DeadlineTooShort(
                f"{request.method} {request.url.host}: {max(0.0, remaining) * 1000:.3g} ms are left"
                + (f" and {self._margin * 1000:.3g} ms of them are kept back" if self._margin else "")
                + "; the request was not sent"
            )
        own = parse_timeout(headers.get(TIMEOUT, "").encode())
        headers[TIMEOUT] = format_timeout(told if own is None else min(own, told))
        limits = copy.extensions.get("timeout") or {}
        copy.extensions["timeout"] = {phase: _shorter(limits.get(phase), remaining) for phase in _PHASES}
        return copy


def _shorter(limit: float | None, remaining: float) -> float:
    return remaining if limit is None else min(limit, remaining)


class ResilientTransport(AsyncBaseTransport):
    """An asynchronous transport around another one (of httpx2 or httpx), for a client's ``transport=``::

        client = httpx2.AsyncClient(transport=ResilientTransport(httpx2.AsyncHTTPTransport()))

    Each request tells the next service in ``Tenfold-Timeout-Ms`` how much of the deadline in force is left
    (rounded down, less ``margin``, default 0: the time that you keep for the answer's way back), in
    ``Tenfold-Retry`` whether a layer here repeats it, and in ``Tenfold-Priority`` how much it matters (absent:
    normal; one that you set on the request stays). The request's own time-outs are cut to what is left, each of
    them: connecting, writing and waiting for the answer may take that long *each*, and it is the policy or the
    middleware around the call that stops it at the deadline. Outside of a deadline nothing is changed.

    Raises `DeadlineTooShort`, before anything is sent, when less than a millisecond is left.
    """

    def __init__(self, inner: AsyncBaseTransport, *, margin: Duration = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        _expect(inner, "handle_async_request", "ResilientTransport", "httpx2.AsyncHTTPTransport()")
        self.inner: Final = inner
        self._marker = _Marker(margin, clock)

    async def handle_async_request(self, request: Request) -> Response:
        return await self.inner.handle_async_request(self._marker.marked(request))

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> ResilientTransport:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.inner.__aexit__(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        return f"ResilientTransport({self.inner!r})"


class ResilientSyncTransport(BaseTransport):
    """The same for a synchronous client."""

    def __init__(self, inner: BaseTransport, *, margin: Duration = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        _expect(inner, "handle_request", "ResilientSyncTransport", "httpx2.HTTPTransport()")
        self.inner: Final = inner
        self._marker = _Marker(margin, clock)

    def handle_request(self, request: Request) -> Response:
        return self.inner.handle_request(self._marker.marked(request))

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> ResilientSyncTransport:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.inner.__exit__(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        return f"ResilientSyncTransport({self.inner!r})"


def _expect(inner: object, method: str, name: str, example: str) -> None:
    if not callable(getattr(inner, method, None)):
        raise MisuseError(f"{name}: expected a transport such as {example}, got {inner!r}; it has no {method}")
