"""Shard keys as values: which Python types they have, how they are hashed and written down.

A key's *kind* is part of its hash and of its stored form, so the number 1 and the text "1" are two keys. The hash is
the first eight bytes, big-endian, of BLAKE2b over ``kind byte + canonical bytes``; it depends on neither machine,
Python version nor hash seed and must never change: rows lie where it says.

=====  ==============  ===================================================
kind   Python          canonical bytes
=====  ==============  ===================================================
i      int (not bool)  decimal digits in ASCII, ``-`` for negative
s      str             UTF-8, no normalisation (as PostgreSQL compares)
b      bytes           themselves
u      uuid.UUID       16 bytes, big-endian
d      datetime.date   ISO 8601 in ASCII
=====  ==============  ===================================================
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from typing import Final, TypeAlias

from tenfold._core.errors import MisuseError

Key: TypeAlias = int | str | bytes | uuid.UUID | dt.date

NAMES: Final = {"i": "int", "s": "str", "b": "bytes", "u": "uuid.UUID", "d": "datetime.date"}


def kind_of(key: object) -> str | None:
    """The kind's letter; None for what is no shard key (bool, float, Decimal, datetime …)."""
    if isinstance(key, bool | dt.datetime):
        return None
    if isinstance(key, int):
        return "i"
    if isinstance(key, str):
        return "s"
    if isinstance(key, bytes):
        return "b"
    if isinstance(key, uuid.UUID):
        return "u"
    return "d" if isinstance(key, dt.date) else None


def check(key: object, kind: str | None = None) -> Key:
    """``key`` if it is one, of that kind. Raises `MisuseError`."""
    found = kind_of(key)
    if found is None or (kind is not None and found != kind):
        expected = NAMES[kind] if kind else "int, str, bytes, uuid.UUID or datetime.date"
        raise MisuseError(f"shard key: expected {expected}, got {type(key).__name__}: pass the column's own type")
    return key  # type: ignore[return-value]


def canonical(key: Key) -> bytes:
    """The bytes that are hashed, without the kind."""
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return str.__str__(key).encode()
    if isinstance(key, uuid.UUID):
        return key.bytes
    return key.isoformat().encode() if isinstance(key, dt.date) else str(int(key)).encode()


def hashed(key: Key) -> int:
    """64 bits, the same for ever."""
    kind = kind_of(check(key))
    assert kind is not None
    return int.from_bytes(hashlib.blake2b(kind.encode() + canonical(key), digest_size=8).digest(), "big")


def write(key: Key) -> str:
    """The key as a text that `read` takes back: ``i:42``, ``s:abc``, ``b:00ff``, ``u:…``, ``d:2026-01-31``."""
    kind = kind_of(check(key))
    if isinstance(key, bytes):
        return f"b:{key.hex()}"
    return f"{kind}:{str.__str__(key) if isinstance(key, str) else canonical_text(key)}"


def canonical_text(key: int | uuid.UUID | dt.date) -> str:
    """A key that is neither text nor bytes, as text."""
    if isinstance(key, uuid.UUID):
        return str(key)
    return key.isoformat() if isinstance(key, dt.date) else str(int(key))


def read(text: str) -> Key:
    """What `write` wrote. Raises `MisuseError`."""
    kind, colon, rest = text.partition(":")
    try:
        if colon and kind == "i":
            return int(rest)
        if colon and kind == "s":
            return rest
        if colon and kind == "b":
            return bytes.fromhex(rest)
        if colon and kind == "u":
            return uuid.UUID(rest)
        if colon and kind == "d":
            return dt.date.fromisoformat(rest)
    except ValueError as error:
        raise MisuseError(f"stored shard key: cannot read {text!r} ({error})") from error
    raise MisuseError(f"stored shard key: expected KIND:VALUE with a kind of {', '.join(NAMES)}, got {text!r}")
