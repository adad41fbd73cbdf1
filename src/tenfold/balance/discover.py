"""How a balancer follows its discovery: the whole set, again and again, and what to do when none comes.

What was found last stays until something better is found. Discovery that breaks off, or finds nobody at all where
there was somebody, is far more often a fault of the discovery than the truth, and endpoints that are really gone are
found out by the first request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from tenfold._core.tasks import Tasks
from tenfold.balance.errors import DiscoveryTimeout
from tenfold.balance.happenings import DiscoveryFailed

if TYPE_CHECKING:
    from tenfold._core.events import Hub
    from tenfold.balance.balancer import Balancer
    from tenfold.balance.discovery.base import Discovery

_log: Final = logging.getLogger("tenfold.balance")
_FIRST: Final = 10.0
"""Seconds that the first set may take."""
_PAUSE, _PAUSE_MAX = 1.0, 30.0


async def discover(balancer: Balancer, discovery: Discovery, tasks: Tasks, hub: Hub) -> None:
    """Start following, and wait for the first set. Raises `DiscoveryTimeout`."""
    first = asyncio.Event()
    tasks.spawn(_follow(balancer, discovery, first, hub), name="discovery")
    try:
        async with asyncio.timeout(_FIRST):
            await first.wait()
    except TimeoutError as error:
        raise DiscoveryTimeout(
            f"balancer {balancer.name!r}: {discovery!r} found no endpoints within {_FIRST:g} s", balancer=balancer.name
        ) from error


async def _follow(balancer: Balancer, discovery: Discovery, first: asyncio.Event, hub: Hub) -> None:
    pause, failures = _PAUSE, 0
    while True:
        try:
            async for endpoints in discovery.changes():
                if endpoints or not balancer.endpoints:
                    balancer.replace(endpoints)
                else:
                    balancer.counters.discovery_empty += 1
                if endpoints:
                    first.set()
                pause, failures = _PAUSE, 0
        except Exception as error:  # noqa: BLE001 - whatever a source raises, the endpoints known stay in use
            balancer.counters.discovery_failures += 1
            _log.warning("balancer %r: discovery failed: %r; again in %g s", balancer.name, error, pause)
            failures += 1
            hub.emit(DiscoveryFailed(repr(discovery), f"{type(error).__name__}: {error}", failures, pause))
            await balancer.clock.sleep(pause)
            pause = min(_PAUSE_MAX, 2 * pause)
        else:
            return  # a source that has said all it will ever say
