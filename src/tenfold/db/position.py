"""Positions in PostgreSQL's write-ahead log: read, printed, normalised, and compared only where that means something.

A log sequence number (LSN) counts bytes, page headers among them. The log is cut into pages (8 KiB) and those into
segments (16 MiB); a page begins with a header of 24 bytes, the first page of a segment with one of 40
(``xlog_internal.h``: ``SizeOfXLogShortPHD``, ``SizeOfXLogLongPHD``). One place between two records therefore has two
names where it falls on the edge of a page. The *end* of the record before is the page's start
(``XLogBytePosToEndRecPtr``); that is what a replica reports as replayed. The *begin* of the next record is the page's
start plus the header (``XLogBytePosToRecPtr``); that is what ``pg_current_wal_insert_lsn()`` reports, so that a
replica that has replayed everything there is seems to lack 24 bytes, until somebody writes again. `normalised` turns
the second name into the first.

Numbers of two timelines, or of two systems, count different logs: `Position.covers` answers None there. Whether one
timeline continues another is `tenfold.db.lineage`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError

Lsn = int
"""A log sequence number as the driver gives it: bytes since the system's beginning."""

PAGE: Final = 8192
SEGMENT: Final = 16 * 1024 * 1024
SHORT_HEADER: Final = 24
LONG_HEADER: Final = 40

_MOST_LSN: Final = 2**64 - 1
_MOST_TIMELINE: Final = 2**32 - 1
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_POSITION: Final = re.compile(r"([0-9]{1,20}):([0-9]{1,10}):([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})", re.ASCII)


def normalised(lsn: Lsn, *, page: int = PAGE, segment: int = SEGMENT) -> Lsn:
    """``lsn`` without the page header that it may stand behind: the end of the record before it.

    ``page`` and ``segment`` are the server's ``wal_block_size`` and ``wal_segment_size`` in bytes (8 KiB, 16 MiB).
    """
    inside = lsn % page
    header = LONG_HEADER if lsn % segment < page else SHORT_HEADER
    return lsn - inside if inside <= header else lsn


def parse_lsn(text: str) -> Lsn:
    """``"16/B374D848"`` as a number. Raises `MisuseError` for anything else."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise MisuseError(f"lsn: expected two hexadecimal numbers such as 16/B374D848, got {text!r}")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: Lsn) -> str:
    """As PostgreSQL prints it: ``"16/B374D848"``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one log: ``system`` (the cluster's identifier), ``timeline`` (grows with each promotion) and the
    normalised ``lsn``. Raises `MisuseError` for numbers that PostgreSQL does not have.
    """

    system: int
    timeline: int
    lsn: Lsn

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("system", self.system, 0, _MOST_LSN),
            ("timeline", self.timeline, 1, _MOST_TIMELINE),
            ("lsn", self.lsn, 0, _MOST_LSN),
        ):
            if type(value) is not int or not least <= value <= most:
                raise MisuseError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")

    def covers(self, other: Position) -> bool | None:
        """Whether whoever has replayed up to here has replayed ``other``; None where the two cannot be compared."""
        if self.system != other.system or self.timeline != other.timeline:
            return None
        return self.lsn >= other.lsn

    @classmethod
    def parse(cls, text: str) -> Position:
        """What `str` gives, read back. Raises `MisuseError` for anything else."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise MisuseError(f"position: expected system:timeline:lsn such as 7417:1:16/B374D848, got {text!r}")
        return cls(int(match[1]), int(match[2]), parse_lsn(match[3]))

    def __str__(self) -> str:
        return f"{self.system}:{self.timeline}:{format_lsn(self.lsn)}"
