"""Active checks: what is asked of an endpoint, how often, and what counts as a yes.

A check is a frozen declaration that can put its question to any endpoint (`Check.probe`); how often and by whom it is
put is the matter of `checker`, what the answers mean that of `health`. Each probe opens a connection of its own and
closes it: a check over a pooled connection says that the pool is well, not that the server takes new connections.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration, share, whole_number
from tenfold.balance.agent import LOAD_HEADER, check_header, parse_load
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.health import Initial, check_initial
from tenfold.balance.probe_http import NoAnswer, check_path, connect, get


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe found. ``why`` is for a person; ``load`` is what the server said of its own load, if it did."""

    ok: bool
    why: str
    load: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(ABC):
    """What all checks share.

    Asked every ``interval`` (2 s), give or take a random part of ``jitter`` (0.2) of it; no answer within ``timeout``
    (1 s) is a no. ``fall`` (3) noes in a row take an endpoint down, ``rise`` (2) yeses in a row bring it up, and
    before that it is taken for ``initial`` (``"up"``). While an endpoint goes on saying no, the interval doubles
    from ``fall`` on, up to ``backoff`` (30 s); the first yes brings it back.

    Raises `MisuseError` for what makes no sense.
    """

    interval: Duration = 2.0
    timeout: Duration = 1.0
    rise: int = 2
    fall: int = 3
    jitter: str | float = 0.2
    backoff: Duration = 30.0
    initial: Initial = "up"

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("interval", "timeout"):
            seconds = duration(getattr(self, name), f"check {name}")
            if seconds == 0:
                raise MisuseError(f'check {name}: expected more than 0, such as "1s"')
            put(self, name, seconds)
        put(self, "backoff", duration(self.backoff, "check backoff"))
        put(self, "jitter", share(self.jitter, "check jitter"))
        whole_number(self.rise, "check rise", least=1)
        whole_number(self.fall, "check fall", least=1)
        check_initial(self.initial, "check initial")
        if float(self.jitter) > 0.9:
            raise MisuseError(f"check jitter: expected at most 0.9, or a check may follow at once, got {self.jitter!r}")

    async def probe(self, endpoint: Endpoint) -> Verdict:
        """Ask once, within ``timeout``. Never raises for what the endpoint does; cancellation passes through."""
        limit = float(self.timeout)
        try:
            async with asyncio.timeout(limit) as deadline:
                return await self._ask(endpoint)
        except TimeoutError as error:
            if deadline.expired():
                return Verdict(False, f"no answer within {format_duration(limit)}")
            return Verdict(False, _words(error))  # the kernel's own time-out of connecting
        except (OSError, NoAnswer) as error:
            return Verdict(False, _words(error))

    @abstractmethod
    async def _ask(self, endpoint: Endpoint) -> Verdict:
        """Put the question. May raise `OSError`, `TimeoutError` and `NoAnswer`, all of them a no."""

    def pause(self, failures: int, draw: Callable[[], float]) -> float:
        """Seconds from one probe to the next after so many noes in a row; ``draw`` gives a number in [0, 1)."""
        seconds = float(self.interval)
        if failures >= self.fall:
            doubled = seconds * 2.0 ** min(failures - self.fall + 1, 60)
            seconds = max(seconds, min(doubled, float(self.backoff)))
        return seconds * (1.0 + float(self.jitter) * (2.0 * draw() - 1.0))

    def first(self, draw: Callable[[], float]) -> float:
        """Seconds until the first probe: spread over an interval, or over its jitter where work waits for it."""
        return float(self.interval) * draw() * (1.0 if self.initial == "up" else float(self.jitter))


@dataclass(frozen=True, slots=True)
class HttpCheck(Check):
    """Ask by a GET of ``path`` (``"/"``); a status in ``expect`` (200 to 399) is a yes.

    ``host`` is the Host header and the name that a certificate is checked against (default: of the endpoint's url),
    ``tls`` the context for ``https`` (default: the system's authorities). A load in the header ``load_header``
    (``"Tenfold-Load"``; None: not looked for) is passed on. No redirect is followed.
    """

    path: str = "/"
    expect: Container[int] = range(200, 400)
    host: str = ""
    tls: ssl.SSLContext | None = None
    load_header: str | None = LOAD_HEADER

    def __post_init__(self) -> None:
        Check.__post_init__(self)
        check_path(self.path)
        expect: Any = self.expect
        if not hasattr(expect, "__contains__") or isinstance(expect, str | bytes):
            raise MisuseError(f"check expect: expected statuses such as range(200, 400) or {{204}}, got {expect!r}")
        if type(self.host) is not str or not (self.host.isprintable() and self.host.isascii()) or " " in self.host:
            raise MisuseError(f'check host: expected a host name such as "shop.example", got {self.host!r}')
        if self.load_header is not None:
            check_header(self.load_header, "check load_header")

    async def _ask(self, endpoint: Endpoint) -> Verdict:
        started = time.perf_counter()
        answer = await get(endpoint.url, self.path, host=self.host, tls=self.tls)
        load = None
        if self.load_header is not None:
            text = answer.headers.get(self.load_header.lower())
            load = None if text is None else parse_load(text)
        took = format_duration(time.perf_counter() - started)
        if answer.status in self.expect:
            return Verdict(True, f"HTTP {answer.status} in {took}", load)
        return Verdict(False, f"HTTP {answer.status}, which is not among the expected", load)


@dataclass(frozen=True, slots=True)
class TcpCheck(Check):
    """Ask by connecting: who accepts the connection has said yes.

    Says little: the kernel accepts connections for a process that hangs. For ``https`` urls the handshake is part of
    it, which at least asks the process.
    """

    tls: ssl.SSLContext | None = None

    async def _ask(self, endpoint: Endpoint) -> Verdict:
        started = time.perf_counter()
        _, writer = await connect(endpoint.url, tls=self.tls)
        writer.transport.abort()
        return Verdict(True, f"connected in {format_duration(time.perf_counter() - started)}")


@dataclass(frozen=True, slots=True)
class FunctionCheck(Check):
    """Ask ``fn``, an ``async def`` of the endpoint: False or an exception is a no, a `Verdict` is taken as it is."""

    fn: Callable[[Endpoint], Awaitable[bool | Verdict]]

    def __post_init__(self) -> None:
        Check.__post_init__(self)
        call = getattr(self.fn, "__call__", None)  # noqa: B004 - an object whose __call__ is `async def` will do
        if not (inspect.iscoroutinefunction(self.fn) or inspect.iscoroutinefunction(call)):
            raise MisuseError(f"function check: expected an `async def` of one endpoint, got {self.fn!r}")

    async def _ask(self, endpoint: Endpoint) -> Verdict:
        try:
            said: Any = await self.fn(endpoint)
        except (OSError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - an exception is how a check of one's own says no; it is told in words
            return Verdict(False, _words(error))
        if isinstance(said, Verdict):
            return said
        if isinstance(said, bool):
            return Verdict(said, "the check said yes" if said else "the check said no")
        return Verdict(False, f"the check returned {said!r}; expected True, False or a Verdict")


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
