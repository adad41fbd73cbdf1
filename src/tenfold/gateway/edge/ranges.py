"""Parts of a complete stored body (RFC 9110 §14).

Only ``bytes`` is understood; a field that cannot be read is as good as absent, and the answer is whole. So it is for
what costs more than it helps (§14.2, §17.15): more than 16 ranges, or ranges that overlap. Ranges that lie beyond the
end are left out; where none is left the answer is 416.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

MOST: Final = 16
_SPEC: Final = re.compile(rb"[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*")

Span = tuple[int, int]
"""First byte and the one after the last."""


def spans(field: bytes, length: int) -> list[Span] | None:
    """The parts that a Range asks of a body of ``length`` bytes; empty: none can be given (416); None: ignore it."""
    unit, equals, rest = field.partition(b"=")
    if not equals or unit.strip(b" \t").lower() != b"bytes" or rest.count(b",") >= MOST:
        return None
    wanted: list[Span] = []
    for part in rest.split(b","):
        if not part.strip(b" \t"):
            continue  # empty members of a list are allowed (§5.6.1)
        found = _SPEC.fullmatch(part)
        if found is None:
            return None
        first, last, suffix = found.groups()
        if suffix is not None:
            start, stop = max(0, length - int(suffix)), length
        else:
            start, stop = int(first), min(int(last) + 1, length) if last else length
            if last and int(last) < start:
                return None
        if start < stop:
            wanted.append((start, stop))
    ordered = sorted(wanted)
    if any(ordered[n][1] > ordered[n + 1][0] for n in range(len(ordered) - 1)):
        return None
    return wanted if wanted or rest.strip(b" \t,") else None


def cut(chunks: Sequence[bytes], start: int, stop: int) -> list[bytes]:
    """The bytes from ``start`` up to ``stop`` of a body that lies in pieces."""
    out, at = [], 0
    for chunk in chunks:
        end = at + len(chunk)
        if end > start and at < stop:
            out.append(chunk[max(0, start - at) : stop - at])
        if end >= stop:
            break
        at = end
    return out


def content_range(span: Span, length: int) -> bytes:
    """The value of Content-Range for one part."""
    return b"bytes %d-%d/%d" % (span[0], span[1] - 1, length)


def multipart(
    chunks: Sequence[bytes], wanted: Sequence[Span], length: int, kind: bytes | None
) -> tuple[bytes, list[bytes]]:
    """A multipart/byteranges body of these parts: its Content-Type, and its pieces.

    The boundary comes from the content of the parts, so it stays the same for the same answer and nobody can place it
    in a body beforehand.
    """
    parts = [cut(chunks, *span) for span in wanted]
    digest = blake2b(digest_size=15)
    for span, part in zip(wanted, parts, strict=True):
        digest.update(content_range(span, length))
        for piece in part:
            digest.update(piece)
    boundary = digest.hexdigest().encode()
    about = b"" if kind is None else b"Content-Type: " + kind + b"\r\n"
    out: list[bytes] = []
    for span, part in zip(wanted, parts, strict=True):
        out.append(
            b"%b--%b\r\n%bContent-Range: %b\r\n\r\n"
            % (b"\r\n" if out else b"", boundary, about, content_range(span, length))
        )
        out.extend(part)
    out.append(b"\r\n--" + boundary + b"--\r\n")
    return b"multipart/byteranges; boundary=" + boundary, out
