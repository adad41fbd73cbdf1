"""What `Balancer.run` does: a call, tried at one endpoint after another, raced if it is slow, ended at its deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tenfold.balance.attempts import Attempts
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.errors import NotSent, mark
from tenfold.balance.pick.base import Request
from tenfold.balance.ticket import Ticket
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort
from tenfold.resilience.retry import never_sent, passing

if TYPE_CHECKING:
    from tenfold.balance.balancer import Balancer

T = TypeVar("T")


async def call(balancer: Balancer, fn: Callable[[Endpoint], Awaitable[T]], request: Request, idempotent: bool) -> T:
    """`Balancer.run`."""
    attempts = Attempts(balancer, request, idempotent)
    ticket = attempts.first()
    left = attempts.until - balancer.now()
    if left == math.inf:
        return await _tries(balancer, fn, attempts, ticket, idempotent)
    within = asyncio.timeout(left)
    try:
        async with within:
            return await _tries(balancer, fn, attempts, ticket, idempotent)
    except TimeoutError as error:
        if not within.expired():
            raise
        late = DeadlineExceeded(f"balancer {balancer.name!r}: the deadline passed")
        mark(late, balancer.name, attempts.tried)
        raise late from error


async def _tries(
    balancer: Balancer,
    fn: Callable[[Endpoint], Awaitable[T]],
    attempts: Attempts,
    ticket: Ticket | None,
    idempotent: bool,
) -> T:
    hedger = balancer.hedger if idempotent else None
    while ticket is not None:
        try:
            if hedger is None:
                return await _once(fn, ticket)
            with _given_back(ticket):
                return await hedger.run(_racer(balancer, fn, attempts, ticket))
        except Exception as error:
            if isinstance(error, DeadlineTooShort) or not passing(error):
                raise
            ticket = attempts.another(sent=not (isinstance(error, NotSent) or never_sent(error)))
            if ticket is None:
                mark(error, balancer.name, attempts.tried)
                raise
    raise AssertionError("unreachable: the loop ends by returning or raising")


@contextmanager
def _given_back(ticket: Ticket) -> Iterator[None]:
    """A racing attempt is a task, and one that is cancelled before its first step never gets to its own ``with``."""
    try:
        yield
    finally:
        ticket.release(None)


async def _once(fn: Callable[[Endpoint], Awaitable[T]], ticket: Ticket) -> T:
    with ticket:
        return await fn(ticket.endpoint)


def _racer(
    balancer: Balancer, fn: Callable[[Endpoint], Awaitable[T]], attempts: Attempts, ticket: Ticket
) -> Callable[[], Awaitable[T]]:
    """What a hedger calls for each attempt: the first one has its ticket, the others take one when they start."""
    held = [ticket]

    async def attempt() -> T:
        if held:
            return await _once(fn, held.pop())
        beside = attempts.more()
        balancer.count("hedges")
        return await _once(fn, beside)

    return attempt
