"""The checker of histories: silent on what a correct store makes, and it finds every anomaly that is planted."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.testing.histories import Append, Read, Transaction, check


def kinds(history: list[Transaction], final: dict[str, list[int]] | None = None) -> set[str]:
    return {anomaly.kind for anomaly in check(history, final)}


def t(client: int, *operations: Append | Read, outcome: str = "committed") -> Transaction:
    return Transaction(client, operations, outcome)  # type: ignore[arg-type]


def a(key: str, value: int) -> Append:
    return Append(key, value)


def r(key: str, *values: int) -> Read:
    return Read(key, values)


HAND_MADE = {
    "internal": [t(1, a("x", 1), r("x"))],
    "internal, between two reads": [t(1, a("x", 1)), t(2, r("x"), r("x", 1))],
    "duplicate": [t(1, a("x", 1)), t(2, r("x", 1, 1))],
    "phantom": [t(1, r("x", 7))],
    "order": [t(1, a("x", 1)), t(2, a("x", 2)), t(3, r("x", 1, 2)), t(4, r("x", 2, 1))],
    "G1a": [t(1, a("x", 1), outcome="failed"), t(2, r("x", 1))],
    "G1b": [t(1, a("x", 1), a("x", 2)), t(2, r("x", 1))],
    "G0": [t(1, a("x", 1), a("y", 1)), t(2, a("x", 2), a("y", 2)), t(3, r("x", 1, 2)), t(4, r("y", 2, 1))],
    "G1c": [t(1, a("x", 1), r("y", 2)), t(2, a("y", 2), r("x", 1))],
    "G-single, a lost update": [t(1, r("x"), a("x", 1)), t(2, r("x"), a("x", 2)), t(3, r("x", 1, 2))],
    "G-single, a read from two times": [t(1, a("x", 1), a("y", 1)), t(2, r("x", 1), r("y")), t(3, r("y", 1))],
    "G2, write skew": [t(1, r("x"), a("y", 1)), t(2, r("y"), a("x", 2)), t(3, r("x", 2), r("y", 1))],
    "read-your-writes": [t(1, a("x", 1)), t(1, r("x"))],
    "monotonic-reads": [t(1, a("x", 1)), t(2, r("x", 1)), t(2, r("x"))],
    "session, what the seen depends on": [
        t(1, a("x", 1)), t(2, r("x", 1), a("y", 2)), t(3, r("y", 2)), t(3, r("x")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_MADE)
def test_a_planted_anomaly_is_found_by_its_name(name: str) -> None:
    assert name.split(",")[0] in kinds(HAND_MADE[name])


@pytest.mark.parametrize("name", [name for name in HAND_MADE if name.split(",")[0] in ("G0", "G1c", "G-single", "G2")])
def test_a_cycle_is_told_as_the_gravest_that_it_is(name: str) -> None:
    cycles = {"G0", "G1c", "G-single", "session", "G2"}
    assert kinds(HAND_MADE[name]) & cycles == {name.split(",")[0]}


def test_what_is_lost_shows_at_the_end_only() -> None:
    history = [t(1, a("x", 1)), t(2, a("x", 2), outcome="unknown"), t(3, a("x", 3), outcome="failed")]
    assert kinds(history, {"x": [1]}) == kinds(history, {"x": [1, 2]}) == set()
    assert kinds(history, {"x": [2]}) == {"lost"}
    assert kinds(history, {"x": [1, 3]}) == {"G1a"}
    assert kinds(history) == set()


def test_the_words_name_the_client_and_the_list() -> None:
    assert [str(one) for one in check(HAND_MADE["monotonic-reads"])] == [
        "monotonic-reads: client 2 saw 1 in 'x', and then 0 (transactions 1, 2)",
        "session: 2 did not see 0, which came before it (transactions 0, 1, 2)",
    ]


# A correct store, one transaction after another, and replicas of it that lag but never go back for one client.

STEP = st.tuples(
    st.integers(0, 3),  # client
    st.sampled_from(["append", "append two", "update", "read", "old read", "failed", "unknown"]),
    st.sampled_from("xyz"),
    st.sampled_from("xyz"),
    st.integers(0, 5),  # how far an old read lags
)


def run(steps: list[tuple[int, str, str, str, int]]) -> tuple[list[Transaction], dict[str, list[int]]]:
    state: dict[str, list[int]] = {"x": [], "y": [], "z": []}
    versions = [{key: tuple(values) for key, values in state.items()}]
    least: dict[int, int] = defaultdict(int)
    history: list[Transaction] = []
    for number, (client, what, one, two, lag) in enumerate(steps):
        if what in ("read", "old read"):
            at = max(least[client], len(versions) - 1 - (lag if what == "old read" else 0))
            shown = versions[at]
            history.append(t(client, r(one, *shown[one]), r(two, *shown[two])))
            least[client] = at
            continue
        if what == "failed":
            history.append(t(client, a(one, number), outcome="failed"))
            continue
        operations: list[Append | Read] = [r(one, *state[one])] if what == "update" else []
        operations.extend(a(key, number) for key in dict.fromkeys((one, two) if what == "append two" else (one,)))
        if what == "unknown" and lag % 2:
            history.append(t(client, *operations, outcome="unknown"))  # and it was not committed
            continue
        for operation in operations:
            if isinstance(operation, Append):
                state[operation.key].append(number)
        versions.append({key: tuple(values) for key, values in state.items()})
        outcome = "unknown" if what == "unknown" else "committed"
        history.append(t(client, *operations, outcome=outcome))
        if outcome == "committed":
            least[client] = len(versions) - 1
    return history, state


@given(st.lists(STEP, max_size=40))
def test_a_correct_store_with_replicas_that_keep_their_promises_is_never_accused(
    steps: list[tuple[int, str, str, str, int]],
) -> None:
    history, final = run(steps)
    assert check(history, final) == []


@given(st.lists(STEP, max_size=40), st.data())
def test_a_write_that_is_dropped_from_a_later_read_of_its_client_is_found(
    steps: list[tuple[int, str, str, str, int]], data: st.DataObject
) -> None:
    history, final = run(steps)
    number = len(history)
    history.append(t(9, a("x", number)))
    seen = data.draw(st.integers(0, len(final["x"])))
    history.append(t(9, r("x", *final["x"][:seen])))
    assert "read-your-writes" in kinds(history)


@given(st.lists(STEP, max_size=40), st.data())
def test_a_read_that_goes_back_is_found(steps: list[tuple[int, str, str, str, int]], data: st.DataObject) -> None:
    history, final = run(steps)
    number = len(history)
    history.append(t(8, a("x", number)))
    full = [*final["x"], number]
    history += [t(9, r("x", *full)), t(9, r("x", *full[: data.draw(st.integers(0, len(full) - 1))]))]
    assert "monotonic-reads" in kinds(history)


@given(st.lists(STEP, max_size=40))
def test_two_updates_from_the_same_version_are_found(steps: list[tuple[int, str, str, str, int]]) -> None:
    history, final = run(steps)
    one, two = len(history), len(history) + 1
    for value in (one, two):
        history.append(t(10 + value, r("x", *final["x"]), a("x", value)))
    history.append(t(9, r("x", *final["x"], one, two)))
    assert "G-single" in kinds(history)


@given(st.lists(STEP, max_size=40), st.data())
def test_an_acknowledged_append_that_is_gone_is_found(
    steps: list[tuple[int, str, str, str, int]], data: st.DataObject
) -> None:
    history, final = run(steps)
    history.append(t(9, a("x", len(history))))
    assert kinds(history, final) == {"lost"}
