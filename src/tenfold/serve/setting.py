"""The configuration of the gateway that stands in front of the workers: one route, one pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tenfold.balance import Endpoint
from tenfold.balance.slow_start import SlowStart
from tenfold.gateway.config import Address, Admin, Config, Edge, Gateway, Pool, Route
from tenfold.gateway.config.environment import Secret
from tenfold.resilience.budget import Budget
from tenfold.resilience.retry import Retry
from tenfold.serve.options import ServeOptions

POOL: Final = "app"
_ATTEMPTS: Final = 5
"""Endpoints that one request may try: several workers may have died at once and not be known to yet."""
_PAUSE: Final = 0.02
"""Seconds before a first further try. By then a worker that died is usually known to be gone, and if it was the only
one the request waits for the next."""


def gateway_config(
    options: ServeOptions, endpoints: Iterable[Endpoint], *, listen: Address, admin: Address, token: str
) -> Config:
    """A gateway that listens there and spreads requests over ``endpoints``, of which there must be one at least.

    A worker that dies takes all its requests with it at once, so the budget of retries has room for as many as one
    worker may have under way; over time it is the usual one.
    """
    budget = Budget(burst=max(20, options.max_inflight))
    pool = Pool(
        name=POOL,
        endpoints=tuple(endpoints),
        slow_start=SlowStart(window=options.slow_start) if options.slow_start else None,
        max_in_flight=options.max_inflight,
        queue=options.queue,
        queue_timeout=float(options.queue_timeout),
        first_byte_timeout=300.0,
    )
    route = Route(
        name=POOL,
        pool=POOL,
        retries=Retry(_ATTEMPTS, base=_PAUSE, jitter="none", budget=budget),
        edge=Edge() if options.edge else None,
    )
    return Config(
        # Both servers read `X-Forwarded-*`; `Forwarded` beside it would cost each of them one header more.
        gateway=Gateway(listen=(listen,), drain_timeout=float(options.drain_timeout), forwarded="x-forwarded"),
        pools=(pool,),
        routes=(route,),
        admin=Admin(listen=admin, token=Secret(token), metrics_token=False, public=options.admin_public),
    )
