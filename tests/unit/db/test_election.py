"""Who takes the writes among servers that say so: every case as a table."""

from __future__ import annotations

from tenfold.db.election import Election
from tenfold.db.seen import Position, Role, Seen


def seen(role: Role, timeline: int = 1, system: int = 7) -> Seen:
    return Seen(role, Position(system, timeline, 1000))


def test_one_primary_is_elected_and_its_loss_noticed() -> None:
    election = Election()
    assert election.decide([("a", seen("primary")), ("b", seen("replica"))]).winner == "a"
    assert election.decide([("a", Seen()), ("b", seen("replica"))]).winner is None
    assert election.decide([("a", seen("primary")), ("b", seen("replica"))]).winner == "a"


def test_the_higher_timeline_wins_whatever_the_order() -> None:
    for names in (("a", "b"), ("b", "a")):
        election = Election()
        nodes = {"a": seen("primary", 3), "b": seen("primary", 4)}
        outcome = election.decide([(name, nodes[name]) for name in names])
        assert outcome.winner == "b"
        assert outcome.refused == (("a", "its timeline is 3, and 4 has been seen"),)


def test_a_lower_timeline_is_refused_even_alone() -> None:
    election = Election()
    election.decide([("a", seen("primary", 1)), ("b", seen("primary", 2))])
    outcome = election.decide([("a", seen("primary", 1)), ("b", Seen())])
    assert outcome.winner is None
    assert [name for name, _ in outcome.refused] == ["a"]
    assert election.decide([("a", seen("primary", 3)), ("b", seen("primary", 2))]).winner == "a"


def test_on_one_timeline_the_present_primary_stays() -> None:
    election = Election()
    assert election.decide([("a", Seen()), ("b", seen("primary"))]).winner == "b"
    outcome = election.decide([("a", seen("primary")), ("b", seen("primary"))])
    assert outcome.winner == "b"
    assert outcome.refused == (("a", "b is a primary of the same timeline 1 already"),)


def test_strangers_are_never_elected() -> None:
    election = Election()
    election.decide([("a", seen("primary", 1, 7))])
    outcome = election.decide([("a", Seen()), ("b", seen("primary", 9, 8))])
    assert outcome.winner is None
    assert outcome.refused == (("b", "it belongs to system 8, the cluster is 7"),)
