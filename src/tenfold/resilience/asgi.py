"""`ResilienceMiddleware`: what a service owes its callers and itself before a request reaches the application.

The order is that of cost: a request whose time is over is answered without further thought, one beyond its
client's rate before it takes a place in a queue, and the application runs only when there is a place. Pure ASGI:
it wraps any application (Starlette, FastAPI, Litestar, Quart, plain) and needs none of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.resilience.degradation import Degradation
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort, Overloaded, RateLimited, ResilienceError
from tenfold.resilience.exchange import Exchange, deny_websocket
from tenfold.resilience.inbound import (
    App,
    Message,
    Meter,
    Receive,
    RequestCounters,
    Scope,
    Send,
    Terms,
    client_address,
    read_terms,
)
from tenfold.resilience.meters import meter_of
from tenfold.resilience.problem import answer_to
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.shed import Shed, Waiter
from tenfold.resilience.shedder import Shedder
from tenfold.resilience.wire import PRIORITY, Priority


class ResilienceMiddleware:
    """Deadlines, shedding, rate limits and degradation in front of an ASGI application.

    ``shedder`` bounds concurrency (`Shedder`, or `Shed` options for a new one). ``rate_limit`` is a `RateLimit`, or
    a live one of `meter_of`, and is asked with ``key(scope)`` (default: the ``key`` of the `RateLimit`, else the
    peer's address). ``degradation`` is fed with the shedder's pressure at each request (``drive=False``: you feed
    it) and its level stands in the response header ``Tenfold-Degradation``, where it is above 0.

    The deadline is the smallest of ``default_timeout`` (none), of the time that the caller has left by
    ``Tenfold-Timeout-Ms``, taken as ``max_timeout`` (60 s) at most, and of a deadline in force already. It is
    in `SCOPE` for everything below. With ``enforce`` (the default) an application that still runs then is
    cancelled: answered 504 if nothing has been sent, cut off otherwise; once the response is complete, what it
    does in the background is left alone. Streams that may last belong in ``exempt``.

    The priority is that of the header, ``max_priority`` at most (set it to "normal" where strangers call), or
    what ``priority(scope)`` returns. ``exempt`` are paths that pass untouched, health checks above all.

    Refusals are RFC 9457 problems: 503 and 429 with ``Retry-After``, 504 where time ran out; the same errors
    raised by the application are translated as long as it has sent nothing. ``problem_types`` is the prefix of
    the addresses where you document them, ``explain`` puts our error messages into ``detail``.

    A websocket takes a place for its handshake only, since an open connection that idles is no work; its
    deadline bounds the wait for that place, not the connection.
    Raises `MisuseError` for options that make no sense.
    """

    def __init__(
        self,
        app: App,
        *,
        shedder: Shedder | Shed | None = None,
        rate_limit: RateLimit | Meter | None = None,
        key: Callable[[Scope], Hashable] | None = None,
        degradation: Degradation | None = None,
        drive: bool = True,
        default_timeout: Duration | None = None,
        max_timeout: Duration = 60.0,
        enforce: bool = True,
        priority: Callable[[Scope], Priority | str] | None = None,
        max_priority: Priority | str = Priority.CRITICAL,
        exempt: Iterable[str] = (),
        problem_types: str = "",
        explain: bool = False,
        counters: RequestCounters | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not callable(app):
            raise MisuseError(f"ResilienceMiddleware: expected an ASGI application, got {app!r}")
        self._own_meter: Any = None
        meter: Any = rate_limit
        if isinstance(rate_limit, RateLimit):
            key = key or rate_limit.key
            meter = self._own_meter = meter_of(rate_limit, name="requests")
        if meter is not None and not callable(getattr(meter, "admit", None)):
            raise MisuseError(
                f"rate_limit: expected RateLimit options, or a live rate limit with an admit method, got {rate_limit!r}"
            )
        if isinstance(shedder, Shed):
            shedder = Shedder(shedder, name="requests", clock=clock)
        if shedder is not None and not isinstance(shedder, Shedder):
            raise MisuseError(f"shedder: expected a Shedder or Shed options, got {shedder!r}")
        if degradation is not None and not isinstance(degradation, Degradation):
            raise MisuseError(f"degradation: expected a Degradation, got {degradation!r}; make one from its options")
        if isinstance(exempt, str):
            raise MisuseError(f'exempt: expected several paths such as ("/health",), got {exempt!r}; put it in a tuple')
        self.app: Final = app
        self.shedder: Final = shedder
        self.counters: Final = counters if counters is not None else RequestCounters()
        self._rate_limit: Meter | None = meter
        self._key = key or client_address
        self._degradation = degradation
        self._drive = drive and shedder is not None
        self._default_timeout = math.inf if default_timeout is None else _positive(default_timeout, "default_timeout")
        self._max_timeout = _positive(max_timeout, "max_timeout")
        self._enforce = enforce
        self._classify = priority
        self._max_priority = Priority.of(max_priority, "max_priority")
        self._exempt = frozenset(exempt)
        self._problem_types = problem_types
        self._explain = explain
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or scope.get("path") in self._exempt:
            try:
                await self.app(scope, receive, send)
            finally:
                if kind == "lifespan" and hasattr(self._own_meter, "aclose"):
                    await self._own_meter.aclose()
            return
        now = self._clock.monotonic()
        self.counters.requests += 1
        until, retried, priority = self._terms(scope, now)
        level = self._level(now)
        scoped = SCOPE.set((until, retried))
        prioritised = PRIORITY.set(priority)
        try:
            if kind == "http":
                await self._http(Exchange(scope, receive, send, level), until, now)
            else:
                await self._websocket(scope, receive, send, until, now)
        finally:
            PRIORITY.reset(prioritised)
            SCOPE.reset(scoped)

    def _terms(self, scope: Scope, now: float) -> Terms:
        inherited, retried = SCOPE.get()
        terms, malformed = read_terms(
            scope["headers"],
            now,
            Terms(min(inherited, now + self._default_timeout), retried, min(PRIORITY.get(), self._max_priority)),
            max_timeout=self._max_timeout,
            max_priority=self._max_priority,
        )
        self.counters.malformed += malformed
        if self._classify is not None:
            return terms._replace(priority=Priority.of(self._classify(scope), "priority"))
        return terms

    def _level(self, now: float) -> int:
        degradation = self._degradation
        if degradation is None:
            return 0
        if self._drive and self.shedder is not None:
            return degradation.observe(self.shedder.pressure(now), now)
        return degradation.tick(now)

    # HTTP

    async def _http(self, exchange: Exchange, until: float, now: float) -> None:
        if until <= now:
            self.counters.expired += 1
            await self._refuse(exchange, DeadlineTooShort("the request's time was over when it arrived"))
            return
        if until == math.inf or not self._enforce:
            await self._serve(exchange, until, now)
            return
        loop = asyncio.get_running_loop()
        expiry = asyncio.timeout_at(loop.time() + until - now)

        def complete() -> None:
            # What runs on in the background has no caller who waits, so no deadline either.
            SCOPE.set((math.inf, SCOPE.get()[1]))
            with suppress(RuntimeError):  # it has just expired
                expiry.reschedule(None)

        exchange.when_complete(complete)
        try:
            async with expiry:
                await self._serve(exchange, until, now)
        except Exception as error:
            # What an application makes of its cancellation (an ExceptionGroup, say) is the deadline all the same.
            if not expiry.expired():
                raise
            if exchange.complete:
                if isinstance(error, TimeoutError):
                    return
                raise
            self.counters.stopped += 1
            exceeded = DeadlineExceeded("the request was still running when its time was over")
            if exchange.started:
                raise exceeded from error  # the server cuts the connection: half an answer must not look whole
            await self._refuse(exchange, exceeded)
        else:
            if expiry.expired() and not exchange.started and not exchange.gone:
                self.counters.stopped += 1
                await self._refuse(exchange, DeadlineExceeded("the request was stopped when its time was over"))

    async def _serve(self, exchange: Exchange, until: float, now: float) -> None:
        """Limit, queue, call. All that is refused before the application runs ends here."""
        waiter: Waiter | None = None
        shedder = self.shedder
        try:
            try:
                await self._admit(exchange.scope, now)
                if shedder is not None:
                    waiter = shedder.ask(until=until)
                    if waiter.state != "running" and not await self._queue(exchange, shedder, waiter):
                        self.counters.disconnected += 1
                        return
            except ResilienceError as error:
                self._count(error)
                if not await self._refuse(exchange, error):
                    raise
                return
            try:
                await self.app(exchange.scope, exchange.receive, exchange.send)
            except ResilienceError as error:
                if exchange.started or not await self._refuse(exchange, error):
                    raise
                self.counters.translated += 1
        finally:
            if waiter is not None and shedder is not None:
                shedder.leave(waiter)
            await exchange.close()

    async def _admit(self, scope: Scope, now: float) -> None:
        meter = self._rate_limit
        if meter is None:
            return
        key = self._key(scope)
        if getattr(meter, "local", True):
            meter.admit(now, key=key)
        else:
            remote: Any = meter
            await remote.admit_async(now, key=key)

    async def _queue(self, exchange: Exchange, shedder: Shedder, waiter: Waiter) -> bool:
        """Wait for the place, or for the client to go. False: it went."""
        await exchange.until_gone_or(waiter.future)
        if exchange.gone:
            return False
        await shedder.granted(waiter)
        return True

    # Websockets

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, until: float, now: float) -> None:
        waiter: Waiter | None = None
        shedder = self.shedder

        def leave() -> None:
            if waiter is not None and shedder is not None:
                shedder.leave(waiter)

        async def forward(message: Message) -> None:
            leave()  # whatever comes first ends the handshake
            await send(message)

        try:
            try:
                if until <= now:
                    raise DeadlineTooShort("the handshake's time was over when it arrived")
                await self._admit(scope, now)
                if shedder is not None:
                    waiter = shedder.ask(until=until)
                    await shedder.granted(waiter)
            except ResilienceError as error:
                self._count(error)
                await self._deny(scope, send, error)
                return
            # The connection outlives its handshake, and so must what it calls.
            SCOPE.set((math.inf, SCOPE.get()[1]))
            await self.app(scope, receive, forward)
        finally:
            leave()

    # Answers

    def _count(self, error: ResilienceError) -> None:
        if isinstance(error, DeadlineTooShort):
            self.counters.expired += 1
        elif isinstance(error, RateLimited):
            self.counters.rate_limited += 1
        elif isinstance(error, Overloaded):
            self.counters.shed += 1

    async def _refuse(self, exchange: Exchange, error: ResilienceError) -> bool:
        """Answer with a problem. False for an error that is none of ours to translate."""
        answer = answer_to(error, type_prefix=self._problem_types, explain=self._explain)
        if answer is None:
            return False
        await exchange.answer(*answer)
        return True

    async def _deny(self, scope: Scope, send: Send, error: ResilienceError) -> None:
        answer = answer_to(error, type_prefix=self._problem_types, explain=self._explain)
        if answer is None:
            raise error
        await deny_websocket(scope, send, *answer)

    def state(self) -> dict[str, object]:
        """Counters, shedder and degradation as plain values."""
        return {
            "counters": asdict(self.counters),
            "shedder": None if self.shedder is None else self.shedder.state(),
            "degradation": None if self._degradation is None else self._degradation.state(),
        }

    def __repr__(self) -> str:
        counters = self.counters
        return (
            f"<ResilienceMiddleware requests={counters.requests} shed={counters.shed} "
            f"rate_limited={counters.rate_limited} expired={counters.expired} stopped={counters.stopped}>"
        )


def _positive(value: Duration, name: str) -> float:
    seconds = duration(value, name)
    if seconds == 0:
        raise MisuseError(f'{name}: expected a duration above zero such as "5s", got 0')
    return seconds
