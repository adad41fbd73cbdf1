"""Each class of candidates, its place in the order, and the reason that is given for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db.choose import Choice, Want, best, choose
from tenfold.db.pool_size import connections_for
from tenfold.db.position import Position
from tenfold.db.seen import Seen

HERE = Position(7, 1, 1000)
FRESH = Seen("replica", HERE, 0.0, "fresh")


@dataclass
class Fake:
    name: str
    seen: Seen = FRESH
    in_flight: int = 0
    places: int = 10
    stranger: str = ""
    up: bool = True
    seconds: float = 0.001

    @property
    def shown(self) -> Position | None:
        return self.seen.position

    def latency(self, now: float) -> float:
        return self.seconds

    def usable(self, now: float) -> bool:
        return self.up


PRIMARY = Fake("p", Seen("primary", HERE, 0.0, "fresh"))


def chosen(
    want: Want, *nodes: Fake, primary: str | None = "p", spill: int | None = 5, seed: int = 1
) -> list[Choice[Fake]]:
    return choose(want, [PRIMARY, *nodes], 0.0, Random(seed), primary=primary, spill=spill)


def ranks(choices: list[Choice[Fake]]) -> list[tuple[str, str]]:
    return [(choice.node.name, choice.rank) for choice in choices]


def test_the_order_of_the_classes() -> None:
    found = chosen(
        Want(),
        Fake("dead", up=False),
        Fake("crowded", in_flight=10),
        Fake("late", replace(FRESH, lag=30.0, lag_state="stale")),
        Fake("fine"),
        Fake("foreign", stranger="it belongs to another system"),
        Fake("unknown", Seen("replica", HERE)),
        Fake("false", Seen("primary", HERE)),
    )
    assert ranks(found)[:3] == [("fine", "serve"), ("crowded", "crowded"), ("p", "spill")]
    assert {rank for _, rank in ranks(found)[3:]} == {"out"}
    why = {choice.node.name: choice.why for choice in found}
    assert why["dead"] == "its breaker is open"
    assert why["crowded"] == "10 in flight, at its limit of 10"
    assert why["late"] == "it is 30.0 s behind, which is too much"
    assert why["fine"] == "0 in flight, 1.00 ms each"
    assert why["foreign"] == "it belongs to another system"
    assert why["unknown"] == "its lag is not known"
    assert why["false"] == "it says that it is a primary and was not elected"
    assert str(found[0]) == "fine: serve (0 in flight, 1.00 ms each)"


def test_the_spill_is_capped_and_a_primary_alone_is_not() -> None:
    late = Fake("late", replace(FRESH, lag=30.0, lag_state="stale"))
    busy = replace(PRIMARY, in_flight=5)
    assert not any(c.ok for c in choose(Want(), [busy, late], 0.0, Random(1), primary="p", spill=5))
    assert choose(Want(), [busy, late], 0.0, Random(1), primary="p", spill=6)[0].ok
    assert choose(Want(), [busy], 0.0, Random(1), primary="p", spill=5)[0].ok


def test_without_a_primary_replicas_of_unknown_lag_serve_and_stale_ones_do_not() -> None:
    unknown = Fake("unknown", Seen("replica", HERE))
    late = Fake("late", replace(FRESH, lag=30.0, lag_state="stale"))
    found = choose(Want(), [unknown, late], 0.0, Random(1), primary=None, spill=5)
    assert ranks(found) == [("unknown", "unknown"), ("late", "out")]


def test_a_token_is_covered_or_asked_for_before_the_primary_is_troubled() -> None:
    after = Position(7, 1, 1000)
    behind = Fake("behind", replace(FRESH, position=Position(7, 1, 999)))
    elsewhere = Fake("elsewhere", replace(FRESH, position=Position(7, 2, 5000)))
    unknown_but_there = Fake("there", Seen("replica", after))
    late = Fake("late", replace(behind.seen, lag=30.0, lag_state="stale"))
    silent = Fake("silent", Seen())
    found = chosen(Want(after=after), behind, elsewhere, unknown_but_there, late, silent, spill=0)
    assert ranks(found)[0] == ("there", "serve")
    assert dict(ranks(found)[1:3]) == {"behind": "wait", "elsewhere": "wait"}
    assert ranks(found)[3] == ("p", "spill")  # whatever the cap: nobody else may have it
    assert dict(ranks(found)[4:]) == {"late": "out", "silent": "out"}
    assert [choice.ok for choice in found] == [True] * 4 + [False] * 2


def test_a_position_of_another_system_is_the_primary_s() -> None:
    found = chosen(Want(after=Position(0, 1, 5)), Fake("a"))
    assert ranks(found) == [("p", "spill"), ("a", "out")]


def test_the_cheap_way_finds_what_the_long_one_does() -> None:
    nodes = [
        PRIMARY,
        Fake("fine"),
        Fake("busy", in_flight=5),
        Fake("crowded", in_flight=10),
        Fake("dead", up=False),
        Fake("late", replace(FRESH, lag=30.0, lag_state="stale")),
        Fake("foreign", stranger="it belongs to another system"),
        Fake("false", Seen("primary", HERE, 0.0, "fresh")),
    ]
    random = Random(5)
    cheap = Counter(best(nodes, 0.0, random, primary="p").name for _ in range(400))  # type: ignore[union-attr]
    long = Counter(choose(Want(), nodes, 0.0, random, primary="p")[0].node.name for _ in range(400))
    assert cheap == long == {"fine": 400}
    assert best(nodes, 0.0, random, primary="p", pinned="busy") is nodes[2]
    assert best(nodes, 0.0, random, primary="p", pinned="dead") is None
    assert best(nodes[3:], 0.0, random, primary="p") is None
    many = [Fake(str(number)) for number in range(4)]
    firsts = Counter(best(many, 0.0, random, primary="p").name for _ in range(2000))  # type: ignore[union-attr]
    assert all(400 < firsts[node.name] < 600 for node in many)


def test_the_lag_that_the_statement_allows_goes_before_the_clusters() -> None:
    slow = Fake("slow", replace(FRESH, lag=30.0, lag_state="stale"))
    assert chosen(Want(max_lag=60.0), slow)[0].node is slow
    quick = Fake("quick", replace(FRESH, lag=1.0))
    found = {c.node.name: c for c in chosen(Want(max_lag=0.5), quick)}
    assert (found["quick"].rank, found["quick"].why) == ("out", "it is 1.00 s behind, 500 ms were asked for")


def test_who_is_pinned_stays_as_long_as_it_may() -> None:
    a, b = Fake("a", in_flight=9), Fake("b")
    found = chosen(Want(pinned="a"), a, b)
    assert found[0].node is a
    assert found[0].why.startswith("pinned; ")
    assert chosen(Want(pinned="a"), replace(a, up=False), b)[0].node is b


def test_writes_go_to_the_primary_alone() -> None:
    assert ranks(chosen(Want("write"), Fake("a"))) == [("p", "serve"), ("a", "out")]
    found = choose(Want("write"), [PRIMARY], 0.0, Random(1), primary=None)
    assert (found[0].rank, found[0].why) == ("out", "the primary is not known")


def test_equal_replicas_share_the_load_and_latency_counts() -> None:
    nodes = [Fake(str(number)) for number in range(4)]
    random = Random(3)
    firsts = Counter(choose(Want(), [PRIMARY, *nodes], 0.0, random, primary="p")[0].node.name for _ in range(2000))
    assert all(400 < firsts[node.name] < 600 for node in nodes)
    idle_but_slow, busy_but_quick = Fake("slow", in_flight=0, seconds=0.1), Fake("quick", in_flight=3)
    for seed in range(20):
        assert chosen(Want(), idle_but_slow, busy_but_quick, seed=seed)[0].node.name == "quick"
        assert (
            chosen(Want(), Fake("a", in_flight=1), Fake("b", in_flight=0, seconds=0.0015), seed=seed)[0].node.name
            == "b"
        )


def test_who_is_not_known_gets_a_share_and_no_rush() -> None:
    known, unknown = Fake("known", in_flight=3, seconds=0.05), Fake("unknown", in_flight=4, seconds=0.0)
    for seed in range(20):
        assert chosen(Want(), known, unknown, seed=seed)[0].node is known
        assert chosen(Want(), replace(known, in_flight=5), unknown, seed=seed)[0].node is unknown
    assert chosen(Want(), unknown)[0].why == "4 in flight, an unknown time each"


def test_sizes_by_littles_law() -> None:
    assert connections_for("500/s", "4ms") == 5  # two in use on average, and 2√2 more
    assert connections_for(10_000, "5ms") == 65
    assert connections_for("1/s", "1ms") == 2
    for rate, held in ((0, "1ms"), (5, 0)):
        with pytest.raises(MisuseError, match='pool_size="auto": expected a rate and a time held above 0'):
            connections_for(rate, held)
