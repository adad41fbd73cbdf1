"""The causal token: what a reader must be able to see, small and signed, so that it can travel through a client.

A token is a map from systems (a system is a primary with its replicas; each shard is one) to the position in that
system's log up to which its holder has written, or seen. A system that it does not name wants nothing. What a position
is cannot always be said: then that system is *unknown*, and only its primary will do; and of a token that was lost or
forged every system is, the *others* (those it does not name) too.

Theory. For each system the values are ordered: nothing, then positions, then unknown; of two positions on one timeline
the later one is greater, and a position on a timeline is greater than those of its ancestors that its history holds.
`merge` is the least upper bound, system by system: idempotent, commutative and, for one ancestry, associative, so a
token may be merged in any order and any number of times (a join semilattice, as for the state-based replicated data
types of Shapiro et al., 2011). A token names at most `MOST_SYSTEMS`; one that would name more is `UNKNOWN`, the
greatest of all: an upper bound, though not the least. Leaving the oldest out instead would be a lie.

It travels as a header, a cookie or part of a job. The client cannot forge one, because a position far ahead would send
all of that client's reads to the primary; replaying somebody else's is harmless, as it says nothing but "at least
this".

Wire format: 1 byte of kind; for each system 8 of identifier, 4 of timeline, 8 of LSN, big-endian, in ascending order
of systems, with timeline 0 for unknown; then 16 of HMAC-SHA-256 over a label and these (RFC 2104, cut to 128 bits as
its section 5 allows); base64url without padding (RFC 4648), all of it safe in a cookie. Kinds: 1, one position, and 0,
all unknown (with 20 zero bytes), are what versions before this one write and read, 50 characters; 2, a map; 3, a map
whose others are unknown. Two systems take 76 characters, `MOST_SYSTEMS` 1730.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold.db.lineage import History
from tenfold.db.position import Position

LEAST_KEY: Final = 16
MOST_SYSTEMS: Final = 64
"""How many systems a token names at most."""
NOWHERE: Final = Position(0, 2**32 - 1, 2**64 - 1)
"""A position that no server has: a read that wants it goes to the primary. No system has the identifier 0."""

_LABEL: Final = b"tenfold causality 1\0"
_ONE: Final = struct.Struct(">QIQ")
_MAC: Final = 16
_ALL_UNKNOWN, _POSITION, _MAP, _MAP_OF_UNKNOWN = range(4)
_MOST_BYTES: Final = 1 + MOST_SYSTEMS * _ONE.size + _MAC
_MOST_LENGTH: Final = (_MOST_BYTES * 8 + 5) // 6


class BadToken(TenfoldError):
    """A token that is malformed, or signed with none of our keys."""


@dataclass(frozen=True, slots=True, init=False)
class Token:
    """``Token(position, …)``: what its holder must see, one position at most for each system.

    ``unknown``: systems of which only the primary will do. ``others_unknown``: the same for every system that is not
    named; ``Token()`` wants nothing. Raises `MisuseError` for a system named twice. More than `MOST_SYSTEMS`: equal to
    `UNKNOWN`.
    """

    positions: tuple[Position, ...]
    """In ascending order of systems."""
    unknown: tuple[int, ...]
    others_unknown: bool

    def __init__(self, *positions: Position, unknown: Iterable[int] = (), others_unknown: bool = False) -> None:
        ordered, lost = positions, tuple(unknown)
        named = len(ordered) + len(lost)
        if named > 1:
            ordered, lost = tuple(sorted(ordered, key=_system)), tuple(sorted(lost))
            if len({*map(_system, ordered), *lost}) != named:
                raise MisuseError("Token: expected one position for each system, got two for one; merge tokens instead")
        if others_unknown:
            lost = ()  # as all others are
        if len(ordered) + len(lost) > MOST_SYSTEMS:
            ordered, lost, others_unknown = (), (), True
        object.__setattr__(self, "positions", ordered)
        object.__setattr__(self, "unknown", lost)
        object.__setattr__(self, "others_unknown", others_unknown)

    def on(self, system: int) -> Position | None:
        """What is wanted of ``system``: None for nothing, `NOWHERE` where only the primary will do."""
        for position in self.positions:
            if position.system == system:
                return position
        return NOWHERE if self.others_unknown or system in self.unknown else None

    def merge(self, other: Token, history: History | None = None) -> Token:
        """What covers both, system by system. The order does not matter.

        On one timeline the later position. Across a promotion the newer timeline's, if ``history`` (of this or a later
        timeline of that system) holds the older position; else that system is unknown.
        """
        found: list[Position] = []
        lost: list[int] = []
        for system in {*self._named(), *other._named()}:
            at = _later(self.on(system), other.on(system), history)
            if at is NOWHERE:
                lost.append(system)
            elif at is not None:
                found.append(at)
        return Token(*found, unknown=lost, others_unknown=self.others_unknown or other.others_unknown)

    def replaced(self, position: Position) -> Token:
        """With ``position`` for its system, whatever was there."""
        kept = [one for one in self.positions if one.system != position.system]
        lost = [system for system in self.unknown if system != position.system]
        return Token(*kept, position, unknown=lost, others_unknown=self.others_unknown)

    def _named(self) -> Iterable[int]:
        yield from map(_system, self.positions)
        yield from self.unknown

    def __str__(self) -> str:
        told = [*map(str, self.positions), *(f"{system}: unknown" for system in self.unknown)]
        if self.others_unknown:
            told.append("all others: unknown" if told else "unknown")
        return ", ".join(told) or "nothing"


UNKNOWN: Final = Token(others_unknown=True)
"""Only primaries will do."""


def _system(position: Position) -> int:
    return position.system


def _later(one: Position | None, other: Position | None, history: History | None) -> Position | None:
    """What covers both values of one system."""
    if one is None or other is None:
        return other if one is None else one
    if one is NOWHERE or other is NOWHERE:
        return NOWHERE
    if one.timeline == other.timeline:
        return one if one.lsn >= other.lsn else other
    older, newer = (one, other) if one.timeline < other.timeline else (other, one)
    if history is None or not (history.continues(newer.timeline) and history.holds(older)):
        return NOWHERE
    return newer if newer.lsn >= older.lsn else Position(newer.system, newer.timeline, older.lsn)


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
        """The token as text for a header, a cookie or a job: 50 characters for one system (see the module)."""
        given: object = token
        if not isinstance(given, Token):
            raise MisuseError(f"sign: expected a Token, got {given!r}; where nothing has to be shown, take Token()")
        body = _packed(token)
        return base64.urlsafe_b64encode(body + self._mac(self.keys[0], body)).rstrip(b"=").decode()

    def read(self, text: str) -> Token:
        """What `sign` gave, in this version or an earlier one, checked. Raises `BadToken`."""
        if len(text) > _MOST_LENGTH or not text.isascii():
            raise BadToken(f"token: expected {_MOST_LENGTH} ASCII characters at most, got {len(text)}")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise BadToken("token: expected base64url") from error
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if not any(hmac.compare_digest(mac, self._mac(key, body)) for key in self.keys):
            raise BadToken("token: signed with none of our keys")
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            raise BadToken("token: expected base64url as it is written, with no bits to spare")
        return _unpacked(body)

    @staticmethod
    def _mac(key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, _LABEL + body, "sha256")[:_MAC]

    def __repr__(self) -> str:
        return f"TokenKeys({len(self.keys)} keys)"


def _packed(token: Token) -> bytes:
    if token == UNKNOWN:
        return bytes((_ALL_UNKNOWN,)) + bytes(_ONE.size)
    alone = len(token.positions) == 1 and not token.unknown
    kind = _MAP_OF_UNKNOWN if token.others_unknown else _POSITION if alone else _MAP
    named = [(at.system, at.timeline, at.lsn) for at in token.positions] + [(one, 0, 0) for one in token.unknown]
    return bytes((kind,)) + b"".join(_ONE.pack(*one) for one in sorted(named))


def _unpacked(body: bytes) -> Token:
    """What was signed, by whichever version: never trusted to be one of ours."""
    if not body or (len(body) - 1) % _ONE.size:
        raise BadToken(f"token: expected a kind and systems, got {len(body)} bytes")
    kind = body[0]
    if kind == _ALL_UNKNOWN:
        return UNKNOWN
    if kind > _MAP_OF_UNKNOWN:
        raise BadToken(f"token: expected a kind up to {_MAP_OF_UNKNOWN}, got {kind}: it is of a later version")
    named = list(_ONE.iter_unpack(body[1:]))
    try:
        return Token(
            *(Position(*one) for one in named if one[1]),
            unknown=[one[0] for one in named if not one[1]],
            others_unknown=kind == _MAP_OF_UNKNOWN,
        )
    except MisuseError as error:
        raise BadToken(f"token: no position ({error})") from error
