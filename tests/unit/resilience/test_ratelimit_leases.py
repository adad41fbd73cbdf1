"""`Leases`: what a process may hold, with time as an argument and no store in sight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenfold.resilience.leases import Leases


def take(leases: Leases, now: float, key: object = "k", cost: float = 1, granted: float | None = None) -> float:
    """Ask for what is wanted and get it (or ``granted``); how much was wanted."""
    wanted = leases.want(now, key, cost)
    leases.grant(now, key, wanted, cost, wanted if granted is None else granted, taken_at=0)
    return wanted


def drain(leases: Leases, now: float, key: object = "k") -> int:
    count = 0
    while leases.spend(now, key, 1):
        count += 1
    return count


def test_without_a_size_a_call_takes_what_it_costs() -> None:
    leases = Leases(0, 1.0, 10)
    assert [take(leases, 0.0), take(leases, 0.0, cost=3)] == [1, 3]
    assert leases.held == 0


def test_a_busy_key_takes_more_each_time_up_to_the_lease() -> None:
    leases = Leases(10, 1.0, 10)
    wanted = []
    for _ in range(6):
        wanted.append(take(leases, 0.0))
        drain(leases, 0.0)
    assert wanted[0] == 1
    assert wanted[-1] == 10
    assert wanted == sorted(wanted)


def test_a_lease_ends_and_the_next_is_as_small_as_what_was_used() -> None:
    leases = Leases(100, 1.0, 10)
    for _ in range(9):
        take(leases, 0.0)
        drain(leases, 0.0)
    assert take(leases, 0.0) == 100
    assert leases.spend(0.5, "k", 1)
    assert not leases.spend(1.0, "k", 1)
    assert take(leases, 1.0) < 100
    assert leases.forfeited == 98


def test_what_is_under_way_counts() -> None:
    leases = Leases(10, 1.0, 10)
    for _ in range(6):
        take(leases, 0.0)
        drain(leases, 0.0)
    first, second = leases.want(0.0, "k", 1), leases.want(0.0, "k", 1)
    assert (first, second) == (10, 1)
    leases.fail("k", first)
    leases.fail("k", second)
    assert leases.want(0.0, "k", 1) == 10


def test_a_refusal_holds_for_calls_as_dear_and_not_for_ever() -> None:
    leases = Leases(10, 1.0, 10)
    wanted = leases.want(0.0, "k", 2)
    leases.refuse(0.0, "k", wanted, 2, wait=60.0)
    assert leases.refused(0.1, "k", 2) == 59.9
    assert leases.refused(0.1, "k", 1) == 0
    assert leases.refused(0.1, "other", 2) == 0
    assert leases.refused(0.5, "k", 2) == 0  # a lease may have been given back meanwhile


def test_keys_are_bounded_and_a_dropped_one_forfeits() -> None:
    leases = Leases(4, 1.0, 2)
    for _ in range(3):
        take(leases, 0.0, "a")
        drain(leases, 0.0, "a")
    take(leases, 0.0, "a")
    held = leases.held
    take(leases, 0.0, "b")
    take(leases, 0.0, "c")
    assert len(leases) == 2
    assert leases.forfeited == held > 0


def test_surrender_names_what_is_held_and_forgets_it() -> None:
    leases = Leases(8, 1.0, 10)
    for _ in range(4):
        take(leases, 0.0)
        drain(leases, 0.0)
    wanted = leases.want(0.0, "k", 1)
    leases.grant(0.0, "k", wanted, 1, wanted, taken_at=77)
    assert list(leases.surrender(0.5)) == [("k", wanted - 1, 77)]
    assert (len(leases), leases.held) == (0, 0)


@given(
    size=st.integers(0, 20),
    steps=st.lists(
        st.tuples(st.sampled_from(["spend", "want", "grant", "less", "fail", "wait"]), st.integers(1, 3)), max_size=100
    ),
)
def test_never_more_than_the_lease_is_held_and_nothing_is_spent_that_was_not_granted(
    size: int, steps: list[tuple[str, int]]
) -> None:
    leases, now = Leases(size, 1.0, 10), 0.0
    open_wants: list[tuple[float, int]] = []
    granted_in_all = spent = 0.0
    for what, cost in steps:
        if what == "spend":
            spent += cost * leases.spend(now, "k", cost)
        elif what == "want":
            open_wants.append((leases.want(now, "k", cost), cost))
            assert open_wants[-1][0] >= cost
        elif what == "wait":
            now += 0.3 * cost
        elif open_wants:
            wanted, its = open_wants.pop(0)
            if what == "fail":
                leases.fail("k", wanted)
                continue
            granted = wanted if what == "grant" else its
            granted_in_all += granted
            spent += its
            leases.grant(now, "k", wanted, its, granted, 0)
        assert leases.held <= size
        assert spent <= granted_in_all
