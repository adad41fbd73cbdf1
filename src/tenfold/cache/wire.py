"""What may be wrapped around a payload: compression, a signature, and pickle for those who insist.

From the inside out: a plain payload; compressed if it is long and gets shorter by it; signed, if there is a key. A
signature is checked before anything else is done with the bytes: neither the decompressor nor pickle ever sees what the
holder of the key did not write. It covers the function's name too, so that a value does not pass as another function's.
It does not cover the entry's key: who can write to the server can still swap entries of one function, or bring back
older ones.
"""

from __future__ import annotations

import hmac
import importlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Size, size
from tenfold.cache.errors import Undecodable

COMPRESSED: Final = b"\x02"
SIGNED: Final = b"\x03"
MAC: Final = 16
LEAST_KEY: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How values travel to level 2 and back: ``Cache(…, wire=Wire(compress_above="2KB", keys=[secret]))``.

    ``compress_above`` (none): payloads longer than this are compressed with zstd, which needs the ``zstandard``
    package; what does not get shorter stays as it is. ``largest`` (64 MB) is the longest payload that is decompressed.
    ``keys`` (none): secrets of at least 16 bytes; the first signs (HMAC-SHA-256, cut to 128 bits), any of them is
    accepted, which is how keys are changed. With keys, a value without a valid signature counts as undecodable and is
    loaded anew. ``pickle`` (False) carries any Python object, and is refused without keys: whoever can write a pickle
    that is loaded runs code in this process.

    Raises `MisuseError` for options that make no sense, and if ``zstandard`` is missing.
    """

    compress_above: Size | None = None
    largest: Size = "64MB"
    keys: Sequence[bytes] = ()
    pickle: bool = False

    def __post_init__(self) -> None:
        keys: object = self.keys
        if isinstance(keys, bytes | str) or not isinstance(keys, Sequence):
            raise MisuseError("keys: expected a list of secrets such as [b'…'], got one; put it into brackets")
        for key in keys:
            if not isinstance(key, bytes) or len(key) < LEAST_KEY:
                what = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__qualname__
                raise MisuseError(f"keys: expected secrets of at least {LEAST_KEY} bytes, got {what}")
        if self.pickle and not self.keys:
            raise MisuseError("pickle: needs keys=, because loading a forged pickle runs its code; give a secret")
        size(self.largest, "largest")
        if self.compress_above is not None:
            size(self.compress_above, "compress_above")
            _zstandard()

    def __repr__(self) -> str:
        return f"Wire(compress_above={self.compress_above!r}, {len(self.keys)} keys, pickle={self.pickle})"

    def wrap(self, payload: bytes, name: str) -> bytes:
        """The payload as it travels. ``name`` is the function's."""
        if self.compress_above is not None and len(payload) > size(self.compress_above):
            shorter: bytes = _zstandard().ZstdCompressor(level=3).compress(payload)
            if len(shorter) + 1 < len(payload):
                payload = COMPRESSED + shorter
        if self.keys:
            payload = SIGNED + _mac(self.keys[0], payload, name) + payload
        return payload

    def unwrap(self, payload: bytes, name: str) -> bytes:
        """The plain payload. Raises `Undecodable`."""
        if self.keys:
            if payload[:1] != SIGNED or len(payload) <= 1 + MAC:
                raise Undecodable("the payload is not signed")
            mac, payload = payload[1 : 1 + MAC], payload[1 + MAC :]
            if not any(hmac.compare_digest(mac, _mac(key, payload, name)) for key in self.keys):
                raise Undecodable("the payload's signature is not valid")
        if payload[:1] == COMPRESSED:
            return self._decompressed(payload[1:])
        return payload

    def _decompressed(self, body: bytes) -> bytes:
        try:
            zstandard = _zstandard()
        except MisuseError as error:
            raise Undecodable(str(error)) from error
        try:
            length = zstandard.frame_content_size(body)
            if not 0 <= length <= size(self.largest):
                raise Undecodable(f"the compressed payload says that it holds {length} bytes")
            plain: bytes = zstandard.ZstdDecompressor().decompress(body)
        except zstandard.ZstdError as error:
            raise Undecodable(str(error)) from error
        return plain


def dump_pickle(value: Any, name: str) -> bytes:
    """The pickle. Raises `MisuseError` for a value that has none."""
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        kind = type(value).__qualname__
        raise MisuseError(f"{name}: expected a result that can be pickled, got {kind} ({error})") from error


def load_pickle(body: bytes) -> Any:
    """The value of a pickle whose signature was checked. Raises `Undecodable`."""
    try:
        return pickle.loads(body)
    except Exception as error:  # whatever a class of another version raises
        raise Undecodable(f"{type(error).__qualname__}: {error}") from error


def _mac(key: bytes, payload: bytes, name: str) -> bytes:
    text = name.encode()
    return hmac.digest(key, len(text).to_bytes(4, "big") + text + payload, "sha256")[:MAC]


def _zstandard() -> Any:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise MisuseError(
            "compress_above: needs the zstandard package; install it with `pip install zstandard`, "
            "or leave compress_above out"
        ) from error
    return zstandard
