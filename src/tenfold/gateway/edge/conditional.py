"""Conditional requests that a stored response can answer (RFC 9111 §4.3.2, RFC 9110 §13).

If-None-Match goes before If-Modified-Since and compares weakly. If-Match and If-Unmodified-Since are the origin's
business: a request with one of them is never answered from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tenfold.gateway.edge.dates import read_date

ETAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
ORIGIN_ONLY: Final = (b"if-match", b"if-unmodified-since")


def lists(field: bytes, etag: bytes | None) -> bool:
    """Whether an If-None-Match lists the tag, weak or strong; ``*`` lists whatever exists."""
    if field.strip(b" \t") == b"*":
        return True
    return etag is not None and etag.removeprefix(b"W/") in [tag.removeprefix(b"W/") for tag in ETAG.findall(field)]


def unchanged(
    fields: Mapping[bytes, bytes], etag: bytes | None, last_modified: bytes | None, received: bytes | None = None
) -> bool:
    """Whether the client has it already: answer 304. ``received`` (the Date) stands in for a lacking Last-Modified."""
    listed = fields.get(b"if-none-match")
    if listed is not None:
        return lists(listed, etag)
    asked = fields.get(b"if-modified-since")
    if asked is None:
        return False
    if asked == last_modified:
        return read_date(asked) is not None
    since, modified = read_date(asked), read_date(last_modified if last_modified is not None else received)
    return since is not None and modified is not None and modified <= since


def same_representation(condition: bytes, etag: bytes | None, last_modified: bytes | None, date: bytes | None) -> bool:
    """Whether an If-Range holds (RFC 9110 §13.1.5): the same strong tag, or the same date, if that one is strong.

    A date is strong where it lies a second or more before the response's Date (§8.8.2.2).
    """
    condition = condition.strip(b" \t")
    if condition.startswith((b'"', b"W/")):
        return not condition.startswith(b"W/") and condition == etag
    modified, sent = read_date(last_modified), read_date(date)
    return modified is not None and sent is not None and modified < sent and read_date(condition) == modified


def conditions(etag: bytes | None, last_modified: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """The fields that ask the origin whether a stored response still holds (RFC 9111 §4.3.1)."""
    asked = []
    if etag is not None:
        asked.append((b"If-None-Match", etag))
    if last_modified is not None:
        asked.append((b"If-Modified-Since", last_modified))
    return tuple(asked)
