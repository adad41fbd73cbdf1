"""Chaos: hard to leave on, the same choice for the same seed, only what is in scope."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold.resilience.chaos import Chaos, ChaosEnded, ChaosStarted, Injector
from tenfold.resilience.errors import ChaosFault
from tenfold.testing import FakeClock

ON = {"TENFOLD_CHAOS": "1"}


def injector(now=0.0, *, environment=None, hub=None, clock=None, **options):
    options.setdefault("seed", 1)
    if "until" not in options:
        options.setdefault("for_", "10m")
    clock = clock or FakeClock(start=now)
    return Injector(Chaos(**options), policy="p", clock=clock, hub=hub or Hub(), environment=environment or {})


def choices(live, calls=1000, now=1.0):
    return [live.plan(now, (), {}) for _ in range(calls)]


# Hard to leave on


def test_it_is_off_unless_enabled():
    assert choices(injector(fault=1.0)) == [None] * 1000
    assert injector(fault=1.0, enabled=True).plan(1.0, (), {}) is not None
    assert injector(fault=1.0, environment=ON).plan(1.0, (), {}) is not None


def test_the_environment_does_not_enable_what_is_disabled():
    assert injector(fault=1.0, enabled=False, environment=ON).plan(1.0, (), {}) is None


@pytest.mark.parametrize("value", ["", "yes", "2"])
def test_only_1_enables(value):
    assert injector(fault=1.0, environment={"TENFOLD_CHAOS": value}).plan(1.0, (), {}) is None


def test_0_in_the_environment_turns_it_off_whatever_the_code_says():
    assert injector(fault=1.0, enabled=True, environment={"TENFOLD_CHAOS": "0"}).plan(1.0, (), {}) is None


def test_it_ends_by_itself_and_says_so_once():
    hub, seen = Hub(), []
    with hub.subscribe(Event, seen.append):
        live = injector(100.0, fault=1.0, for_="10m", enabled=True, hub=hub)
        assert live.plan(699.9, (), {}) is not None
        assert live.left(699.0) == pytest.approx(1.0)
        assert [live.plan(now, (), {}) for now in (700.0, 701.0, 1e9)] == [None] * 3
    assert seen == [ChaosStarted("p", 600.0, 1), ChaosEnded("p", 1)]
    assert live.state()["active"] is False


def test_until_is_a_moment_so_that_a_restart_does_not_begin_anew():
    moment = datetime.now(UTC) + timedelta(minutes=10)
    clock = FakeClock(start=50.0, epoch=moment.timestamp() - 60)
    live = injector(fault=1.0, until=moment, enabled=True, clock=clock)
    assert live.left(50.0) == pytest.approx(60.0)
    assert live.plan(109.0, (), {}) is not None
    assert live.plan(110.0, (), {}) is None
    clock.jump(61)
    assert injector(fault=1.0, until=moment, enabled=True, clock=clock).plan(111.0, (), {}) is None


def test_a_wall_clock_that_is_wrong_does_not_prolong_it_beyond_a_day():
    clock = FakeClock(epoch=0.0)
    live = injector(fault=1.0, until=datetime.now(UTC) + timedelta(hours=1), enabled=True, clock=clock)
    assert live.left(0.0) == 86_400.0


def test_the_same_options_again_do_not_prolong_it():
    options = {"fault": 1.0, "for_": "10m", "enabled": True, "seed": 1}
    clock = FakeClock()
    live = injector(clock=clock, **options)
    clock.jump(599)
    live.reconfigure(Chaos(**options))
    assert live.plan(599.0, (), {}) is not None
    assert live.plan(600.0, (), {}) is None


def test_other_options_start_a_new_box_and_disabled_ones_end_it():
    clock = FakeClock()
    live = injector(clock=clock, fault=1.0, for_="10m", enabled=True)
    clock.jump(599)
    live.reconfigure(Chaos(fault=1.0, for_="1m", enabled=True, seed=1))
    assert live.left(599.0) == 60.0
    live.reconfigure(Chaos(fault=1.0, for_="1m", enabled=False, seed=1))
    assert live.plan(601.0, (), {}) is None


def test_somebody_can_stop_it():
    live = injector(fault=1.0, enabled=True)
    live.stop()
    assert live.plan(1.0, (), {}) is None
    live.stop()


# The choice


def test_the_shares_hold():
    live = injector(fault="5%", latency="200ms", latency_share="30%", outcome=None, outcome_share=0.2, enabled=True)
    plans = choices(live, 20_000)
    injected = [plan for plan in plans if plan is not None]
    failed = [plan for plan in injected if plan.error is not None]
    delayed = [plan for plan in injected if plan.delay]
    replaced = [plan for plan in injected if plan.replaces]
    assert len(failed) / 20_000 == pytest.approx(0.05, abs=0.01)
    assert len(delayed) / 20_000 == pytest.approx(0.30, abs=0.02)
    assert len(replaced) / 20_000 == pytest.approx(0.19, abs=0.02)  # a fault wins
    assert {plan.delay for plan in delayed} == {0.2}
    assert not [plan for plan in failed if plan.replaces]
    assert [live.state()[name] for name in ("seen", "faults", "delays", "outcomes")] == [
        20_000,
        len(failed),
        len(delayed),
        len(replaced),
    ]


def test_the_same_seed_makes_the_same_choice_and_another_seed_another():
    def failures(seed):
        return [plan is not None for plan in choices(injector(fault="10%", seed=seed, enabled=True))]

    assert failures(1) == failures(1)
    assert failures(1) != failures(2)


def test_another_share_of_one_kind_leaves_the_choice_of_the_others_alone():
    def failures(**more):
        return [bool(plan and plan.error) for plan in choices(injector(fault="10%", enabled=True, **more))]

    assert failures() == failures(latency="1s", latency_share="50%") == failures(outcome=1, outcome_share="50%")


def test_a_drawn_seed_is_shown_and_replays_the_run():
    first = injector(fault="10%", seed=None, enabled=True)
    again = injector(fault="10%", seed=first.state()["seed"], enabled=True)
    assert [plan is None for plan in choices(first)] == [plan is None for plan in choices(again)]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ChaosFault, ChaosFault, "injected by Chaos"),
        (ConnectionError, ConnectionError, "injected by Chaos"),
        ("TimeoutError", TimeoutError, "injected by Chaos"),
        (lambda: OSError(111, "refused"), OSError, "refused"),
    ],
)
def test_a_fault_is_a_new_exception_each_time(error, kind, message):
    live = injector(fault=1.0, error=error, enabled=True)
    first, second = (live.plan(1.0, (), {}).error for _ in range(2))
    assert isinstance(first, kind)
    assert message in str(first)
    assert first is not second


def test_the_default_fault_knows_its_policy():
    assert injector(fault=1.0, enabled=True).plan(1.0, (), {}).error.policy == "p"


def test_an_outcome_may_be_nothing_and_a_mutable_one_is_copied():
    plan = injector(outcome=None, enabled=True).plan(1.0, (), {})
    assert plan.replaces
    assert plan.outcome is None
    live = injector(outcome=[], enabled=True)
    live.plan(1.0, (), {}).outcome.append(1)
    assert live.plan(1.0, (), {}).outcome == []


# The scope


def test_only_what_is_in_scope_is_hit():
    live = injector(fault=1.0, where=lambda order, *, tenant: tenant == "test", enabled=True)
    assert live.plan(1.0, (7,), {"tenant": "test"}) is not None
    assert live.plan(1.0, (7,), {"tenant": "acme"}) is None
    assert (live.seen, live.faults) == (2, 1)


def test_a_scope_that_raises_picks_nothing_and_is_counted():
    live = injector(fault=1.0, where=lambda: 1 / 0, enabled=True)
    assert live.plan(1.0, (), {}) is None
    assert live.plan(1.0, ("unexpected",), {}) is None
    assert live.state()["scope_errors"] == 2


# What people see


def test_state_is_ready_for_json_and_repr_tells_it():
    live = injector(fault=1.0, enabled=True)
    live.plan(1.0, (), {})
    assert json.loads(json.dumps(live.state())) == {
        "active": True,
        "left": 600.0,
        "seed": 1,
        "seen": 1,
        "faults": 1,
        "delays": 0,
        "outcomes": 0,
        "scope_errors": 0,
    }
    assert repr(live) == "<Injector 'p' on for 10 min seed=1 faults=1 delays=0 outcomes=0 of 1>"
    assert "off" in repr(injector(fault=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": "5%"}, "expected exactly one of for_=.* it has to end by itself"),
        ({"fault": "5%", "for_": "1m", "until": datetime.now(UTC)}, "expected exactly one of for_"),
        ({"for_": "1m"}, "expected fault, latency or outcome, got none"),
        ({"fault": "0%", "for_": "1m"}, "expected fault, latency or outcome, got none"),
        ({"fault": "105%", "for_": "1m"}, "fault: expected a share between 0 and 1"),
        ({"fault": "5%", "for_": "25h"}, 'for_: expected more than 0 and "24h" at most, got 90000 s'),
        ({"fault": "5%", "for_": 0}, "for_: expected more than 0"),
        ({"fault": "5%", "until": datetime(2026, 1, 1)}, "until: expected a date and time with a time zone"),
        ({"fault": "5%", "until": "tomorrow"}, "until: expected a date and time with a time zone"),
        ({"fault": "5%", "until": datetime(2999, 1, 1, tzinfo=UTC)}, "until: expected 24 hours from now at most"),
        ({"latency_share": "5%", "fault": 1, "for_": "1m"}, "latency_share: expected latency with it"),
        ({"outcome_share": "5%", "fault": 1, "for_": "1m"}, "outcome_share: expected outcome with it"),
        ({"fault": 1, "error": OSError("x"), "for_": "1m"}, "error: .* got the instance OSError"),
        ({"fault": 1, "error": "NoSuchError", "for_": "1m"}, "error: expected exception classes, or names"),
        ({"fault": 1, "error": KeyboardInterrupt, "for_": "1m"}, "error: expected classes derived from Exception"),
        ({"fault": 1, "error": 7, "for_": "1m"}, "error: expected an exception class or a function that makes one"),
        ({"fault": 1, "error": UnicodeDecodeError, "for_": "1m"}, "cannot be made of a message alone"),
        ({"fault": 1, "where": "tenant", "for_": "1m"}, "where: expected a function"),
        ({"fault": 1, "seed": "x", "for_": "1m"}, "seed: expected a whole number"),
        ({"fault": 1, "enabled": "yes", "for_": "1m"}, "enabled: expected true, false or nothing"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(options, message):
    with pytest.raises(MisuseError, match=message):
        Chaos(**options)


def test_options_can_be_replaced_one_by_one():
    made = Chaos(fault="5%", error="TimeoutError", for_="1m", seed=1)
    assert dataclasses.replace(made) == made
    assert dataclasses.replace(made, fault=0.1).fault == 0.1
