"""Tokens: merging is what its name says, and nothing that was not signed is read."""

from __future__ import annotations

import base64
import hmac
import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.db.lineage import History
from tenfold.db.position import Position
from tenfold.db.token import MOST_SYSTEMS, NOWHERE, UNKNOWN, BadToken, Token, TokenKeys

KEYS = TokenKeys([b"k" * 16])
LONGEST = 1730
POSITIONS = st.builds(Position, st.integers(1, 2**64 - 1), st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))
SYSTEMS = st.integers(1, 2**64 - 1)
SECOND = History(7, 2, {1: 10})
THIRD = History(7, 3, {1: 10, 2: 20})


@st.composite
def tokens(draw: st.DrawFn, positions: st.SearchStrategy[Position], systems: st.SearchStrategy[int]) -> Token:
    """Any token over these: systems with a position, systems unknown, others unknown or not."""
    found = draw(st.lists(positions, max_size=5, unique_by=lambda position: position.system))
    named = {position.system for position in found}
    lost = [system for system in draw(st.sets(systems, max_size=2)) if system not in named]
    return Token(*found, unknown=lost, others_unknown=draw(st.booleans()))


NEAR = st.builds(Position, st.sampled_from([7, 8, 9]), st.integers(1, 3), st.integers(0, 25))
TOKENS = tokens(NEAR, st.sampled_from([7, 8, 9, 10]))


@given(tokens(POSITIONS, SYSTEMS))
def test_a_signed_token_comes_back_and_is_small(token: Token) -> None:
    text = KEYS.sign(token)
    assert KEYS.read(text) == token
    named = len(token.positions) + len(token.unknown)
    assert len(text) <= 50 + 27 * max(0, named - 1)
    assert all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in text)


@given(st.one_of(st.none(), POSITIONS))
def test_tokens_of_the_first_version_are_read_and_still_written_for_one_system(position: Position | None) -> None:
    """The former format, packed here by hand: kind, system, timeline, LSN."""
    numbers = (0, 0, 0, 0) if position is None else (1, position.system, position.timeline, position.lsn)
    body = struct.pack(">BQIQ", *numbers)
    mac = hmac.digest(b"k" * 16, b"tenfold causality 1\0" + body, "sha256")[:16]
    text = base64.urlsafe_b64encode(body + mac).rstrip(b"=").decode()
    token = UNKNOWN if position is None else Token(position)
    assert len(text) == 50
    assert KEYS.read(text) == token
    assert KEYS.sign(token) == text


@given(tokens(POSITIONS, SYSTEMS), st.data())
def test_a_changed_token_is_refused(token: Token, data: st.DataObject) -> None:
    text = KEYS.sign(token)
    at, letter = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters())
    for changed in (text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :], text + letter):
        if changed != text:
            with pytest.raises(BadToken):
                KEYS.read(changed)


@given(st.text(max_size=70))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(BadToken):
        KEYS.read(text)


@given(st.binary(max_size=100))
def test_whatever_we_signed_is_read_or_refused_in_one_way(body: bytes) -> None:
    """A later version may sign what this one does not know."""
    mac = hmac.digest(b"k" * 16, b"tenfold causality 1\0" + body, "sha256")[:16]
    text = base64.urlsafe_b64encode(body + mac).rstrip(b"=").decode()
    try:
        token = KEYS.read(text)
    except BadToken:
        return
    assert KEYS.read(KEYS.sign(token)) == token


@given(TOKENS, TOKENS, TOKENS, st.sampled_from([SECOND, THIRD, None]))
def test_merging_is_commutative_idempotent_and_associative(a: Token, b: Token, c: Token, of: History | None) -> None:
    assert a.merge(a, of) == a
    assert a.merge(b, of) == b.merge(a, of)
    merged = a.merge(b, of)
    assert merged.merge(c, of) == a.merge(b.merge(c, of), of)
    assert merged.merge(a, of) == merged  # it is an upper bound
    assert a.merge(UNKNOWN, of) == UNKNOWN
    assert a.merge(Token(), of) == a


@given(TOKENS, TOKENS, st.sampled_from([7, 8, 9, 10, 11]))
def test_what_is_merged_covers_both_on_each_system_or_is_unknown(a: Token, b: Token, system: int) -> None:
    merged, wanted = a.merge(b, THIRD).on(system), [a.on(system), b.on(system)]
    if merged is None:
        assert wanted == [None, None]
        return
    found = [one for one in wanted if one is not None]
    if merged is NOWHERE:
        assert NOWHERE in found or found[0].timeline != found[1].timeline
        assert NOWHERE in found or system != 7 or not THIRD.holds(min(found, key=lambda one: one.timeline))
        return
    for one in found:
        assert merged.lsn >= one.lsn
        assert merged.covers(one) or (one.timeline < merged.timeline and THIRD.holds(one))


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 30)), max_size=180), st.randoms())
def test_beyond_the_bound_all_is_unknown_whatever_the_order(found: list[tuple[int, int]], random: Random) -> None:
    one_by_one = Token()
    for system, lsn in found:
        one_by_one = one_by_one.merge(Token(Position(system, 1, lsn)))
    parts = [Token(Position(system, 1, lsn)) for system, lsn in found]
    while len(parts) > 1:
        parts.append(parts.pop(random.randrange(len(parts))).merge(parts.pop(random.randrange(len(parts)))))
    assert one_by_one == (parts[0] if parts else Token())
    greatest: dict[int, int] = {}
    for system, lsn in found:
        greatest[system] = max(lsn, greatest.get(system, 0))
    if len(greatest) > MOST_SYSTEMS:
        assert one_by_one == UNKNOWN
    else:
        assert {at.system: at.lsn for at in one_by_one.positions} == greatest


def test_the_greatest_token_fits_a_cookie_and_comes_back() -> None:
    full = Token(*(Position(2**64 - n, 2**32 - 1, 2**64 - n) for n in range(1, MOST_SYSTEMS + 1)))
    text = KEYS.sign(full)
    assert KEYS.read(text) == full
    assert len(text) == LONGEST < 4096
    assert Token(*full.positions, Position(1, 1, 1)) == UNKNOWN
    with pytest.raises(BadToken, match="at most"):
        KEYS.read(text + "A")
    with pytest.raises(MisuseError, match="one position for each system"):
        Token(Position(7, 1, 1), Position(7, 1, 2))
