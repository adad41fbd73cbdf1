"""The scope: when the primary is asked for a position, and what becomes of one that cannot be compared."""

from __future__ import annotations

import asyncio

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db.causality import CAUSALITY, Causality, after_commit, causality, wanted
from tenfold.db.lineage import History
from tenfold.db.position import Position, parse_lsn
from tenfold.db.token import NOWHERE, UNKNOWN, BadToken, Token, TokenKeys

LOST = Token(unknown=[7])


class Primary:
    """What a primary would answer."""

    def __init__(self, lsn: int = 100, timeline: int = 1, left: int | None = None, *, system: int = 7) -> None:
        self.lsn, self.timeline, self.left, self.system = lsn, timeline, left, system
        self.asked, self.dead = 0, False

    async def capture(self) -> Position:
        self.asked += 1
        if self.dead:
            raise OSError("gone")
        await asyncio.sleep(0)
        return Position(self.system, self.timeline, self.lsn)

    async def history(self, timeline: int) -> History | None:
        return None if self.left is None else History(self.system, timeline, {1: self.left})


async def test_ten_commits_cost_one_question_and_only_when_asked() -> None:
    primary = Primary()
    with causality() as scope:
        assert wanted() is None
        for _ in range(10):
            after_commit(primary.capture, primary.history)
        assert primary.asked == 0
        assert wanted() == UNKNOWN  # not yet asked: the primary is always right
        assert await scope.settle() == Token(Position(7, 1, 100))
        assert await scope.settle() == wanted() == await scope.outgoing()
        assert primary.asked == scope.captures == 1
        after_commit(primary.capture)
        primary.lsn = 200
        assert await scope.settle() == Token(Position(7, 1, 200))
    assert CAUSALITY.get() is None
    assert wanted() is None
    after_commit(primary.capture)  # outside of any scope: nobody will ask
    assert primary.asked == 2


async def test_a_commit_during_the_question_asks_again() -> None:
    primary = Primary()
    scope = Causality()
    scope.committed(primary.capture)

    async def commit_meanwhile() -> None:
        scope.committed(primary.capture)

    first, _ = await asyncio.gather(scope.settle(), commit_meanwhile())
    assert first == UNKNOWN
    assert await scope.settle() == Token(Position(7, 1, 100))
    assert primary.asked == 2


async def test_a_primary_that_does_not_answer_leaves_the_scope_unknown_until_it_does() -> None:
    primary = Primary()
    primary.dead = True
    scope = Causality(Token(Position(7, 1, 50)))
    scope.committed(primary.capture)
    with pytest.raises(OSError, match="gone"):
        await scope.settle()
    assert scope.wanted() == UNKNOWN
    primary.dead = False
    assert await scope.settle() == Token(Position(7, 1, 100))


@pytest.mark.parametrize(
    ("primary", "reads", "goes_out", "superseded"),
    [
        (Primary(300, 2, left=120), Token(Position(7, 2, 300)), Token(Position(7, 2, 300)), 0),
        # The token's write was lost, or that cannot be told: this scope reads from the primary, the next need not.
        (Primary(300, 2, left=80), LOST, Token(Position(7, 2, 300)), 1),
        (Primary(300, 2, left=None), LOST, Token(Position(7, 2, 300)), 1),
    ],
)
async def test_across_a_promotion(primary: Primary, reads: Token, goes_out: Token, superseded: int) -> None:
    scope = Causality(Token(Position(7, 1, 100)))
    scope.committed(primary.capture, primary.history)
    assert await scope.settle() == reads
    assert await scope.outgoing() == goes_out
    assert scope.superseded == superseded


async def test_a_commit_on_a_primary_that_was_replaced_stays_unknown() -> None:
    old = Primary(300, 1)
    scope = Causality(Token(Position(7, 2, 100)))
    scope.committed(old.capture, old.history)
    assert await scope.settle() == LOST
    assert await scope.outgoing() == LOST


async def test_each_system_has_its_position_and_waits_for_its_own_commits_alone() -> None:
    one, two = Primary(100), Primary(500, system=8)
    scope = Causality(Token(Position(9, 1, 5)))
    scope.committed(one.capture, one.history, 7)
    assert scope.wanted_on(7) is NOWHERE
    assert (scope.wanted_on(8), scope.wanted_on(9)) == (None, Position(9, 1, 5))
    scope.committed(two.capture, two.history, 8)
    await scope.settle(8)
    assert (one.asked, two.asked) == (0, 1)
    assert scope.wanted_on(7) is NOWHERE
    assert scope.wanted_on(8) == Position(8, 1, 500)
    assert scope.wanted_on(None) is NOWHERE  # whose system is not known must have it all
    assert await scope.outgoing() == Token(Position(7, 1, 100), Position(8, 1, 500), Position(9, 1, 5))
    assert (one.asked, two.asked) == (1, 1)
    scope.committed(two.capture)  # where it was committed is not known: it may be anywhere
    assert scope.wanted_on(7) is scope.wanted_on(8) is NOWHERE


async def test_a_primary_that_does_not_answer_makes_its_own_system_unknown() -> None:
    one, two, three = Primary(100), Primary(500, system=8), Primary(system=9)
    one.dead = three.dead = True
    scope = Causality()
    scope.committed(one.capture, one.history, 7)
    scope.committed(two.capture, two.history, 8)
    with pytest.raises(OSError, match="gone"):
        await scope.outgoing()
    assert scope.so_far() == Token(Position(8, 1, 500), unknown=[7])
    scope.committed(three.capture)
    assert scope.so_far() == UNKNOWN


async def test_a_later_commit_makes_up_for_what_is_unknown_on_its_own_system_alone() -> None:
    """Whoever comes back with a token that names nothing for B has lost what was written on B."""
    primary = Primary(100)
    for token, goes_out in (
        (UNKNOWN, Token(Position(7, 1, 100), others_unknown=True)),
        (Token(unknown=[7, 8]), Token(Position(7, 1, 100), unknown=[8])),
    ):
        scope = Causality(token)
        scope.committed(primary.capture, primary.history, 7)
        assert await scope.settle() == token
        assert await scope.outgoing() == goes_out
        assert goes_out.on(7) == Position(7, 1, 100)
        assert goes_out.on(8) is NOWHERE


async def test_a_promotion_of_one_system_leaves_the_others_as_they_are() -> None:
    other = Position(8, 1, 4)
    for left, reads in ((120, Token(Position(7, 2, 300), other)), (80, Token(other, unknown=[7]))):
        primary = Primary(300, 2, left=left)
        scope = Causality(Token(Position(7, 1, 100), other))
        scope.committed(primary.capture, primary.history, 7)
        assert await scope.settle() == reads
        assert await scope.outgoing() == Token(Position(7, 2, 300), other)


async def test_systems_that_are_copies_of_one_another_want_the_greatest_position_of_all() -> None:
    """They cannot be told apart: more than what must be shown, and after a promotion of one the primary."""
    one, copy = Primary(500), Primary(100)
    scope = Causality()
    scope.committed(one.capture, one.history, 7)
    scope.committed(copy.capture, copy.history, 7)
    assert await scope.outgoing() == Token(Position(7, 1, 500))
    one.timeline, one.left, one.lsn = 2, 550, 600
    scope.committed(one.capture, one.history, 7)
    assert await scope.outgoing() == Token(Position(7, 2, 600))
    scope.committed(copy.capture, copy.history, 7)
    assert await scope.settle() == LOST


def test_a_commit_whose_position_is_known_asks_nobody() -> None:
    scope = Causality(Token(Position(7, 1, 5)))
    scope.committed_at(Position(8, 1, 3))
    assert (scope.wrote, scope.unsettled) == (True, False)
    assert scope.so_far() == Token(Position(7, 1, 5), Position(8, 1, 3))


def test_what_was_seen_raises_what_is_wanted_and_never_lowers_it() -> None:
    scope = Causality()
    for lsn, most in ((50, 50), (70, 70), (60, 70)):
        scope.saw(Position(7, 1, lsn))
        assert scope.wanted() == Token(Position(7, 1, most))


async def test_scopes_are_shared_with_the_tasks_inside_and_nest() -> None:
    primary = Primary()

    async def work() -> None:
        after_commit(primary.capture)

    with causality() as outer:
        await asyncio.gather(work(), work())
        assert outer.commits == 2
        with causality(Token(Position(7, 1, 9))) as inner:
            assert wanted() == Token(Position(7, 1, 9))
            await work()
        assert (outer.commits, inner.commits) == (2, 1)


def test_keys_rotate() -> None:
    old, both, new = TokenKeys([b"o" * 16]), TokenKeys([b"n" * 16, b"o" * 16]), TokenKeys([b"n" * 16])
    token = Token(Position(7, 1, 100))
    assert both.read(old.sign(token)) == token
    assert both.sign(token) == new.sign(token) != old.sign(token)
    with pytest.raises(BadToken, match="none of our keys"):
        new.read(old.sign(token))
    assert "nnn" not in repr(both)


@pytest.mark.parametrize("keys", [b"k" * 16, [], [b"short"], ["k" * 16], "k" * 16])
def test_keys_that_sign_nothing_are_refused(keys: object) -> None:
    with pytest.raises(MisuseError, match="keys: expected"):
        TokenKeys(keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "1", "0/", "0/123456789", "0x1/2", "0/1/2", " 0/1"])
def test_no_lsn(text: str) -> None:
    with pytest.raises(MisuseError, match="lsn: expected"):
        parse_lsn(text)
    with pytest.raises(MisuseError, match="position: expected"):
        Position.parse(f"7:1:{text}")


@pytest.mark.parametrize("numbers", [(-1, 1, 0), (2**64, 1, 0), (1, 0, 0), (1, 2**32, 0), (1, 1, -1), (1, True, 1)])
def test_no_position(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(MisuseError, match="expected a whole number"):
        Position(*numbers)


def test_a_history_file_as_the_server_writes_it() -> None:
    text = "1\t0/5000128\tno recovery target specified\n\n2\t0/7000000\tbefore 2026-01-01 00:00:00+00\n"
    assert History.parse(7, 3, text) == History(7, 3, {1: 0x5000128, 2: 0x7000000})
    with pytest.raises(MisuseError, match="history: expected"):
        History.parse(7, 3, "nonsense\n")
