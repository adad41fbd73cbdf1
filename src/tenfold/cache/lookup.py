"""One look-up in level 2: what is asked for, what was found, and whether that is a good value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.cache.codec import Codec, Undecodable, value_of
from tenfold.cache.counters import Counters
from tenfold.cache.flight import Flight
from tenfold.cache.freshness import Freshness
from tenfold.cache.level_two import EVERYTHING, Level2
from tenfold.cache.partitions import Partitions
from tenfold.cache.request import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a cached function declared: how old its values may be, and whether they may live in level 1."""

    name: str
    fresh: Freshness
    memory: bool
    codec: Codec

    @property
    def ttl(self) -> float:
        """Seconds until a value is stale."""
        return self.fresh.ttl

    @property
    def keep(self) -> float:
        """Seconds until a value is gone."""
        return self.fresh.ttl + self.fresh.stale


@dataclass(slots=True)
class Wanted:
    """One look-up: its key, its tags, and what a loader of many calls it."""

    key: str
    tags: tuple[str, ...]
    subject: Any = None


@dataclass(slots=True)
class Found:
    """What level 2 has of one look-up: record, tag nonces, the server's time (ms).

    Once decoded: seconds until it is stale (``fresh``, negative if it is) and gone (``left``), and its etag.
    """

    record: bytes | None
    nonces: list[bytes | None]
    now: int
    left: float = 0.0
    fresh: float = 0.0
    etag: str | None = None


async def read(level2: Level2, wanted: Sequence[Wanted | Flight]) -> list[Found | None]:
    """The records of all that is wanted, in one request. None for each while level 2 is down."""
    if isinstance(level2, Partitions):
        return await level2.each(wanted, read)
    asked = [EVERYTHING]
    for one in wanted:
        asked.append(f"e:{one.key}")
        asked.extend([f"t:{tag}" for tag in one.tags])
    answer = await level2.read(asked)
    if answer is None:
        return [None] * len(wanted)
    records, now = answer
    everything = records[0]
    found: list[Found | None] = []
    at = 1
    for one in wanted:
        end = at + 1 + len(one.tags)
        found.append(Found(records[at], [everything, *records[at + 1 : end]], now))
        at = end
    return found


def found_of(raw: Raw | object) -> Found | None:
    """What `Level2.get` found and could not answer."""
    return Found(raw.records[0], raw.records[1:], raw.now) if isinstance(raw, Raw) else None


def decode(spec: Spec, found: Found, counters: Counters) -> tuple[Any, str | None]:
    """The value, or the mode in which the record is to be opened."""
    try:
        good = value_of(found.record, found.nonces)
        if good is None:
            return None, "read"
        expiry, payload = good
        value, stale, found.etag = spec.codec.open(payload)
    except Undecodable:
        counters.undecodable += 1
        return None, "replace"
    found.left = (expiry - found.now) / 1000
    found.fresh = found.left - stale
    return value, None


def names(one: Wanted | Flight) -> tuple[str, ...]:
    """What level 2 calls its record and its tags."""
    return ("e:" + one.key, EVERYTHING, *["t:" + tag for tag in one.tags])
