"""What is written into a copy of the template so that it is a system of its own."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tenfold.servers import ServersError
from tenfold.servers.identity import crc32c, set_system_identifier


def test_the_check_sum_is_castagnoli_s() -> None:
    """The vectors of RFC 3720, B.4, and the usual one."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("length", [264, 288, 296])
def test_both_places_are_changed_and_nothing_else(tmp_path: Path, length: int) -> None:
    """In some version's length; a segment made in advance, which is empty, stays so."""
    (tmp_path / "global").mkdir()
    (tmp_path / "pg_wal" / "archive_status").mkdir(parents=True)
    body = struct.pack("=Q", 7) + bytes(range(256))[: length - 8].ljust(length - 8, b"\1")
    control = tmp_path / "global" / "pg_control"
    control.write_bytes((body + struct.pack("=I", crc32c(body))).ljust(8192, b"\0"))
    used, empty = tmp_path / "pg_wal" / "000000010000000000000001", tmp_path / "pg_wal" / "000000010000000000000002"
    used.write_bytes(b"h" * 24 + struct.pack("=Q", 7) + b"records")
    empty.write_bytes(bytes(64))
    set_system_identifier(tmp_path, 2**63 - 1)
    after = struct.pack("=Q", 2**63 - 1) + body[8:]
    assert control.read_bytes() == (after + struct.pack("=I", crc32c(after))).ljust(8192, b"\0")
    assert used.read_bytes() == b"h" * 24 + struct.pack("=Q", 2**63 - 1) + b"records"
    assert empty.read_bytes() == bytes(64)


def test_what_is_no_control_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "global").mkdir()
    control = tmp_path / "global" / "pg_control"
    control.write_bytes(b"torn".ljust(8192, b"x"))
    with pytest.raises(ServersError, match="pg_control was expected to hold a CRC-32C"):
        set_system_identifier(tmp_path, 1)
    assert control.read_bytes() == b"torn".ljust(8192, b"x")
