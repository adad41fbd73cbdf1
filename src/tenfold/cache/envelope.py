"""What a record in level 2 carries beside its value: how long it is kept after it became stale, and its etag.

A record's own expiry (see `scripts`) is when it is *gone*, which is its TTL plus its stale time; minus the stale time
that the envelope names it is when the value became stale. So the scripts need not know of staleness, and a program that
was declared with another stale time still reads when this value did. A value without either travels bare. Compression
and signature (see `wire`) are around the envelope.

``S`` stale(8 bytes, ms) etag-length(2 bytes) etag payload
"""

from __future__ import annotations

import struct
from typing import Final

from tenfold.cache.errors import Undecodable

ENVELOPE: Final = b"S"
_HEAD: Final = struct.Struct(">QH")


def seal(payload: bytes, stale: float, etag: str | None) -> bytes:
    """``payload`` with its envelope; ``stale`` in seconds."""
    if not stale and etag is None:
        return payload
    name = (etag or "").encode()
    return ENVELOPE + _HEAD.pack(round(stale * 1000), len(name)) + name + payload


def unseal(payload: bytes) -> tuple[bytes, float, str | None]:
    """What `seal` was given. Raises `Undecodable`."""
    if payload[:1] != ENVELOPE:
        return payload, 0.0, None
    try:
        stale_ms, length = _HEAD.unpack_from(payload, 1)
        start = 1 + _HEAD.size
        name = payload[start : start + length].decode()
    except (struct.error, UnicodeDecodeError):
        raise Undecodable("the envelope cannot be read") from None
    if len(name.encode()) != length:
        raise Undecodable("the envelope is cut off")
    return payload[start + length :], stale_ms / 1000, name or None
