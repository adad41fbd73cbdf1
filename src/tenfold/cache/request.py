"""What may be asked of level 2 in a packet, and what is answered when it is no plain value."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from tenfold.cache.codec import Codec
from tenfold.cache.lane import Command
from tenfold.cache.scripts import Script


class _Down:
    def __repr__(self) -> str:
        return "DOWN"


DOWN: Final = _Down()


class Raw:
    """What a look-up found that could not be answered at once: record and tag nonces, and the server's time (ms)."""

    __slots__ = ("now", "records")

    def __init__(self, records: list[bytes | None], now: int) -> None:
        self.records = records
        self.now = now


class Request:
    """A look-up (of ``keys``) or a command of its own that waits for its packet."""

    __slots__ = ("answer", "command", "keys", "script")

    def __init__(
        self,
        answer: asyncio.Future[Any],
        keys: Sequence[str] = (),
        command: Command | None = None,
        script: Script | None = None,
    ) -> None:
        self.answer = answer
        self.keys = keys
        self.command = command
        self.script = script


Get = tuple[asyncio.Future[Any], str, tuple[str, ...], Codec]
"""A look-up of one entry: who waits for it, the names of its record and of its tags, and who reads it."""
