"""A system identifier of its own for each copy of the template, as each initdb would have given it.

PostgreSQL tells systems apart by this number: a replica of one cannot follow another, and neither can a token. It lies
at the beginning of ``global/pg_control``, under that file's CRC-32C, and in the header of each segment of the log. The
server's own ``pg_createsubscriber`` changes it in the same way, which is why it may be done; another initdb would take
seconds. Only for a folder whose server is down, and was shut down cleanly.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from tenfold.servers.errors import ServersError

_ID: Final = struct.Struct("=Q")
_CRC: Final = struct.Struct("=I")
_CONTROL_BYTES: Final = 512
"""PG_CONTROL_MAX_SAFE_SIZE: the contents of pg_control never get longer."""
_IN_SEGMENT: Final = 24
"""Where the identifier lies in XLogLongPageHeaderData, with which each segment begins."""
_POLYNOMIAL: Final = 0x82F63B78


def set_system_identifier(data: Path, identifier: int) -> None:
    """Make ``identifier`` (0 to 2**63 - 1) the system identifier of the data folder ``data``.

    Raises `ServersError` where ``pg_control`` is not what PostgreSQL since 9.5 writes.
    """
    control = data / "global" / "pg_control"
    with control.open("r+b") as file:
        before = file.read(_CONTROL_BYTES)
        end = _checked(before)
        if end is None:
            raise ServersError(
                f"{control} was expected to hold a CRC-32C of what comes before it and does not: "
                f"remove the template it was copied from, or use PostgreSQL 9.5 or later"
            )
        after = _ID.pack(identifier) + before[_ID.size : end]
        file.seek(0)
        file.write(after + _CRC.pack(crc32c(after)))
    for segment in (data / "pg_wal").iterdir():
        if segment.is_file():
            with segment.open("r+b") as file:
                file.seek(_IN_SEGMENT)
                if file.read(_ID.size) == before[: _ID.size]:  # else it was made in advance, and nothing is in it
                    file.seek(_IN_SEGMENT)
                    file.write(_ID.pack(identifier))


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _step(crc, byte)
    return crc ^ 0xFFFFFFFF


def _step(crc: int, byte: int) -> int:
    crc ^= byte
    for _ in range(8):
        crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc


def _checked(control: bytes) -> int | None:
    """How many bytes the CRC that follows them is about: the structure's length differs from version to version."""
    crc = 0xFFFFFFFF
    for end, byte in enumerate(control[: -_CRC.size]):
        if end > _ID.size and end % _CRC.size == 0 and _CRC.unpack_from(control, end)[0] == crc ^ 0xFFFFFFFF:
            return end
        crc = _step(crc, byte)
    return None
