"""`AtLeast` and `Stale`: which state a read needs, in every situation of a transaction, and how wishes are merged."""

from __future__ import annotations

import gc
import itertools
from random import Random
from typing import Any
from weakref import ref

import pytest
from sqlalchemy import literal, select

from tenfold._core.errors import MisuseError
from tenfold.db import AtLeast, Position, Stale, Token, Want, create_async_cluster
from tenfold.db.causality import causality
from tenfold.db.choose import choose, too_late
from tenfold.db.classify import READ, Verdict
from tenfold.db.committed import committed_so_far
from tenfold.db.route import asked_route, checked_route, decide, most_lag
from tenfold.db.seen import Seen
from tenfold.db.session import RoutedSession
from tenfold.db.token import NOWHERE, UNKNOWN

WRITE, DOUBT = Verdict("write", True, ("it is INSERT",)), Verdict("write", False, ("f() is VOLATILE",))
HERE, THERE = 71, 72
LEAST, STALE = AtLeast(Token(Position(HERE, 1, 100))), Stale("5s")


@pytest.mark.parametrize(
    ("verdict", "situation", "at_least", "stale"),
    [
        (READ, {}, "replica", "replica"),
        (WRITE, {}, "primary", "primary"),
        (DOUBT, {}, "primary", "primary"),
        (None, {}, "primary", "primary"),
        (READ, {"on_primary": True}, "primary", "primary"),
        (READ, {"one_connection": True}, "primary", "primary"),
        (READ, {"been_there": True}, "primary", "replica"),  # the token may be older than what this session wrote
        (WRITE, {"been_there": True}, "primary", "primary"),
        (READ, {"read_only": True}, "replica", "replica"),
        (None, {"read_only": True}, "replica", "replica"),
        (DOUBT, {"read_only": True}, "replica", "replica"),
    ],
)
def test_where_a_read_with_needs_goes(
    verdict: Verdict | None, situation: dict[str, Any], at_least: str, stale: str
) -> None:
    for route, to in ((LEAST, at_least), (STALE, stale)):
        decision = decide(verdict, route, **situation)
        assert decision.to == to
        assert decision.needs == (route if to == "replica" else None)
        plain = decide(verdict, None, **{**situation, "been_there": False})
        assert decision.may_move is (to == "replica" and plain.may_move)


def test_the_reason_says_what_is_needed() -> None:
    assert decide(READ, STALE).why == "it is a read, and it may be 5.00 s behind"
    assert decide(READ, LEAST, read_only=True).why == "the session is read-only, and it must show 71:1:0/64"
    assert decide(READ).needs is decide(READ, "replica").needs is None


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (None, "7:1:0/64", Position(HERE, 1, 100)):
        with pytest.raises(MisuseError, match="AtLeast: expected a Token"):
            AtLeast(wrong)  # type: ignore[arg-type]
    for wrong in (0, "0s"):
        with pytest.raises(MisuseError, match="Stale: expected a duration above 0"):
            Stale(wrong)
    for wrong in (-1, "soon", None):
        with pytest.raises(MisuseError, match="Stale"):
            Stale(wrong)  # type: ignore[arg-type]
    for wrong in (Stale, AtLeast, Token(), "5s", 5):
        with pytest.raises(MisuseError, match=r'route: expected "primary", "replica", AtLeast\(token\) or Stale'):
            checked_route(wrong)
        with pytest.raises(MisuseError, match="route: expected"):
            asked_route(select(literal(1)).execution_options(route=wrong))
    assert [checked_route(right) for right in (LEAST, STALE)] == [LEAST, STALE]
    assert asked_route(select(literal(1)).execution_options(route=LEAST), STALE) is STALE
    assert (most_lag(Stale("100ms")), most_lag(LEAST), most_lag(None)) == (0.1, None, None)


@pytest.mark.parametrize(
    ("wanted", "token", "system", "merged"),
    [
        (None, Token(), HERE, None),
        (None, Token(Position(THERE, 1, 9)), HERE, None),
        (None, Token(Position(HERE, 1, 100)), HERE, Position(HERE, 1, 100)),
        (Position(HERE, 1, 7), Token(Position(HERE, 1, 100)), HERE, Position(HERE, 1, 100)),
        (Position(HERE, 1, 200), Token(Position(HERE, 1, 100)), HERE, Position(HERE, 1, 200)),
        (Position(HERE, 1, 200), Token(Position(THERE, 1, 900)), HERE, Position(HERE, 1, 200)),
        (Position(HERE, 1, 200), Token(Position(HERE, 2, 100)), HERE, NOWHERE),
        (NOWHERE, Token(Position(HERE, 1, 100)), HERE, NOWHERE),
        (Position(HERE, 1, 200), UNKNOWN, HERE, NOWHERE),
        (Position(HERE, 1, 200), Token(unknown=[THERE]), HERE, Position(HERE, 1, 200)),
        (None, Token(Position(HERE, 1, 100), Position(THERE, 1, 100)), None, NOWHERE),
        (Position(HERE, 1, 200), Token(Position(THERE, 1, 100)), None, NOWHERE),
    ],
)
def test_a_token_beside_what_the_scope_wants(
    wanted: Position | None, token: Token, system: int | None, merged: Position | None
) -> None:
    assert AtLeast(token).beside(wanted, system) == merged


class Fake:
    """A server as it was seen."""

    shown, in_flight, places, stranger = None, 0, 4, ""

    def __init__(self, name: str, seen: Seen) -> None:
        self.name, self.seen = name, seen

    def latency(self, now: float) -> float:
        return 0.0

    def usable(self, now: float) -> bool:
        return True


def test_a_lag_that_is_not_known_is_too_long_for_who_says_how_long_it_may_be() -> None:
    unknown = Fake("r", Seen("replica", Position(HERE, 1, 1), None, "unknown", 0.0))

    def ranks(want: Want, primary: str | None) -> list[str]:
        nodes = [unknown, Fake("p", Seen("primary", None, 0.0, "fresh", 0.0))] if primary else [unknown]
        return [f"{one.node.name} {one.rank}" for one in choose(want, nodes, 0.0, Random(1), primary=primary)]

    for max_lag in (0.1, 3600.0):
        assert ranks(Want(max_lag=max_lag), "p") == ["p spill", "r out"]
        assert ranks(Want(max_lag=max_lag), None) == ["r out"]
    assert ranks(Want(), None) == ["r unknown"]


def test_too_late_is_by_what_is_asked_for_and_else_by_the_cluster_s_own_limit() -> None:
    for lag, state in itertools.product((0.0, 3.0, 8.0), ("fresh", "stale")):
        seen = Seen("replica", None, lag, state, 0.0)  # type: ignore[arg-type]
        assert (too_late(5.0, seen) is None) is (lag <= 5.0)
        assert (too_late(None, seen) is None) is (state == "fresh")


def test_a_token_of_what_was_committed_holds_what_the_scope_wants_elsewhere() -> None:
    now = Position(HERE, 2, 500)
    assert committed_so_far([]) == Token()
    assert committed_so_far([now, Position(THERE, 1, 5)]) == Token(now, Position(THERE, 1, 5))
    assert committed_so_far([now], elsewhere=True) == Token(now, others_unknown=True)
    for scope, token in (
        (Token(Position(HERE, 2, 400)), Token(now)),
        (Token(Position(HERE, 1, 900)), Token(now)),  # lost, or part of it
        (Token(Position(HERE, 3, 100)), Token(unknown=[HERE])),  # then a replaced primary was asked
        (Token(unknown=[HERE]), Token(now)),
        (UNKNOWN, Token(now, others_unknown=True)),
        (Token(Position(THERE, 1, 9)), Token(now, Position(THERE, 1, 9))),
    ):
        with causality(scope):
            assert committed_so_far([now]) == token


def test_a_session_is_freed_when_it_is_let_go() -> None:
    """Not by the garbage collector some time later: there is one for each request."""
    cluster = create_async_cluster("postgresql://nobody@127.0.0.1:1/nothing")
    session = RoutedSession(router=cluster.router)
    gone = ref(session)
    session.close()
    gc.disable()
    try:
        del session
        assert gone() is None
    finally:
        gc.enable()
