"""Vary: which of the responses of one URL answers a request (RFC 9111 §4.1).

The *secondary key* of a response is the values that the request had for the fields its Vary names. A request whose
values are the same is answered by it; absent matches only absent. White space around commas does not count.

``Accept-Encoding`` is normalised where asked for: nearly every client lists the codings in an order and with weights
of its own, so by the letter each of them would have a copy of its own. Only which of the codings are acceptable
counts then. A field that forbids ``identity``, or speaks of ``*``, is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

MOST_NAMES: Final = 32
_COMMA: Final = re.compile(rb"[ \t]*,[ \t]*")
_ZERO: Final = re.compile(rb";[ \t]*q=0(?:\.0{0,3})?[ \t]*$", re.IGNORECASE)

Key = tuple[tuple[bytes, ...], tuple[bytes | None, ...]]
"""Names and the request's values of them."""


def names_of(field: bytes | None) -> tuple[bytes, ...] | None:
    """The names in a Vary field: lower case, sorted, each once. None for ``*``, which nothing ever matches.

    A field of more than 32 names counts as ``*``.
    """
    if field is None:
        return ()
    names = {name.strip(b" \t").lower() for name in field.split(b",")} - {b""}
    return None if b"*" in names or len(names) > MOST_NAMES else tuple(sorted(names))


def select(
    names: tuple[bytes, ...], fields: Mapping[bytes, bytes], *, encoding: bool = True
) -> tuple[bytes | None, ...]:
    """The request's values of these fields, normalised. With ``encoding`` Accept-Encoding by its codings alone."""
    chosen: list[bytes | None] = []
    for name in names:
        value = fields.get(name)
        if value is not None:
            value = codings(value) if encoding and name == b"accept-encoding" else _COMMA.sub(b",", value.strip(b" \t"))
        chosen.append(value)
    return tuple(chosen)


@lru_cache(maxsize=1024)
def codings(field: bytes) -> bytes:
    """The acceptable codings of an Accept-Encoding, sorted; the field itself where they do not say it all."""
    accepted = set()
    for member in field.lower().split(b","):
        coding = member.partition(b";")[0].strip(b" \t")
        if coding in (b"*", b"identity"):
            return _COMMA.sub(b",", field.strip(b" \t"))
        if coding and not _ZERO.search(member):
            accepted.add(coding)
    return b",".join(sorted(accepted))
