"""How soon the watch asks again, and what it makes of a role that may not see everything."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InternalError

from tenfold._core.events import Hub
from tenfold.db.choose import Want, choose
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.judge import Judge
from tenfold.db.node import Node
from tenfold.db.position import Position
from tenfold.db.probe import Found
from tenfold.db.taps import Taps
from tenfold.db.watch import Watch

URL = make_url("postgresql+asyncpg://app@127.0.0.1:1/shop")


@pytest.mark.parametrize(
    ("error", "soon"),
    [
        (ConnectionRefusedError(), True),
        (asyncpg.TooManyConnectionsError("a new primary, to which all come at once"), True),
        (asyncpg.InvalidPasswordError("no"), False),
    ],
)
async def test_who_is_there_and_does_not_let_us_in_is_not_asked_all_the_time(
    error: Exception, soon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest: list[float] = []

    def pause(way: str, tries: int, least: float, base: float, cap: float, random: Random) -> float:
        longest.append(cap)
        return 0.0

    monkeypatch.setattr("tenfold.db.watch.pause", pause)
    node = Node("primary", URL, ClusterOptions())
    watch = Watch([node], ClusterOptions())
    state = watch._states["primary"]
    for _ in range(6):
        watch._silent(node, state, error)
    assert watch.winner is None
    await watch._rest(node, state)
    assert longest == [0.1 if soon else 2.0]


def test_a_timeline_that_the_role_may_not_see_is_the_reason_why_a_replica_gets_no_readers() -> None:
    nodes = [Node(name, URL, ClusterOptions()) for name in ("primary", "replica 0")]
    judge = Judge(nodes, ClusterOptions(), hub=Hub(), monotonic=lambda: 100.0, elected=lambda: None)

    def why(*, timeline: int, hidden: bool) -> str:
        judge.judge(nodes[0], Found("primary", Position(7, 2, 1000), database="shop"), "seen", 100.0)
        judge.judge(nodes[1], Found("replica", Position(7, timeline, 1000), False, "shop", hidden), "seen", 100.0)
        found = choose(Want(), nodes, 100.0, Random(1), primary="primary")
        return next(choice.why for choice in found if choice.node is nodes[1])

    assert "GRANT pg_read_all_stats" in why(timeline=1, hidden=True)
    assert why(timeline=1, hidden=False) == "its lag is not known"  # it does follow another
    assert "in flight" in why(timeline=2, hidden=True)  # nothing is missing


def test_a_primary_of_the_past_that_has_replayed_nothing_does_not_stop_the_next_one() -> None:
    nodes = [Node(name, URL, ClusterOptions()) for name in ("primary", "replica 0")]
    judge = Judge(nodes, ClusterOptions(), hub=Hub(), monotonic=lambda: 100.0, elected=lambda: None)
    judge.judge(nodes[0], Found("primary", Position(7, 1, 1000), database="shop"), "seen", 100.0)
    judge.judge(nodes[1], Found("replica", Position(7, 1, 1000), database="shop"), "seen", 100.0)
    judge.judge(nodes[0], Found("replica", None), "seen", 100.0)  # it was started again, to follow
    judge.judge(nodes[1], Found("primary", Position(7, 2, 1100), database="shop"), "seen", 100.0)
    assert judge.winner is nodes[1]
    assert not nodes[1].refused
    assert not nodes[1].stranger


def test_what_the_driver_calls_internal_is_said_to_be_a_lost_connection() -> None:
    internal: Any = AsyncAdapt_asyncpg_dbapi.InternalClientError
    original = internal("cannot switch to state 11", asyncpg.InternalClientError("cannot switch to state 11"))
    error = InternalError("UPDATE item SET id = 1", None, original)
    context: Any = SimpleNamespace(
        original_exception=original, sqlalchemy_exception=error, connection=None, is_disconnect=False
    )
    Taps(Node("primary", URL, ClusterOptions()), write=True).handle_error(context)
    assert context.is_disconnect
    assert "the connection is lost" in error.__notes__[0]
