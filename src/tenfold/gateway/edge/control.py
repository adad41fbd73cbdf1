"""What Cache-Control, the targeted fields and Pragma say, read so that nothing raises and doubt means "do not reuse".

Theory. RFC 9111 §5.2 has the directives, RFC 5861 the two ``stale-…`` ones. Real fields are full of mistakes, and
§4.2.1 says which side to err on: where a directive comes twice the first counts, and what should be a number of
seconds and is none counts as zero, that is as stale. A number beyond 2^31 is 2^31 (§1.2.2). The qualified forms
``private="…"`` and ``no-cache="…"`` are read as the plain ones, as §5.2.2.4 expects of most caches.

Targeted fields (RFC 9213) speak to one class of caches and replace Cache-Control and Expires where they are present,
not empty and well-formed. They are Structured Fields dictionaries (RFC 9651): the *last* of two members counts, names
are lower case, and one mistake makes the whole field count as absent. The first of the target list that is there
counts: ``Tenfold-Cache-Control``, which is for us alone, and then ``CDN-Cache-Control``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

FOREVER: Final = 2**31
TARGETS: Final = (b"tenfold-cache-control", b"cdn-cache-control")
_MOST: Final = 8192  # bytes of a field that are read at all

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEMBER: Final = re.compile(rb"[ \t]*(" + _TOKEN + rb')(?:=(?:"((?:[^"\\]|\\.)*)"|([^",]*)))?([^,]*)(?:,|$)', re.DOTALL)
_SKIP: Final = re.compile(rb"[^,]*(?:,|$)")
_NO_TIME: Final = b"?"

_KEY: Final = rb"[a-z*][a-z0-9_\-.*]*"
_ITEM: Final = (
    rb'(?:-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])|@?-?[0-9]{1,15}(?![0-9.])|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
    rb"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*|:[A-Za-z0-9+/=]*:|\?[01])"
)
_PARAMS: Final = rb"(?:; *" + _KEY + rb"(?:=" + _ITEM + rb")?)*"
_INNER: Final = rb"\( *(?:" + _ITEM + _PARAMS + rb"(?: +" + _ITEM + _PARAMS + rb")*)? *\)"
_SF_MEMBER: Final = re.compile(rb"(" + _KEY + rb")(?:=(" + _INNER + rb"|" + _ITEM + rb"))?" + _PARAMS)
_SF_COMMA: Final = re.compile(rb"[ \t]*,[ \t]*")


class Control:
    """The directives of one field, or of none. Times are whole seconds, None where the directive is absent."""

    __slots__ = (
        "immutable",
        "max_age",
        "max_stale",
        "min_fresh",
        "must_revalidate",
        "must_understand",
        "no_cache",
        "no_store",
        "only_if_cached",
        "private",
        "proxy_revalidate",
        "public",
        "s_maxage",
        "stale_if_error",
        "stale_while_revalidate",
        "targeted",
    )

    def __init__(self, said: Mapping[bytes, bytes | None], *, targeted: bool = False) -> None:
        self.targeted = targeted
        self.no_store = b"no-store" in said
        self.no_cache = b"no-cache" in said
        self.private = b"private" in said
        self.public = b"public" in said
        self.must_revalidate = b"must-revalidate" in said
        self.proxy_revalidate = b"proxy-revalidate" in said
        self.must_understand = b"must-understand" in said
        self.immutable = b"immutable" in said
        self.only_if_cached = b"only-if-cached" in said
        self.max_age = _seconds(said, b"max-age")
        self.s_maxage = _seconds(said, b"s-maxage")
        self.stale_while_revalidate = _seconds(said, b"stale-while-revalidate")
        self.stale_if_error = _seconds(said, b"stale-if-error")
        self.min_fresh = _seconds(said, b"min-fresh")
        self.max_stale = _seconds(said, b"max-stale")
        if b"max-stale" in said and said[b"max-stale"] is None:
            self.max_stale = FOREVER  # without a number: however stale

    def __repr__(self) -> str:
        said = [f"{name}={value}" for name in self.__slots__ if (value := getattr(self, name)) not in (None, False)]
        return f"<Control {' '.join(said) or 'nothing'}>"


def _seconds(said: Mapping[bytes, bytes | None], name: bytes) -> int | None:
    if name not in said:
        return None
    text = said[name]
    return (whole(text) or 0) if text is not None else 0


def whole(text: bytes) -> int | None:
    """A number of seconds (RFC 9111 §1.2.2), at most 2^31; None for anything but digits."""
    text = text.strip(b" \t")
    if not text.isdigit():
        return None
    return FOREVER if len(text) > 10 and text.lstrip(b"0")[10:] else min(int(text[-19:]), FOREVER)


def directives(field: bytes) -> dict[bytes, bytes | None]:
    """The members of a Cache-Control field by lower-case name, the first of each; None for one without a value.

    What is no member is passed over. A field that is longer than 8 KiB is taken for ``no-store``.
    """
    if len(field) > _MOST:
        return {b"no-store": None}
    said: dict[bytes, bytes | None] = {}
    at, end = 0, len(field)
    while at < end:
        found = _MEMBER.match(field, at)
        if found is None:
            skipped = _SKIP.match(field, at)
            at = skipped.end() if skipped is not None and skipped.end() > at else at + 1
            continue
        at = found.end()
        name, quoted, plain, rest = found.groups()
        value: bytes | None = quoted if quoted is not None else plain
        if rest.strip(b" \t"):
            value = _NO_TIME  # something that does not belong there: no number, whatever came before
        said.setdefault(name.lower(), value)
    return said


def dictionary(field: bytes) -> dict[bytes, bytes | None] | None:
    """The members of a Structured Fields dictionary, as they are written; None for a mistake anywhere in it.

    A member that is false (``?0``) is left out, since for a directive that is the same as absent.
    """
    field = field.strip(b" ")
    if len(field) > _MOST:
        return {b"no-store": None}
    said: dict[bytes, bytes | None] = {}
    at = 0
    while at < len(field):
        found = _SF_MEMBER.match(field, at)
        if found is None:
            return None
        said.pop(found[1], None)
        if found[2] != b"?0":
            said[found[1]] = None if found[2] == b"?1" else found[2]
        at = found.end()
        if at == len(field):
            return said
        comma = _SF_COMMA.match(field, at)
        if comma is None or comma.end() == len(field):
            return None
        at = comma.end()
    return said


NOTHING_SAID: Final = Control({})


def of_request(fields: Mapping[bytes, bytes]) -> Control:
    """What a request asks. Pragma counts only without Cache-Control (RFC 9111 §5.4)."""
    field = fields.get(b"cache-control")
    if field is not None:
        return Control(directives(field))
    pragma = fields.get(b"pragma")
    if pragma is not None and b"no-cache" in directives(pragma):
        return Control({b"no-cache": None})
    return NOTHING_SAID


def of_response(fields: Mapping[bytes, bytes]) -> Control:
    """What a response says to us: the first targeted field that can be read, or else Cache-Control."""
    for name in TARGETS:
        field = fields.get(name)
        if field is not None and (said := dictionary(field)):
            return Control(said, targeted=True)
    field = fields.get(b"cache-control")
    return Control(directives(field)) if field is not None else NOTHING_SAID


def age_of(fields: Mapping[bytes, bytes]) -> int:
    """The Age field (RFC 9111 §5.1): of several the first; 0 for what is no number."""
    field = fields.get(b"age")
    return 0 if field is None else whole(field.partition(b",")[0]) or 0
