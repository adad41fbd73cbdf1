"""One refresh over all processes: while a value is stale everybody still has it, and one of them loads its successor.

The lease of `scripts` elects who loads what nobody has. A value that is only to be renewed has no lease, because it
stays where it is and readable. So whoever wants to renew it first takes the *turn*: a lease of its own beside the
record (``r:KEY``), by the same scripts. It is kept while the load runs, given up when that ends, and runs out when its
holder dies; giving it up wakes those who wait, as the end of any load does.

Who does not get the turn goes on serving the old value, and waits for the turn in the background: it comes when the
other load has ended. Then the record has been renewed, nearly always, and is taken; if that load came to nothing, it is
this process that loads.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tenfold.cache.codec import fresh_nonce, lease_of
from tenfold.cache.counters import Counters
from tenfold.cache.flight import Flight
from tenfold.cache.follow import Taken, patience
from tenfold.cache.level_two import EVERYTHING, Level2
from tenfold.cache.lookup import Spec, decode, read

_TURN_MS: Final = 60_000  # of the mark of `EVERYTHING`, should nothing else have made it


async def take(level2: Level2, flight: Flight) -> int | None:
    """Ask for the turn. None if ``flight`` may load: it has the turn, or there is no level 2 to ask. Otherwise the
    milliseconds until the other process's turn runs out, if it does not renew it.
    """
    reply = await level2.look((f"r:{flight.key}", EVERYTHING), fresh_nonce(), _TURN_MS, "read")
    lease = None if reply is None else lease_of(reply[0])
    if reply is None or lease is None:
        return None
    if level2.leases.begin(lease):
        flight.turn = lease
        return None
    life: int = reply[1]
    return life


async def overtaken(level2: Level2, spec: Spec, flight: Flight, now: float, counters: Counters) -> Taken | None:
    """Wait for the turn; then the value, if the process that had it has renewed it. None if ``flight`` has to load.

    ``now`` is when it began to wait, for what the value must outlive (`Flight.beyond`).
    """
    while True:
        waiter = level2.settlements.watch(flight.key)
        try:
            life = await take(level2, flight)
            if life is None:
                break
            await asyncio.wait((waiter,), timeout=patience(level2, life))
        finally:
            level2.settlements.leave(flight.key, waiter)
            waiter.cancel()
    (found,) = await read(level2, [flight])
    if found is None:
        return None
    value, mode = decode(spec, found, counters)
    if mode is not None or now + found.fresh <= max(now, flight.beyond):
        return None
    return Taken(value, found.left, found.fresh, found.etag)
