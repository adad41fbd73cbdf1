"""A circuit for each key: apart from each other, bounded, and what protects something is forgotten last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker, BreakerChanged, State
from tenfold.resilience.circuits import Circuits
from tenfold.resilience.errors import BreakerOpen
from tenfold.testing import FakeClock

OPTIONS = Breaker(key=lambda shop: shop, max_keys=3, consecutive=1, jitter=0, open="5s", calm="60s")


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def make(clock: FakeClock) -> Circuits:
    return Circuits("payments", OPTIONS, hub=Hub(), clock=clock)


def trip(circuits: Circuits, key: str, now: float) -> None:
    circuit = circuits.of(key)
    circuit.failure(circuit.ticket, now, 0.01)
    assert circuit.current is State.OPEN


def test_the_trouble_of_one_is_not_that_of_another(clock):
    circuits = make(clock)
    trip(circuits, "a", clock.monotonic())
    with pytest.raises(BreakerOpen):
        circuits.of("a").admit(clock.monotonic())
    assert circuits.of("b").ticket is not None
    assert circuits.of("a") is circuits.of("a")


def test_events_name_the_key(clock):
    hub = Hub()
    seen: list[BreakerChanged] = []
    hub.subscribe(BreakerChanged, seen.append)
    circuits = Circuits("payments", OPTIONS, hub=hub, clock=clock)
    trip(circuits, "a", 0.0)
    assert [(change.name, change.key) for change in seen] == [("payments", "a")]


def test_the_one_not_used_for_longest_goes(clock):
    circuits = make(clock)
    for key in ("a", "b", "c", "a", "d"):
        circuits.of(key)
    assert [key for key in "abcd" if key in circuits] == ["a", "c", "d"]
    assert (len(circuits), circuits.evicted, circuits.evicted_open) == (3, 1, 0)


def test_new_keys_cannot_push_out_an_open_circuit(clock):
    circuits = make(clock)
    trip(circuits, "a", clock.monotonic())
    for n in range(100):
        circuits.of(f"new-{n}")
    assert "a" in circuits
    assert circuits.of("a").current is State.OPEN
    assert len(circuits) == 3
    assert circuits.evicted_open == 0


def test_a_half_open_circuit_keeps_its_place_while_probes_are_out(clock):
    circuits = make(clock)
    start = clock.monotonic()
    trip(circuits, "a", start)
    circuits.of("a").admit(start + 5)
    for n in range(10):
        circuits.of(f"new-{n}")
    assert circuits.of("a").current is State.HALF_OPEN


def test_a_ramping_circuit_keeps_its_place(clock):
    options = replace(OPTIONS, ramp="30s", lease="1s")
    circuits = Circuits("payments", options, hub=Hub(), clock=clock)
    trip(circuits, "a", 0.0)
    circuit = circuits.of("a")
    now = 200.0  # what it claimed while open has run out long ago
    clock.run(clock.sleep(now))
    for _ in range(2):
        circuit.success(circuit.admit(now), now, 0.01)
    assert circuit.current is State.RAMP
    clock.run(clock.sleep(70))
    for n in range(10):
        circuits.of(f"new-{n}")
    assert circuits.of("a") is circuit


def test_each_probe_prolongs_the_claim_of_its_circuit(clock):
    circuits = make(clock)
    trip(circuits, "a", 0.0)
    for _ in range(10):
        clock.run(clock.sleep(85))  # less than a lease and `calm` together
        circuit = circuits.of("a")
        circuit.neutral(circuit.admit(clock.monotonic()), clock.monotonic())
    clock.run(clock.sleep(85))
    for n in range(10):
        circuits.of(f"new-{n}")
    assert circuits.of("a") is circuit


def test_a_peer_gone_for_good_does_not_keep_its_place_for_good(clock):
    circuits = make(clock)
    for key in ("a", "b", "c"):
        trip(circuits, key, clock.monotonic())
    clock.run(clock.sleep(5 + 60))  # the open time, and as long as the growth would be remembered
    for key in ("d", "e", "f"):
        circuits.of(key)
    assert [key for key in "abcdef" if key in circuits] == ["d", "e", "f"]
    assert circuits.evicted_open == 0


def test_the_bound_holds_even_if_all_protect_something(clock):
    circuits = make(clock)
    now = clock.monotonic()
    for n in range(50):
        trip(circuits, str(n), now)
        assert len(circuits) <= 3
    assert "49" in circuits
    assert "47" in circuits
    assert circuits.evicted_open == 47


def test_what_was_set_by_hand_goes_last(clock):
    circuits = make(clock)
    circuits.of("held").force_open("under repair")
    trip(circuits, "a", clock.monotonic())
    trip(circuits, "b", clock.monotonic())
    circuits.of("c")
    assert "held" in circuits
    assert "a" not in circuits
    for key in ("x", "y", "z"):
        circuits.of(key).disable()
    assert len(circuits) == 3
    assert "held" not in circuits


def test_a_call_whose_circuit_was_forgotten_settles_without_harm(clock):
    circuits = make(clock)
    old = circuits.of("a")
    ticket = old.ticket
    for key in ("b", "c", "d"):
        circuits.of(key)
    old.failure(ticket, 1.0, 0.01)
    assert circuits.of("a") is not old
    assert circuits.of("a").current is State.CLOSED


def test_the_sums_outlive_the_circuits(clock):
    circuits = make(clock)
    for n in range(10):
        circuit = circuits.of(str(n))
        circuit.success(circuit.ticket, 1.0, 0.01)
    assert circuits.counters()["successes"] == 10


def test_other_options_reach_every_circuit_and_shrink_the_map(clock):
    circuits = make(clock)
    trip(circuits, "a", clock.monotonic())
    circuits.of("b")
    circuits.of("c")
    circuits.reconfigure(Breaker(max_keys=1, consecutive=2))
    assert len(circuits) == 1
    assert circuits.of("a").current is State.OPEN  # the only one that mattered
    assert circuits.of("a").options.consecutive == 2


def test_the_state_lists_only_what_is_not_plainly_closed(clock):
    circuits = make(clock)
    circuits.of("a")
    trip(circuits, "b", clock.monotonic())
    circuits.of("c").metrics_only()
    state = circuits.state(clock.monotonic())
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert [(c["key"], c["state"]) for c in state["circuits"]] == [("b", "open"), ("c", "closed")]
    assert state["circuits"][0]["retry_after"] == 5.0
    assert state["keys"] == 3
    assert repr(circuits) == "<Circuits 'payments' keys=3/3 evicted=0>"


def test_a_key_that_cannot_be_one_is_refused_with_a_sentence(clock):
    circuits = make(clock)
    with pytest.raises(MisuseError, match=r"breaker key: expected something that can be a key .* got \['a'\]"):
        circuits.of(["a"])
    assert circuits.of("a")
