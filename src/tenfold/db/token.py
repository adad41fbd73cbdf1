"""The causal token: what a reader must be able to see, small and signed, so that it can travel through a client.

A token is the position up to which its holder has written (or seen), or *unknown*: then only the primary will do. It
travels as a header, a cookie or part of a job. The client cannot forge one, because a position far ahead would send all
of that client's reads to the primary; replaying somebody else's is harmless, as it says nothing but "at least this".

Wire format: 1 byte of kind (1: a position, 0: unknown), 8 of system, 4 of timeline, 8 of LSN, big-endian, then 16 of
HMAC-SHA-256 over a label and these (RFC 2104, cut to 128 bits as its section 5 allows); base64url without padding
(RFC 4648): 50 characters, and all of them safe in a cookie.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold.db.lineage import History
from tenfold.db.position import Position

TOKEN_LENGTH: Final = 50
LEAST_KEY: Final = 16

_LABEL: Final = b"tenfold causality 1\0"
_BODY: Final = struct.Struct(">BQIQ")
_MAC: Final = 16


class BadToken(TenfoldError):
    """A token that is malformed, or signed with none of our keys."""


@dataclass(frozen=True, slots=True)
class Token:
    """What its holder must see: all up to ``position``; None: unknown, so ask the primary."""

    position: Position | None

    def merge(self, other: Token, history: History | None = None) -> Token:
        """What covers both. The order does not matter.

        On one timeline the later position. Across a promotion the newer timeline's, if ``history`` (of the newer
        timeline) holds the older position; else, and between two systems, and with unknown: unknown.
        """
        mine, its = self.position, other.position
        if mine is None or its is None or mine.system != its.system:
            return UNKNOWN
        if mine.timeline == its.timeline:
            return self if mine.lsn >= its.lsn else other
        older, newer = (mine, its) if mine.timeline < its.timeline else (its, mine)
        if history is None or history.timeline != newer.timeline or not history.holds(older):
            return UNKNOWN
        return Token(newer if newer.lsn >= older.lsn else Position(newer.system, newer.timeline, older.lsn))

    def __str__(self) -> str:
        return "unknown" if self.position is None else str(self.position)


UNKNOWN: Final = Token(None)


@dataclass(frozen=True, slots=True, repr=False)
class TokenKeys:
    """Secrets that sign tokens: ``TokenKeys([new, old])``.

    The first signs and any of them is accepted, which is how a key is changed: add the new one in second place
    everywhere, then put it first, then drop the old one. Each has at least 16 bytes. Raises `MisuseError` otherwise.
    """

    keys: Sequence[bytes]

    def __post_init__(self) -> None:
        keys: object = self.keys
        if isinstance(keys, bytes | str) or not isinstance(keys, Sequence) or not keys:
            raise MisuseError("keys: expected a list of secrets such as [b'…'], got none or one; put it into brackets")
        for key in keys:
            if not isinstance(key, bytes) or len(key) < LEAST_KEY:
                what = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__qualname__
                raise MisuseError(f"keys: expected secrets of at least {LEAST_KEY} bytes, got {what}")
        object.__setattr__(self, "keys", tuple(keys))

    def sign(self, token: Token) -> str:
        """The token as text of 50 characters, for a header, a cookie or a job."""
        at = token.position
        body = _BODY.pack(0, 0, 0, 0) if at is None else _BODY.pack(1, at.system, at.timeline, at.lsn)
        return base64.urlsafe_b64encode(body + self._mac(self.keys[0], body)).rstrip(b"=").decode()

    def read(self, text: str) -> Token:
        """What `sign` gave, checked. Raises `BadToken`."""
        if len(text) != TOKEN_LENGTH or not text.isascii():
            raise BadToken(f"token: expected {TOKEN_LENGTH} characters, got {len(text)}")
        try:
            raw = base64.b64decode(text + "==", altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise BadToken("token: expected base64url") from error
        body, mac = raw[: _BODY.size], raw[_BODY.size :]
        if not any(hmac.compare_digest(mac, self._mac(key, body)) for key in self.keys):
            raise BadToken("token: signed with none of our keys")
        kind, system, timeline, lsn = _BODY.unpack(body)
        if kind == 0:
            return UNKNOWN
        try:
            return Token(Position(system, timeline, lsn))
        except MisuseError as error:
            raise BadToken(f"token: no position ({error})") from error

    @staticmethod
    def _mac(key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, _LABEL + body, "sha256")[:_MAC]

    def __repr__(self) -> str:
        return f"TokenKeys({len(self.keys)} keys)"
