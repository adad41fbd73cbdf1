"""The bytes beside a value in level 2: this version's, for ever; what is cut or foreign is undecodable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.cache.codec import Undecodable
from tenfold.cache.envelope import seal, unseal


def test_bytes_on_the_wire() -> None:
    assert seal(b"\x01\x07", 0.0, None) == b"\x01\x07"
    assert seal(b"\x01\x07", 1.5, None) == b"S\0\0\0\0\0\0\x05\xdc\0\0\x01\x07"
    assert seal(b"\x01\x07", 0.0, "v1") == b"S\0\0\0\0\0\0\0\0\0\x02v1\x01\x07"


@given(
    payload=st.binary(min_size=1).filter(lambda one: one[:1] != b"S"),
    stale=st.floats(0, 1e9),
    etag=st.one_of(st.none(), st.text(min_size=1, max_size=50)),
)
def test_there_and_back(payload: bytes, stale: float, etag: str | None) -> None:
    inner, seconds, name = unseal(seal(payload, stale, etag))
    assert (inner, name) == (payload, etag)
    assert seconds == pytest.approx(stale, abs=0.000501)


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_part_of_one_is_undecodable(cut: int) -> None:
    with pytest.raises(Undecodable):
        unseal(seal(b"", 1.0, "éé")[:cut])
