"""Replica or primary, for every situation of a transaction: the table, written out."""

from __future__ import annotations

import itertools

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db.classify import READ, Verdict
from tenfold.db.route import Route, checked_route, decide

WRITE, DOUBT = Verdict("write", True, ("it is INSERT",)), Verdict("write", False, ("f() is VOLATILE",))


@pytest.mark.parametrize(
    ("verdict", "route", "to"),
    [
        (READ, None, "replica"),
        (WRITE, None, "primary"),
        (DOUBT, None, "primary"),
        (None, None, "primary"),
        (READ, "primary", "primary"),
        (WRITE, "replica", "replica"),
        (None, "replica", "replica"),
    ],
)
def test_a_fresh_session(verdict: Verdict | None, route: Route | None, to: str) -> None:
    decision = decide(verdict, route)
    assert decision.to == to
    assert decision.may_move is (to == "replica" and route is None)


def test_nothing_leaves_the_primary_in_a_transaction_and_only_a_word_does_after_it() -> None:
    for verdict, route in itertools.product((READ, WRITE, DOUBT, None), ("primary", "replica", None)):
        assert decide(verdict, route, on_primary=True).to == "primary"
        assert decide(verdict, route, one_connection=True).to == "primary"
        after = decide(verdict, route, been_there=True)
        assert after.to == ("replica" if route == "replica" else "primary")
        assert not after.may_move


def test_a_read_only_session_never_writes_and_never_moves() -> None:
    for verdict, flag in itertools.product((READ, WRITE, DOUBT, None), (False, True)):
        for route, to in ((None, "replica"), ("replica", "replica"), ("primary", "primary")):
            decision = decide(verdict, route, read_only=True, been_there=flag)  # type: ignore[arg-type]
            assert (decision.to, decision.may_move) == (to, False)


def test_what_is_no_route_is_refused() -> None:
    assert [checked_route(route) for route in (None, "primary", "replica")] == [None, "primary", "replica"]
    for wrong in ("nearest", 1, ["primary"]):
        with pytest.raises(MisuseError, match='route: expected "primary", "replica"'):
            checked_route(wrong)
