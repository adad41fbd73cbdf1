"""HAProxy's own answers as the problems that the gateway's table has (`engine.problem.PROBLEMS`). Pure.

Theory. HAProxy has an answer for each status and not for each cause. Two causes share 503: no endpoint could be given,
and the endpoint that was given took no connection. What tells them apart when the answer is made is whether the request
has a server; so the body of 503 is an expression. ``srv_id`` yields nothing where there is none, and then all that is
made of it is nothing too; that is the only branch there is, so the body for "there is none" is the default of a
variable that is set where there is one. What is no request, and a head that takes too long, are answered before there
is a stream that rules could ask: HAProxy's own page, whatever is configured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tenfold.gateway.config import Config, Pool, Route
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.limits import limited
from tenfold.gateway.engine.problem import Fault, fault
from tenfold.gateway.framing import Reason, Refusal
from tenfold.gateway.haproxy.quote import argument, word

HOST: Final = problem.fault_of(Refusal(400, Reason.HOST_BAD))
LENGTH: Final = fault("length_required", "the length of the body must be said, because there is a limit")
ENGINE: Final = fault("engine", "HAProxy failed by itself")
NO_ENDPOINT: Final = fault("no_endpoint", "no endpoint can take the request")
CONNECT: Final = problem.CONNECT._replace(status=503)
STALLED: Final = problem.BODY_TIMEOUT._replace(status=400, detail="the request's body came too slowly, or broke off")


def told(given: Fault, config: Config, pool: Pool | None = None, route: Route | None = None) -> str:
    """The body of a problem, with what the limit is set to."""
    tables: dict[str, Any] = {"gateway": config.gateway, "pool": pool, "route": route}
    return json.dumps(problem.document(problem.measured(given, tables.get)))


def refuse(given: Fault, body: str, condition: str, more: str = "") -> str:
    """A rule that answers with a problem."""
    return (
        f"http-request return status {given.status} content-type application/problem+json "
        f"string {word(body)}{more} if {condition}"
    )


def rate(route: Route) -> Fault:
    """What a request is told that came too early."""
    assert route.rate_limit is not None  # asked by the caller
    return limited(route.rate_limit, route.limit_by, 1.0)


def of_all(config: Config) -> Iterator[str]:
    """The answers that are given before a pool is known, for ``defaults``."""
    for each in (problem.HEADER_TIMEOUT, ENGINE, problem.BROKEN, NO_ENDPOINT, problem.FIRST_BYTE):
        yield _error(each.status, f"string {word(told(each, config))}")


def of_pool(config: Config, pool: Pool, routes: Sequence[Route]) -> Iterator[str]:
    """Those of a pool's requests. A route with a deadline that may fire sets ``txn.late``."""
    yield _error(400, f"string {word(told(STALLED, config))}")
    connect = argument(told(CONNECT, config, pool))
    nobody = argument(told(problem.QUEUE_TIMEOUT if pool.max_in_flight is not None else NO_ENDPOINT, config, pool))
    there = f"%[srv_id,bool,iif({connect},{connect})]%[srv_id,bool,iif(,),set-var(txn.server)]"
    yield _error(503, f"lf-string {word(f'{there}%[var(txn.server,{nobody})]')}")
    slow = told(problem.FIRST_BYTE, config, pool)
    if any(deadlined(route, pool) for route in routes):
        yield _error(504, f"lf-string {word(f'%[var(txn.late,{argument(slow)})]')}")
    else:
        yield _error(504, f"string {word(slow)}")


def deadlined(route: Route, pool: Pool) -> bool:
    """Whether a route's deadline may come before the pool's time-out."""
    return route.deadline is not None and route.deadline < max(pool.first_byte_timeout, pool.body_timeout)


def late(config: Config, route: Route) -> str:
    """The value of ``txn.late``."""
    return word(f"str({argument(told(problem.DEADLINE, config, route=route))})")


def _error(status: int, content: str) -> str:
    return f"http-error status {status} content-type application/problem+json {content}"
