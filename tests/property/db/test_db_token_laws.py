"""Tokens: merging is what its name says, and nothing that was not signed is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.db.lineage import History
from tenfold.db.position import Position
from tenfold.db.token import TOKEN_LENGTH, UNKNOWN, BadToken, Token, TokenKeys

KEYS = TokenKeys([b"k" * 16])
POSITIONS = st.builds(Position, st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))
NEAR = st.builds(Position, st.sampled_from([7, 8]), st.integers(1, 2), st.integers(0, 20))
TOKENS = st.one_of(st.just(UNKNOWN), st.builds(Token, NEAR))
SECOND = History(7, 2, {1: 10})


@given(st.one_of(st.just(UNKNOWN), st.builds(Token, POSITIONS)))
def test_a_signed_token_comes_back_and_is_small(token: Token) -> None:
    text = KEYS.sign(token)
    assert KEYS.read(text) == token
    assert len(text) == TOKEN_LENGTH <= 60
    assert all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in text)


@given(POSITIONS, st.integers(0, TOKEN_LENGTH - 2), st.characters())
def test_a_changed_token_is_refused(position: Position, at: int, letter: str) -> None:
    text = KEYS.sign(Token(position))
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with pytest.raises(BadToken):
            KEYS.read(changed)


@given(st.text(max_size=70))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(BadToken):
        KEYS.read(text)


@given(TOKENS, TOKENS, TOKENS)
def test_merging_is_commutative_idempotent_and_associative(a: Token, b: Token, c: Token) -> None:
    assert a.merge(a) == a
    assert a.merge(b, SECOND) == b.merge(a, SECOND)
    assert a.merge(b, SECOND).merge(c, SECOND) in (a.merge(b.merge(c, SECOND), SECOND), UNKNOWN) or (
        a.merge(b.merge(c, SECOND), SECOND) == UNKNOWN
    )


@given(NEAR, NEAR)
def test_what_is_merged_covers_both_or_is_unknown(a: Position, b: Position) -> None:
    merged = Token(a).merge(Token(b), SECOND).position
    if merged is None:
        lost = a.system == b.system == 7 and a.timeline != b.timeline and min((a, b), key=_timeline).lsn > 10
        assert a.system != b.system or (a.timeline != b.timeline and a.system == 8) or lost
        return
    for one in (a, b):
        assert merged.lsn >= one.lsn
        assert merged.covers(one) or (one.timeline == 1 and SECOND.holds(one))


def _timeline(position: Position) -> int:
    return position.timeline
