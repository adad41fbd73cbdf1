"""Level 2 on a cluster: as many small level 2's as there are partitions, each in one hash slot.

A look-up, a lease and a store touch a record and its tags together, and a cluster does that only within one hash slot.
Whatever is between braces in a name decides its slot. So the cache is cut into N partitions by a checksum of the key,
and all names of partition P begin with ``tenfold:1:{NAME:P/N}:``. Each partition is an ordinary level 2: it has nonces
of its own for every tag, its own breaker and its own invalidations that wait. A node that is down costs its partitions
and nothing else.

The price: a tag's invalidation, and ``clear()``, delete one name in each partition, N commands instead of one, and are
announced N times. Each announcement follows its own deletion, so that nobody who drops his copy fetches the old value
again from a partition that has not come to it yet.

N is part of the names: programs with another N do not share values, and do not invalidate each other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar
from zlib import crc32

from tenfold.cache.codec import Codec
from tenfold.cache.level_two import Level2, prefix
from tenfold.cache.redis import OneServer
from tenfold.cache.settle import Settlements


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=_Keyed)
F = TypeVar("F")


class Partitions(Level2):
    """``make(namespace, channel, settlements)`` makes the level 2 of one partition."""

    def __init__(self, name: str, count: int, make: Callable[[str, str, Settlements], OneServer]) -> None:
        self.channel = f"{prefix(name)}invalidated"
        self.settlements = Settlements()
        self._parts = [make(namespace_of(name, at, count), self.channel, self.settlements) for at in range(count)]
        self.leases = _Leases(self._parts, self._of)
        self.get = self._get

    def __repr__(self) -> str:
        down = sum(part.down for part in self._parts)
        return f"Partitions({len(self._parts)}, {down} down, {self.pending} pending)"

    @property
    def pending(self) -> int:
        return sum(part.pending for part in self._parts)

    @property
    def down(self) -> bool:
        """Whether all partitions are switched off."""
        return all(part.down for part in self._parts)

    async def connect(self) -> None:
        await asyncio.gather(*[part.connect() for part in self._parts])

    async def read(self, names: Sequence[str]) -> tuple[list[bytes | None], int] | None:
        """As `Level2.read`, for one entry: its name, and those of its tags. Several entries: `each`."""
        return await self._of(next(name for name in names if name.startswith("e:"))).read(names)

    async def each(
        self, wanted: Sequence[K], read: Callable[[Level2, Sequence[K]], Awaitable[list[F | None]]]
    ) -> list[F | None]:
        """What ``read`` finds in each partition for what is wanted from there, in the order of ``wanted``."""
        places: dict[OneServer, list[int]] = {}
        for place, one in enumerate(wanted):
            places.setdefault(self._of(f"e:{one.key}"), []).append(place)
        answers = await asyncio.gather(*[read(part, [wanted[at] for at in some]) for part, some in places.items()])
        found: list[F | None] = [None] * len(wanted)
        for some, answer in zip(places.values(), answers, strict=True):
            for place, one_found in zip(some, answer, strict=True):
                found[place] = one_found
        return found

    def _get(self, record: str, tags: tuple[str, ...], codec: Codec) -> asyncio.Future[Any]:
        return self._of(record).get(record, tags, codec)

    async def open(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[bytes] | None:
        return await self._of(names[0]).open(names, nonce, ttl_ms, mode)

    async def look(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[Any] | None:
        return await self._of(names[0]).look(names, nonce, ttl_ms, mode)

    async def store(
        self, names: Sequence[str], nonce: bytes, tag_nonces: Sequence[bytes], ttl_ms: int, payload: bytes
    ) -> bool | None:
        return await self._of(names[0]).store(names, nonce, tag_nonces, ttl_ms, payload)

    def undecodable(self) -> None:
        self._parts[0].undecodable()  # the counters are those of the cache

    async def invalidate(self, names: Sequence[str]) -> bool:
        tags = [name for name in names if name.startswith("t:")]
        shares: dict[OneServer, list[str]] = {part: [*tags] for part in self._parts} if tags else {}
        for name in names:
            if name.startswith("e:"):
                shares.setdefault(self._of(name), []).append(name)
        return all(await asyncio.gather(*[part.invalidate(share) for part, share in shares.items()]))

    async def announce(self, names: Sequence[str]) -> None:
        # By any node that is there: the message goes to all of them.
        first = self._of(names[0])
        await next((part for part in (first, *self._parts) if not part.down), first).announce(names)

    def _of(self, name: str) -> OneServer:
        """The partition of ``e:KEY``, and of whatever else is kept of that key."""
        return self._parts[partition_of(name[2:], len(self._parts))]


def partition_of(key: str, count: int) -> int:
    """Which of ``count`` partitions a key belongs to."""
    return crc32(key.encode(errors="surrogatepass")) % count


def namespace_of(name: str, at: int, count: int) -> str:
    """What the names of partition ``at`` carry instead of the cache's name alone."""
    return f"{{{name}:{at}/{count}}}"


class _Leases:
    """The leases of all partitions: whoever asks knows only the nonce, which one of them holds."""

    def __init__(self, parts: Sequence[OneServer], of: Callable[[str], OneServer]) -> None:
        self._parts = parts
        self._of = of
        self.life_ms = parts[0].leases.life_ms

    def begin(self, nonce: bytes) -> bool:
        return any(part.leases.begin(nonce) for part in self._parts)

    def release(self, nonce: bytes | None) -> None:
        for part in self._parts:
            part.leases.release(nonce)

    def abandon(self, names: Sequence[str]) -> None:
        for part in dict.fromkeys(map(self._of, names)):
            part.leases.abandon(names)
