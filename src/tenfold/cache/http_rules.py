"""The rules of conditional requests and of Cache-Control, without I/O.

RFC 9110 §13 has the preconditions and their order, §8.8.3.2 the two ways to compare entity tags; RFC 9111 §5.2 has
Cache-Control, RFC 5861 the two ``stale-…`` directives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration

SAFE: Final = frozenset({"GET", "HEAD"})
_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_FLAGS: Final = ("private", "no_cache", "no_store", "must_revalidate", "immutable")
_TIMES: Final = ("max_age", "s_maxage", "stale_while_revalidate", "stale_if_error")
_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%,")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheControl:
    """Who may keep an answer, and for how long.

    ``max_age`` is for browsers, ``s_maxage`` for what many share (a CDN, the gateway's edge). For
    ``stale_while_revalidate`` after that an old answer is given while a new one is fetched, for ``stale_if_error``
    while the origin fails. ``private`` keeps it out of shared caches, ``no_cache`` has it checked before each use,
    ``no_store`` has it kept nowhere; ``must_revalidate`` forbids stale use, ``immutable`` says that it never changes.

    Durations are texts such as ``"5m"`` or seconds; parts of a second are dropped. Raises `MisuseError` for what
    contradicts itself.
    """

    max_age: Duration | None = None
    s_maxage: Duration | None = None
    stale_while_revalidate: Duration | None = None
    stale_if_error: Duration | None = None
    private: bool = False
    no_cache: bool = False
    no_store: bool = False
    must_revalidate: bool = False
    immutable: bool = False

    def __post_init__(self) -> None:
        for name in _TIMES:
            if (value := getattr(self, name)) is not None:
                duration(value, name)
        if self.private and self.s_maxage is not None:
            raise MisuseError(
                "CacheControl: expected private or s_maxage, got both: shared caches keep nothing private"
            )
        if self.no_store and str(self) != "no-store":
            raise MisuseError(f"CacheControl: expected no_store alone, got {str(self)!r}: nobody keeps it")
        if self.must_revalidate and (self.stale_while_revalidate is not None or self.stale_if_error is not None):
            raise MisuseError(
                "CacheControl: expected must_revalidate or a stale_… time, got both: they exclude each other"
            )

    def __str__(self) -> str:
        """The value of the header."""
        parts = [name.replace("_", "-") for name in _FLAGS if getattr(self, name)]
        times = [(name.replace("_", "-"), getattr(self, name)) for name in _TIMES]
        parts += [f"{name}={int(duration(value))}" for name, value in times if value is not None]
        return ", ".join(parts)


def strong_etag(content: bytes, *about: bytes) -> str:
    """An entity tag that changes with each byte of the content and with what is said about it."""
    digest = blake2b(digest_size=16)
    for part in about:
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(content)
    return f'"{digest.hexdigest()}"'


def entity_tags(field: str) -> list[tuple[bool, str]] | None:
    """Weak or not, and the quoted tag, of each in a list; None for ``*``. What is no tag is left out."""
    if field.strip() == "*":
        return None
    return [(weak is not None and weak != "", tag) for weak, tag in _TAG.findall(field)]


def strongly(field: str, etag: str | None) -> bool:
    """Whether ``etag`` is listed, both being strong."""
    tags = entity_tags(field)
    return tags is None or (etag is not None and (False, etag) in tags)


def weakly(field: str, etag: str | None) -> bool:
    """Whether ``etag`` is listed, weak or strong."""
    tags = entity_tags(field)
    return tags is None or (etag is not None and etag.removeprefix("W/") in [tag for _, tag in tags])


def verdict(
    method: str, conditions: Mapping[str, str], etag: str | None, last_modified: str | None = None
) -> int | None:
    """304, 412, or None: answer as if nothing had been asked.

    ``conditions`` are the request's header fields by lower-case name; the representation exists and the answer would
    be 200. The order is that of RFC 9110 §13.2.2. Methods other than GET and HEAD are left to the application, which
    alone can look before it acts.
    """
    if method not in SAFE:
        return None
    modified = _date(last_modified)
    if (listed := conditions.get("if-match")) is not None:
        if not strongly(listed, etag):
            return 412
    elif modified and (since := _date(conditions.get("if-unmodified-since"))) and modified > since:
        return 412
    if (listed := conditions.get("if-none-match")) is not None:
        return 304 if weakly(listed, etag) else None
    if modified and (since := _date(conditions.get("if-modified-since"))) and modified <= since:
        return 304
    return None


def vary(*fields: str) -> str:
    """One Vary of several: each name once, as first written; ``*`` alone."""
    names: dict[str, str] = {}
    for field in fields:
        for name in field.split(","):
            if name.strip():
                names.setdefault(name.strip().lower(), name.strip())
    return "*" if "*" in names else ", ".join(names.values())


def surrogate_key(tag: str) -> str:
    """A tag as one word of the header: what is not printable ASCII, spaces and commas are percent-encoded.

    Purge with the same word.
    """
    return quote(tag, safe=_PRINTABLE)


def surrogate_keys(tags: Iterable[str]) -> str:
    """The value of the header: each tag once."""
    return " ".join(dict.fromkeys(surrogate_key(tag) for tag in tags))


def not_modified(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields of a 304 (RFC 9110 §15.4.5): those of the 200 without what describes its content."""
    tagged = any(name.lower() == b"etag" for name, _ in headers)
    return [
        (name, value)
        for name, value in headers
        if not (name.lower().startswith(b"content-") and name.lower() not in _KEPT_CONTENT)
        and name.lower() not in (b"transfer-encoding", b"accept-ranges")
        and not (tagged and name.lower() == b"last-modified")
    ]


_KEPT_CONTENT: Final = (b"content-location", b"content-security-policy", b"content-security-policy-report-only")


def _date(text: str | None) -> datetime | None:
    """An HTTP date; None for anything else, which RFC 9110 has ignored."""
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
