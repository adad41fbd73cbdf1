"""What the parent and its load processes say to each other: msgpack behind a length of four bytes, over
pipes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tenfold._core.histogram import Histogram
from tenfold.load.recorder import Delta
from tenfold.load.result import ClientHealth

MAX_FRAME: Final = 64 * 1024 * 1024


class Spec(msgspec.Struct, kw_only=True, tag=True):
    """Parent to process, first: everything it needs to get ready."""

    source: str
    is_file: bool
    target: str
    schedule: dict[str, Any]
    seed: int
    process: int
    processes: int
    warmup: float
    timeout: float
    drain: float
    max_connections: int
    connections: int


class Go(msgspec.Struct, tag=True):
    """Parent to process: start at this monotonic instant, which all processes of a machine share."""

    start: float


class Stop(msgspec.Struct, tag=True):
    """Parent to process: start no more journeys, wait up to ``drain`` seconds for those under way."""

    drain: float


class Ready(msgspec.Struct, tag=True):
    """Process to parent: imported, connected, waiting for `Go`."""

    pid: int


class Refused(msgspec.Struct, tag=True):
    """Process to parent: it cannot start. ``kind`` is ``misuse``, ``target`` or ``crash``."""

    kind: str
    message: str


class Report(msgspec.Struct, tag=True):
    """Process to parent, five times a second: what it measured since the last one."""

    delta: Delta


class Done(msgspec.Struct, tag=True):
    """Process to parent, last: everything is reported, and how it fared."""

    health: ClientHealth
    dropped: int
    retries: int
    unfinished: int
    tracebacks: dict[str, str]


Order = Spec | Go | Stop
Word = Ready | Refused | Report | Done


def _write(value: Any) -> Any:
    if isinstance(value, Histogram):
        return value.to_sparse()
    raise NotImplementedError(type(value).__name__)


def _read(kind: type, value: Any) -> Any:
    if kind is Histogram:
        return Histogram.from_sparse(value)
    raise NotImplementedError(kind.__name__)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_write)
_orders: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_words: Final[msgspec.msgpack.Decoder[Word]] = msgspec.msgpack.Decoder(Word, dec_hook=_read)


def pack(message: Order | Word) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def order(body: bytes) -> Order:
    """What the parent said."""
    return _orders.decode(body)


def word(body: bytes) -> Word:
    """What a process said."""
    return _words.decode(body)
