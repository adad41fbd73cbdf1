"""The bytes of every kind ever written, so that old ones stay readable; and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Wire
from tenfold.cache.codec import Codec, Undecodable, awaitable, lease_of, mark_of, payload_at, value_of

KEY = b"0123456789abcdef"
OTHER = b"fedcba9876543210"
NONCE = b"abcdefgh"
T1, T2 = b"11111111", b"22222222"
SIGNED_42 = bytes.fromhex("03d6359388ce6461046af8173d2cfda25a012a")
ZSTD_LONG = bytes.fromhex("0228b52ffd20675500002001d964780100200544")
VALUE = b"\x01" + NONCE + b"1795000000000" + b"\x02" + T1 + T2 + b"\x01\x2a"


@dataclass
class Point:
    x: int
    y: str


@pytest.mark.parametrize(
    ("kind", "value", "wire", "literal"),
    [
        (bytes, b"raw", None, b"\x00raw"),
        (int, 42, None, b"\x01\x2a"),
        (Point, Point(1, "a"), None, b"\x01\x82\xa1x\x01\xa1y\xa1a"),
        (Any, None, None, b"\x01\xc0"),
        (int, 42, Wire(keys=[KEY]), SIGNED_42),
    ],
)
def test_payloads_are_written_and_read_as_ever(kind: Any, value: Any, wire: Wire | None, literal: bytes) -> None:
    codec = Codec(kind, "f", wire)
    assert codec.encode(value) == literal
    assert codec.bare(literal, 0) == value


def test_the_signature_covers_the_envelope() -> None:
    """Stale time and etag decide what is served as fresh: they are not to be forged either."""
    codec = Codec(int, "f", Wire(keys=[KEY]))
    payload = codec.encode(42, 1.5, "v1")
    assert payload.hex() == "0303460198ed8c2b268bd0e3a93d87d4845300000000000005dc00027631012a"
    assert codec.open(payload) == (42, 1.5, "v1")
    assert codec.open(SIGNED_42) == (42, 0.0, None)
    with pytest.raises(Undecodable, match="not valid"):
        codec.open(payload.replace(b"v1", b"v2"))
    with pytest.raises(Undecodable, match="not signed"):
        codec.open(b"S" + payload[1:])
    with pytest.raises(Undecodable):
        codec.bare(payload, 0)  # somebody has to look at its age


def test_a_compressed_payload_is_read_as_ever() -> None:
    pytest.importorskip("zstandard")
    codec = Codec(str, "f", Wire(compress_above=64))
    assert codec.bare(ZSTD_LONG, 0) == "x" * 100
    assert len(codec.encode("x" * 100)) < 40
    assert codec.encode("x") == b"\x01\xa1x"  # below the threshold
    signed = Codec(str, "f", Wire(compress_above=64, keys=[KEY]))
    assert signed.encode("x" * 100)[:1] == b"\x03"
    assert signed.bare(signed.encode("x" * 100), 0) == "x" * 100
    for broken in (ZSTD_LONG[:-1], ZSTD_LONG[:1], b"\x02garbage"):
        with pytest.raises(Undecodable):
            codec.bare(broken, 0)
    bomb = Codec(str, "f", Wire(compress_above=64, largest=50))
    with pytest.raises(Undecodable, match="says that it holds"):
        bomb.bare(ZSTD_LONG, 0)


def test_a_pickle_needs_a_key_and_is_read_only_when_signed() -> None:
    with pytest.raises(MisuseError, match=r"pickle: needs keys="):
        Wire(pickle=True)
    codec = Codec(complex, "f", Wire(pickle=True, keys=[KEY]))
    payload = codec.encode(1 + 2j)
    assert payload[17:18] == b"\x04"
    assert codec.bare(payload, 0) == 1 + 2j
    for reader in (None, Wire(keys=[KEY]), Wire(keys=[OTHER], pickle=True)):
        with pytest.raises(Undecodable):
            Codec(Any, "f", reader).bare(payload, 0)
    with pytest.raises(Undecodable):
        codec.bare(payload[17:], 0)  # the same pickle without its signature
    with pytest.raises(MisuseError, match="can be pickled, got"):
        codec.encode(lambda: 1)


def test_any_change_to_a_signed_payload_is_noticed() -> None:
    codec = Codec(int, "f", Wire(keys=[KEY]))
    for at in range(len(SIGNED_42)):
        for bit in range(8):
            broken = bytearray(SIGNED_42)
            broken[at] ^= 1 << bit
            with pytest.raises(Undecodable):
                codec.bare(bytes(broken), 0)
    for end in range(len(SIGNED_42)):
        with pytest.raises(Undecodable):
            codec.bare(SIGNED_42[:end], 0)
    with pytest.raises(Undecodable):
        Codec(int, "g", Wire(keys=[KEY])).bare(SIGNED_42, 0)  # another function's
    with pytest.raises(Undecodable):
        Codec(int, "f").bare(SIGNED_42, 0)
    with pytest.raises(Undecodable):
        codec.bare(b"\x01\x2a", 0)


def test_keys_are_changed_by_accepting_the_old_one() -> None:
    both = Codec(int, "f", Wire(keys=[OTHER, KEY]))
    assert both.bare(SIGNED_42, 0) == 42
    assert Codec(int, "f", Wire(keys=[OTHER])).bare(both.encode(42), 0) == 42


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keys": [b"short"]}, "at least 16 bytes, got 5 bytes"),
        ({"keys": KEY}, "expected a list of secrets"),
        ({"keys": ["0123456789abcdef"]}, "at least 16 bytes, got str"),
    ],
)
def test_options_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        Wire(**options)


def test_missing_zstandard_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MisuseError, match=r"pip install zstandard"):
        Wire(compress_above="1KB")
    with pytest.raises(Undecodable, match="needs the zstandard package"):
        Codec(str, "f", Wire()).bare(ZSTD_LONG, 0)


def test_keys_are_not_shown() -> None:
    assert "0123" not in repr(Wire(keys=[KEY]))


def test_records_are_cut_apart_as_ever() -> None:
    assert value_of(VALUE, [T1, T2]) == (1795000000000, b"\x01\x2a")
    assert VALUE[payload_at(VALUE, mark_of([T1, T2])) :] == b"\x01\x2a"
    for nonces in ([T1], [T2, T1], [T1, None], [T1, T2, T2]):
        assert value_of(VALUE, nonces) is None
        assert payload_at(VALUE, mark_of(nonces)) == 0
    assert lease_of(VALUE) is None
    assert lease_of(None) is None


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (b"\x00" + NONCE, False),  # of the first programs
        (b"\x02" + NONCE + b"\x00\x01" + T1, True),
        (b"\x02" + NONCE + b"\x01\x02" + T1 + T2, True),
    ],
)
def test_leases_of_every_version(record: bytes, told: bool) -> None:
    assert lease_of(record) == NONCE
    assert awaitable(record) is told
    assert value_of(record, [T1]) is None
    assert payload_at(record, mark_of([T1])) == 0


@pytest.mark.parametrize(
    "record", [b"", b"\x00abc", b"\x02" + NONCE, b"\x02" + NONCE + b"\x00\x02" + T1, b"\x09" + VALUE]
)
def test_unknown_records_are_undecodable(record: bytes) -> None:
    with pytest.raises(Undecodable):
        value_of(record, [T1])
    assert payload_at(record, mark_of([T1])) == 0


def test_a_value_cut_anywhere_is_never_wrong() -> None:
    codec = Codec(int, "f")
    for end in range(len(VALUE)):
        start = payload_at(VALUE[:end], mark_of([T1, T2]))
        if start:
            with pytest.raises(Undecodable):
                codec.bare(VALUE[:end], start)
