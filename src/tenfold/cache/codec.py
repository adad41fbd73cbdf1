"""Values on the wire: MessagePack by msgspec behind a version byte; ``bytes`` stay bytes. Never pickle, unless asked
for and signed.

The record's layout is told in `scripts`; here it is cut apart, and payloads are made and read. A payload begins with
its kind: ``\\0`` bytes, ``\\1`` MessagePack, ``\\2`` a compressed payload, ``\\3`` a signed payload, ``\\4`` a
pickle (see `wire`). Whatever cannot be read (another version, garbage, a type that has changed since) is *undecodable*:
the cache counts it and loads anew.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

import msgspec

from tenfold._core.errors import MisuseError
from tenfold.cache.errors import Undecodable
from tenfold.cache.wire import Wire, dump_pickle, load_pickle

__all__ = ["Codec", "Undecodable", "awaitable", "fresh_nonce", "lease_of", "payload_of", "value_of"]

NONCE: Final = 8
OLD_LEASE: Final = 0  # of programs that did not tell when a load was settled
VALUE: Final = 1
LEASE: Final = 2
_RAW: Final = b"\x00"
_PACKED: Final = b"\x01"
_PICKLED: Final = b"\x04"
_TAGS_AT: Final = 1 + NONCE + 13 + 1

_encoder: Final = msgspec.msgpack.Encoder()


def fresh_nonce() -> bytes:
    """Eight random bytes. They never come back, so "the same nonce" means "nothing was invalidated
    between".
    """
    return os.urandom(NONCE)


def lease_of(record: bytes | None) -> bytes | None:
    """The nonce of a lease, None for a value or nothing."""
    if not record:
        return None
    if record[0] == LEASE:
        return record[1 : 1 + NONCE] if _awaitable(record) else None
    return record[1:] if record[0] == OLD_LEASE and len(record) == 1 + NONCE else None


def awaitable(record: bytes) -> bool:
    """Whether this is a lease whose holder tells when its load is settled."""
    return record[0] == LEASE and _awaitable(record)


def _awaitable(record: bytes) -> bool:
    return len(record) >= 3 + NONCE and len(record) == 3 + NONCE + NONCE * record[2 + NONCE]


def value_of(record: bytes | None, tag_nonces: list[bytes | None]) -> tuple[int, bytes] | None:
    """Expiry (ms on the server's clock) and payload of a record that is a good value, else None.

    Raises `Undecodable` for a record that is neither a lease nor a value of this version.
    """
    if record is None:
        return None
    if not record or record[0] != VALUE:
        if lease_of(record) is None:
            raise Undecodable("the record's version is unknown")
        return None
    end = _TAGS_AT + NONCE * len(tag_nonces)
    if len(record) <= end or record[_TAGS_AT - 1] != len(tag_nonces):
        # Another list of tags: the function was declared otherwise when this was stored.
        return None
    if None in tag_nonces or record[_TAGS_AT:end] != b"".join(n for n in tag_nonces if n is not None):
        return None
    try:
        return int(record[1 + NONCE : _TAGS_AT - 1]), record[end:]
    except ValueError:
        raise Undecodable("the record's expiry is not a number") from None


def payload_of(records: list[bytes | None]) -> bytes | None:
    """The payload of ``records[0]``, if it is a value and good by the tag nonces that follow it. Never raises."""
    record = records[0]
    if record is None or len(record) <= _TAGS_AT or record[0] != VALUE:
        return None
    count = len(records) - 1
    end = _TAGS_AT + NONCE * count
    if record[_TAGS_AT - 1] != count or None in records:
        return None
    nonces = records[1] if count == 1 else b"".join(records[1:])  # type: ignore[arg-type]
    return record[end:] if record[_TAGS_AT:end] == nonces and len(record) > end else None


class Decodes(Protocol):
    """Reads payloads. Raises `Undecodable`."""

    def decode(self, payload: bytes) -> Any: ...


class Codec:
    """Turns the values of one function into payloads and back, by the type of its return annotation."""

    __slots__ = ("_decoder", "_name", "_type", "_wire")

    def __init__(self, kind: Any, name: str, wire: Wire | None = None) -> None:
        self._name = name
        self._type = kind
        self._wire = wire
        self._decoder: msgspec.msgpack.Decoder[Any] | None = None
        try:
            self._decoder = msgspec.msgpack.Decoder(kind)
        except TypeError as error:
            if wire is not None and wire.pickle:
                return
            raise MisuseError(
                f"{name}: expected a return type that MessagePack can carry (numbers, text, bytes, lists, "
                f"dicts, dataclasses, msgspec structs, dates, UUID, Decimal, enums), got {kind!r} ({error})"
            ) from error

    def encode(self, value: Any) -> bytes:
        """The payload. Raises `MisuseError` for a value that cannot be carried."""
        plain = self._plain(value)
        return plain if self._wire is None else self._wire.wrap(plain, self._name)

    def decode(self, payload: bytes) -> Any:
        """The value. Raises `Undecodable`."""
        if self._wire is not None:
            payload = self._wire.unwrap(payload, self._name)
        kind = payload[:1]
        if kind == _RAW:
            return payload[1:]
        if kind == _PICKLED and self._wire is not None and self._wire.pickle:
            return load_pickle(payload[1:])
        if kind != _PACKED or self._decoder is None:
            raise Undecodable(f"the payload's kind is unknown: {kind!r}")
        try:
            return self._decoder.decode(payload[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Undecodable(str(error)) from error

    def _plain(self, value: Any) -> bytes:
        if type(value) is bytes:
            return _RAW + value
        if self._wire is not None and self._wire.pickle:
            return _PICKLED + dump_pickle(value, self._name)
        try:
            return _PACKED + _encoder.encode(value)
        except (TypeError, NotImplementedError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise MisuseError(
                f"{self._name}: expected a result that MessagePack can carry, got {type(value).__qualname__} "
                f"({error}); return a dataclass, a msgspec struct, plain containers or bytes"
            ) from error
