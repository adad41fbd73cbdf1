"""Opaque cursors: the values of the last row's sort key, signed and tied to the query that they were made for.

A cursor is ``base64url(MAC ‖ payload)``. The payload is JSON: the version, the way to go, a digest of the query
(its text, its order, its parameters) and the values, each with a mark of its type, so that a ``Decimal``, a date or
an infinite float comes back as what it was. The MAC is HMAC-SHA256 over the payload (RFC 2104), cut to 128 bits as
its section 5 allows. The MAC is looked at first, in constant time: what is not ours is never parsed. Signed is not
secret: whoever holds a cursor can read the values in it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from tenfold._core.errors import MisuseError, TenfoldError

MAC_BYTES: Final = 16
LONGEST: Final = 4096
"""Characters. A sort key is a few numbers and words; what is longer was not made here, or should not be."""
LEAST_SECRET: Final = 16

Way = Literal["after", "before"]
Reason = Literal["malformed", "forged", "foreign"]


class CursorError(TenfoldError, ValueError):
    """A cursor that cannot be used; answer it as a client's mistake (HTTP 400).

    ``reason`` is ``"malformed"`` (no cursor at all), ``"forged"`` (not signed with one of our secrets, or altered) or
    ``"foreign"`` (ours, but made for another order or other filters).
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason: Final[Reason] = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: strictly ``way`` of the row with these ``values``; None: of the whole list's edge."""

    way: Way
    values: tuple[Any, ...] | None


class Signer:
    """Makes and reads cursors.

    ``secrets``: one of 16 bytes or more, or several, of which the first signs and all are accepted, so that a secret
    can be replaced while cursors of the old one are still about. Raises `MisuseError` for shorter ones.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: bytes | str | Sequence[bytes | str]) -> None:
        several = [secrets] if isinstance(secrets, bytes | str) else list(secrets)
        self._secrets: Final = tuple(one.encode() if isinstance(one, str) else bytes(one) for one in several)
        if not self._secrets or min(map(len, self._secrets)) < LEAST_SECRET:
            raise MisuseError(
                f"secret: expected {LEAST_SECRET} bytes or more, the same in every process that serves the pages; "
                "got fewer. `secrets.token_hex(16)` makes one"
            )

    def sign(self, place: Place, query: str) -> str:
        """The cursor of ``place`` for the query with that digest. Raises `MisuseError` for one that gets too long."""
        values = None if place.values is None else [encode(value) for value in place.values]
        payload = json.dumps([1, place.way[0], query, values], separators=(",", ":"), ensure_ascii=False).encode()
        cursor = base64.urlsafe_b64encode(_mac(self._secrets[0], payload) + payload).rstrip(b"=").decode()
        if len(cursor) > LONGEST:
            raise MisuseError(
                f"keyset: expected sort keys that fit into {LONGEST} characters, got {len(cursor)}; "
                "order by shorter columns, or by func.left(column, 100) and the primary key"
            )
        return cursor

    def read(self, cursor: str, query: str, types: Sequence[Any]) -> Place:
        """The place that ``cursor`` names. ``types`` (SQLAlchemy's, one a sort column) turn enums back.

        Raises `CursorError`.
        """
        if not 0 < len(cursor) <= LONGEST or not cursor.isascii():
            raise CursorError("cursor: expected one that a page gave out; start again without", "malformed")
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise CursorError("cursor: this is no cursor; start again without", "malformed") from error
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(secret, payload)) for secret in self._secrets):
            raise CursorError("cursor: not signed by this service, or altered; start again without", "forged")
        _, way, made_for, values = json.loads(payload)
        if made_for != query:
            raise CursorError(
                "cursor: made for a list in another order or with other filters; start again without", "foreign"
            )
        if values is None:
            return Place("after" if way == "a" else "before", None)
        try:
            found = tuple(decode(value, kind) for value, kind in zip(values, types, strict=True))
        except KeyError as error:
            raise CursorError(
                f"cursor: its enum has no member {error} any more; start again without", "foreign"
            ) from error
        return Place("after" if way == "a" else "before", found)

    def __repr__(self) -> str:
        return f"<Signer of {len(self._secrets)} secrets>"


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, b"tenfold.keyset\0" + payload, hashlib.sha256)[:MAC_BYTES]


def encode(value: Any) -> Any:
    """``value`` as JSON that tells its type. Raises `MisuseError` for types that no sort key should have."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return ["e", value.name]
    if isinstance(value, int | str):
        return value  # JSON's integers have no limit in Python
    for kind, mark, write, _ in _KINDS:
        if isinstance(value, kind):
            return [mark, write(value)]
    if isinstance(value, list | tuple):
        return ["l", [encode(one) for one in value]]
    raise MisuseError(
        f"keyset: a value of type {type(value).__name__} cannot be told in a cursor; "
        "order and filter by numbers, text, dates, UUIDs, enums or bytes"
    )


def decode(value: Any, kind: Any = None) -> Any:
    """What `encode` was given. ``kind``: the column's type."""
    if not isinstance(value, list):
        return value
    mark, content = value
    if mark == "l":
        return [decode(one) for one in content]
    if mark == "e":
        members = getattr(kind, "enum_class", None)
        return content if members is None else members[content]
    return _READERS[mark](content)


# datetime before date, of which it is a subclass. hex() keeps every bit of a float, infinities and NaN included.
_KINDS: Final[tuple[tuple[type, str, Callable[[Any], str], Callable[[str], Any]], ...]] = (
    (float, "f", lambda value: value.hex(), float.fromhex),
    (Decimal, "n", str, Decimal),
    (datetime, "t", datetime.isoformat, datetime.fromisoformat),
    (date, "d", date.isoformat, date.fromisoformat),
    (time, "h", time.isoformat, time.fromisoformat),
    (
        timedelta,
        "i",
        lambda value: f"{value.days}:{value.seconds}:{value.microseconds}",
        lambda text: timedelta(*map(int, text.split(":"))),
    ),
    (UUID, "u", lambda value: str(value), UUID),
    (bytes, "b", lambda value: value.hex(), bytes.fromhex),
)
_READERS: Final = {mark: read for _, mark, _, read in _KINDS}
