"""Values on the wire: MessagePack by msgspec behind a version byte; ``bytes`` stay bytes. Never pickle, unless asked
for and signed.

The record's layout is told in `scripts`; here it is cut apart, and payloads are made and read. A payload begins with
its kind: ``\\0`` bytes, ``\\1`` MessagePack, ``\\2`` a compressed payload, ``\\3`` a signed payload, ``\\4`` a
pickle (see `wire`), ``S`` an envelope around one of the others (see `envelope`). Whatever cannot be read (another
version, garbage, a type that has changed since) is *undecodable*: the cache counts it and loads anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from tenfold._core.errors import MisuseError
from tenfold.cache.envelope import seal, unseal
from tenfold.cache.errors import Undecodable
from tenfold.cache.flight import ABSENT
from tenfold.cache.wire import Wire, dump_pickle, load_pickle

__all__ = ["Codec", "Undecodable", "awaitable", "fresh_nonce", "lease_of", "mark_of", "payload_at", "value_of"]

NONCE: Final = 8
OLD_LEASE: Final = 0  # of programs that did not tell when a load was settled
VALUE: Final = 1
LEASE: Final = 2
_RAW: Final = 0
_PACKED: Final = 1
_PICKLED: Final = 4
_MARK_AT: Final = 1 + NONCE + 13

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


def value_of(record: bytes | None, tag_nonces: Sequence[bytes | None]) -> tuple[int, bytes] | None:
    """Expiry (ms on the server's clock) and payload of a record that is a good value, else None.

    Raises `Undecodable` for a record that is neither a lease nor a value of this version.
    """
    if record is None:
        return None
    if not record or record[0] != VALUE:
        if lease_of(record) is None:
            raise Undecodable("the record's version is unknown")
        return None
    start = payload_at(record, mark_of(tag_nonces))
    if not start:  # invalidated, or the function was declared with other tags when this was stored
        return None
    try:
        return int(record[1 + NONCE : _MARK_AT]), record[start:]
    except ValueError:
        raise Undecodable("the record's expiry is not a number") from None


def mark_of(nonces: Sequence[bytes | None]) -> bytes | None:
    """What a good record says of its tags, if they have these nonces: how many, and which. None if one is missing."""
    known = [nonce for nonce in nonces if nonce is not None]
    return bytes((len(known),)) + b"".join(known) if len(known) == len(nonces) < 256 else None


def payload_at(record: bytes | None, mark: bytes | None) -> int:
    """Where the payload begins in a record that is a value and good by the `mark_of` its tags; 0 if it is not."""
    if record is None or mark is None or not record.startswith(mark, _MARK_AT) or record[0] != VALUE:
        return 0
    start = _MARK_AT + len(mark)
    return start if len(record) > start else 0


class Codec:
    """Turns the values of one function into payloads and back, by the type of its return annotation."""

    __slots__ = ("_decode", "_decoder", "_name", "_type", "_wire")

    def __init__(self, kind: Any, name: str, wire: Wire | None = None) -> None:
        self._name = name
        self._type = kind
        self._wire = wire
        self._decoder: msgspec.msgpack.Decoder[Any] | None = None
        self._decode: Callable[[bytes], Any] | None = None  # where there is no wire
        try:
            self._decoder = msgspec.msgpack.Decoder(kind)
        except TypeError as error:
            if wire is not None and wire.pickle:
                return
            raise MisuseError(
                f"{name}: expected a return type that MessagePack can carry (numbers, text, bytes, lists, "
                f"dicts, dataclasses, msgspec structs, dates, UUID, Decimal, enums), got {kind!r} ({error})"
            ) from error
        if wire is None:
            self._decode = self._decoder.decode

    def encode(self, value: Any, stale: float = 0.0, etag: str | None = None) -> bytes:
        """The payload; ``stale`` and ``etag`` as `envelope` has them. Raises `MisuseError` for a value that cannot be
        carried.
        """
        plain = seal(self._plain(value), stale, etag)
        return plain if self._wire is None else self._wire.wrap(plain, self._name)

    def open(self, payload: bytes) -> tuple[Any, float, str | None]:
        """What `encode` was given. Raises `Undecodable`."""
        if self._wire is not None:
            payload = self._wire.unwrap(payload, self._name)
        payload, stale, etag = unseal(payload)
        return self._value(payload, 0), stale, etag

    def good(self, record: bytes | None, mark: bytes | None) -> Any:
        """The value of a record that is good by the `mark_of` its tags, and bare. Else `ABSENT`: whoever asked has to
        look at it more closely.
        """
        # As `payload_at` and `bare`, in one step: most of what level 2 answers comes by here.
        if record is not None and mark is not None and record.startswith(mark, _MARK_AT) and record[0] == VALUE:
            start = _MARK_AT + len(mark)
            try:
                kind, decode = record[start], self._decode
                if kind == _PACKED and decode is not None:
                    return decode(record[start + 1 :])
                if kind == _RAW and decode is not None:
                    return record[start + 1 :]
                return self.bare(record, start)
            except Exception:  # noqa: BLE001, S110 - raised again, or counted, where its caller looks at it
                pass
        return ABSENT

    def bare(self, record: bytes, start: int) -> Any:
        """The value of the payload that begins at ``start`` and has no envelope. Raises `Undecodable` for one that has
        (its age has to be looked at) or that cannot be read.
        """
        if self._wire is None:
            return self._value(record, start)
        return self._value(self._wire.unwrap(record[start:], self._name), 0)

    def _value(self, record: bytes, start: int) -> Any:
        kind = record[start] if len(record) > start else None
        if kind == _RAW:
            return record[start + 1 :]
        if kind == _PICKLED and self._wire is not None and self._wire.pickle:
            return load_pickle(record[start + 1 :])
        if kind != _PACKED or self._decoder is None:
            raise Undecodable(f"the payload's kind is unknown: {kind!r}")
        try:
            return self._decoder.decode(record[start + 1 :])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Undecodable(str(error)) from error

    def _plain(self, value: Any) -> bytes:
        if type(value) is bytes:
            return bytes((_RAW,)) + value
        if self._wire is not None and self._wire.pickle:
            return bytes((_PICKLED,)) + dump_pickle(value, self._name)
        try:
            return bytes((_PACKED,)) + _encoder.encode(value)
        except (TypeError, NotImplementedError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise MisuseError(
                f"{self._name}: expected a result that MessagePack can carry, got {type(value).__qualname__} "
                f"({error}); return a dataclass, a msgspec struct, plain containers or bytes"
            ) from error
