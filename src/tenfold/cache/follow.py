"""One load over all processes: who finds that another one loads waits for it, and takes its value.

The lease is the election: who made it loads, everybody else follows. A follower waits to be told (`settle`), and looks
again when it is, at the latest when the lease runs out, which it does soon after its holder has died. What it then
finds decides:

* the value: taken, with the life that the server gives it;
* no lease, or one that an invalidation has made worthless: it makes a new one and loads itself;
* the same lease, renewed: its holder lives and still loads, so it waits on;
* another lease: somebody was quicker after the first load came to nothing. It follows once more, and after that it
  loads itself, without storing any less safely, so that a loader that fails does not queue up the processes one behind
  the other.

A follower whose level 2 is switched off is woken at once. Only a server that froze while nobody else asked it anything
says nothing: so every half second, and without a subscription every quarter, a follower looks without being told.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from tenfold.cache.codec import Undecodable, awaitable, fresh_nonce, lease_of, value_of
from tenfold.cache.flight import Flight
from tenfold.cache.level_two import Level2
from tenfold.cache.lookup import Spec, names

ROUNDS: Final = 2
LOOK_AGAIN: Final = 0.5
UNHEARD: Final = 0.25
_GRACE_MS: Final = 20


@dataclass(frozen=True, slots=True)
class Taken:
    """A value that another process loaded: stale in ``fresh`` seconds, gone in ``left``."""

    value: Any
    left: float
    fresh: float
    etag: str | None


async def follow(level2: Level2, spec: Spec, flight: Flight) -> Taken | None:
    """The value, once its load elsewhere is settled; None if ``flight`` has to load, under the lease it then has."""
    assert flight.lease is not None
    lease, rounds, asked, mode = flight.lease, 0, names(flight), "read"
    while not level2.down:
        waiter = level2.settlements.watch(flight.key)
        try:
            reply = await level2.look(asked, fresh_nonce(), int(spec.keep * 1000), mode)
            if reply is None:
                break
            record, life, *flight.tag_nonces = reply
            flight.lease = lease_of(record)
            if flight.lease is None:
                try:
                    return _taken(spec, flight, record, life)
                except Undecodable:
                    level2.undecodable()
                    mode = "replace"
                    continue
            if level2.leases.begin(flight.lease) or not awaitable(record):
                return None
            if flight.lease != lease:
                lease, rounds = flight.lease, rounds + 1
                if rounds == ROUNDS:
                    return None
            await asyncio.wait((waiter,), timeout=patience(level2, life))
        finally:
            level2.settlements.leave(flight.key, waiter)
            waiter.cancel()
    flight.lease = None  # level 2 is down: load, and keep it to ourselves
    return None


def patience(level2: Level2, life: int) -> float:
    """Seconds until one looks at a lease with ``life`` ms left without having been told to."""
    most = LOOK_AGAIN if level2.settlements.listening else UNHEARD
    return min((min(max(0, life), level2.leases.life_ms) + _GRACE_MS) / 1000, most)


def _taken(spec: Spec, flight: Flight, record: bytes, life: int) -> Taken:
    good = value_of(record, list(flight.tag_nonces))
    if good is None:
        raise Undecodable("the server calls the record good, and we do not")
    value, stale, etag = spec.codec.open(good[1])
    left = min(life / 1000, spec.keep)
    return Taken(value, left, left - stale, etag)
