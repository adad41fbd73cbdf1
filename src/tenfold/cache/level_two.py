"""Level 2 as the engine sees it: one server (`redis`), or the partitions of a cluster (`partitions`)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenfold.cache.codec import Codec
from tenfold.cache.settle import Settlements

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

EVERYTHING: Final = "t:"
"""The tag that every record carries, and that `clear` invalidates."""


class Leased(Protocol):
    """The leases that this process holds: see `leases`."""

    life_ms: int

    def begin(self, nonce: bytes) -> bool: ...

    def release(self, nonce: bytes | None) -> None: ...

    def abandon(self, names: Sequence[str]) -> None: ...


Getter = Callable[[str, tuple[str, ...], Codec], asyncio.Future[Any]]
"""Asks for the entry whose record and tags have these names. Answers, in time, with its value, counted as a hit; with
`Raw` if it is not there, good and bare; with `DOWN` without level 2.
"""


class Source(Protocol):
    """Where level 2's connections come from, the subscription's among them."""

    @property
    def failures(self) -> tuple[type[Exception], ...]: ...

    async def dedicated(self) -> AbstractConnection: ...

    async def aclose(self) -> None: ...


class Level2(ABC):
    """Names are ``e:KEY`` for records and ``t:TAG`` for tags."""

    channel: str
    leases: Leased
    settlements: Settlements
    get: Getter

    @property
    @abstractmethod
    def pending(self) -> int:
        """Invalidations that wait for level 2 to come back."""

    @property
    @abstractmethod
    def down(self) -> bool:
        """Whether level 2 is switched off."""

    @abstractmethod
    async def connect(self) -> None:
        """Set the connection up, which may take longer than a look-up waits. Without success level 2 is off."""

    @abstractmethod
    async def read(self, names: Sequence[str]) -> tuple[list[bytes | None], int] | None:
        """The record and tag nonces of ``names``, and the server's time in ms. None while level 2 is down."""

    @abstractmethod
    async def open(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[bytes] | None:
        """The record and the tag nonces as `scripts.OPEN` leaves them. None while level 2 is down."""

    @abstractmethod
    async def look(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[Any] | None:
        """See `scripts.OPEN`. None while level 2 is down."""

    @abstractmethod
    async def store(
        self, names: Sequence[str], nonce: bytes, tag_nonces: Sequence[bytes], ttl_ms: int, payload: bytes
    ) -> bool | None:
        """See `scripts.STORE`: whether it was stored. None while level 2 is down."""

    @abstractmethod
    def undecodable(self) -> None:
        """A value that another process stored cannot be read here."""

    @abstractmethod
    async def invalidate(self, names: Sequence[str]) -> bool:
        """Delete ``names`` and tell the other processes. False if level 2 does not answer: then it is done
        later.
        """

    @abstractmethod
    async def announce(self, names: Sequence[str]) -> None:
        """Tell the other processes that their own copies are old; the records stay."""


def prefix(namespace: str) -> str:
    """What every name of a namespace begins with on its server."""
    return f"tenfold:1:{namespace}:"
