"""Laws of scaling decisions over random policies and random series on a clock of our own."""

import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.autoscale import (
    Behavior,
    Observed,
    PerWorker,
    Rate,
    Rules,
    Sample,
    ScalePolicy,
    Scaler,
    Target,
    Total,
    Worker,
)

rate_strategy = st.builds(
    Rate, st.sampled_from(["pods", "percent"]), st.integers(1, 150), st.sampled_from([1, 15, 60, 120])
)


@st.composite
def rules(draw, select=("max", "min", "disabled")):
    return Rules(
        window=draw(st.sampled_from([0, 15, 60, 300])),
        rates=tuple(draw(st.lists(rate_strategy, min_size=1, max_size=3))),
        select=draw(st.sampled_from(select)),
        tolerance=draw(st.sampled_from([0.0, 0.1, 0.3])),
    )


@st.composite
def policies(draw, select=("max", "min", "disabled")):
    least = draw(st.integers(1, 10))
    return ScalePolicy(
        least=least,
        most=draw(st.integers(least, 60)),
        targets=(Target(name="load", kind="average", target=10), Target.in_flight(20)),
        behavior=Behavior(up=draw(rules(select)), down=draw(rules(select))),
    )


moments = st.lists(
    st.tuples(st.integers(1, 90), st.floats(0, 900), st.floats(0, 60), st.booleans()), min_size=1, max_size=25
)


def seen(current, load, in_flight, measured=True):
    workers = tuple(Worker(f"w{index}") for index in range(current))
    samples = {worker.name: Sample(in_flight) for worker in workers}
    readings = {"load": Total(load)} | ({"in_flight": PerWorker(samples)} if measured else {})
    return Observed(current=current, workers=workers, readings=readings)


def play(policy, series, current):
    """The decisions on a series, with their times."""
    scaler, now, found = Scaler(policy), 0.0, []
    for pause, load, in_flight, measured in series:
        now += pause
        decision = scaler.decide(seen(current, load, in_flight, measured), now)
        found.append((now, decision))
        current = decision.desired
    return found


@settings(max_examples=40)
@given(policies(), moments, st.integers(1, 80))
def test_a_decision_is_never_outside_the_limits_and_always_says_why(policy, series, current):
    for _, decision in play(policy, series, current):
        assert policy.least <= decision.desired <= policy.most
        assert decision.reasons
        assert all(reason.text for reason in decision.reasons)


@settings(max_examples=40)
@given(policies(), moments, st.integers(1, 60))
def test_the_number_moves_towards_the_wish_and_never_past_it(policy, series, current):
    for _, decision in play(policy, series, min(max(current, policy.least), policy.most)):
        if decision.direction == "out":
            assert decision.desired <= max(decision.wish, decision.current)
        elif decision.direction == "in":
            assert decision.desired >= min(decision.wish, decision.current)


@settings(max_examples=40)
@given(policies(), moments, st.integers(1, 60))
def test_an_unmeasured_metric_never_removes_a_worker(policy, series, current):
    inside = min(max(current, policy.least), policy.most)
    for _, decision in play(policy, [(pause, load, 0, False) for pause, load, _, _ in series], inside):
        assert decision.change >= 0


@given(policies(), st.integers(1, 60), st.floats(0, 900), st.floats(0, 900))
def test_more_load_never_gives_fewer_workers(policy, current, one, other):
    current = min(max(current, policy.least), policy.most)
    low, high = sorted((one, other))
    decide = [Scaler(policy).decide(seen(current, load, 20), 0.0).desired for load in (low, high)]
    assert decide[0] <= decide[1]


@st.composite
def crews(draw):
    """Workers in any state that is not leaving, and two samples of each, the second no smaller."""
    states = draw(st.lists(st.sampled_from(["run", "missing", "pending", "unready"]), min_size=1, max_size=12))
    workers, low, high = [], {}, {}
    for index, state in enumerate(states):
        name = f"w{index}"
        phase = "pending" if state == "pending" else "running"
        workers.append(Worker(name, phase, state == "run", started=0.0 if state == "unready" else -math.inf))
        first, second = sorted((draw(st.floats(0, 3)), draw(st.floats(0, 3))))
        if state != "missing":
            low[name], high[name] = Sample(first), Sample(second)
    return tuple(workers), low, high


@given(crews(), st.sampled_from(["cpu", "in_flight"]))
def test_guesses_for_unknown_workers_keep_the_answer_monotone(crew, which):
    workers, low, high = crew
    one = Target.cpu("70%") if which == "cpu" else Target.in_flight(1)
    policy = ScalePolicy(most=99, targets=(one,), behavior=Behavior(down=Rules(window=0)))
    wishes = []
    for samples in (low, high):
        look = Observed(current=len(workers), workers=workers, readings={one.name: PerWorker(samples)})
        decision = Scaler(policy).decide(look, 10.0)
        wishes.append(decision.wish if decision.proposals else None)
    assert (wishes[0] is None) == (wishes[1] is None)
    if wishes[0] is not None:
        assert wishes[0] <= wishes[1]


@given(
    st.integers(2, 50),
    st.lists(st.floats(0.9005, 1.0995), min_size=1, max_size=40),
    st.sampled_from(["average", "pods"]),
)
def test_inside_the_tolerance_nothing_ever_moves(workers, ratios, kind):
    one = Target(name="load", kind=kind, target=100)
    scaler = Scaler(ScalePolicy(most=100, targets=(one,), behavior=Behavior(down=Rules(window=0))))
    crew = tuple(Worker(f"w{index}") for index in range(workers))
    for now, ratio in enumerate(ratios):
        value = (
            PerWorker({w.name: Sample(100 * ratio) for w in crew}) if kind == "pods" else Total(100 * ratio * workers)
        )
        decision = scaler.decide(Observed(current=workers, workers=crew, readings={"load": value}), float(now * 15))
        assert decision.change == 0


@settings(max_examples=40)
@given(st.floats(5, 600), st.integers(1, 60), st.lists(st.floats(0.97, 1.03), min_size=60, max_size=60))
def test_a_constant_load_with_noise_does_not_flap(load, current, noise):
    """With the default windows: after it has found its number, at most one step down and none up again."""
    policy = ScalePolicy(most=80, targets=(Target(name="load", kind="average", target=10),))
    scaler, directions = Scaler(policy), []
    for tick, factor in enumerate(noise):
        crew = tuple(Worker(f"w{index}") for index in range(current))
        look = Observed(current=current, workers=crew, readings={"load": Total(load * factor)})
        decision = scaler.decide(look, tick * 15.0)
        if decision.change:
            directions.append(decision.direction)
        current = decision.desired
    turns = sum(1 for before, after in pairwise(directions) if before != after)
    assert turns <= 1


@settings(max_examples=40)
@given(policies(select=("max", "min")), moments, st.integers(1, 60))
def test_the_rates_hold_over_any_series(policy, series, current):
    """By a naive account: the numbers with their times, and where the number stood a period before."""
    current = min(max(current, policy.least), policy.most)
    stood = [(-math.inf, current)]

    def at(when):
        return next(number for since, number in reversed(stood) if since <= when)

    for now, decision in play(policy, series, current):
        for direction, side in (("out", policy.behavior.up), ("in", policy.behavior.down)):
            if decision.direction != direction:
                continue
            bounds = []
            for rate in side.rates:
                start = at(now - rate.period)
                change = rate.value if rate.unit == "pods" else start * rate.value / 100
                bounds.append(change + 1 if rate.unit == "percent" else change)
                bounds[-1] = start + bounds[-1] if direction == "out" else start - bounds[-1]
            widest = (max if direction == "out" else min)(bounds)
            tightest = (min if direction == "out" else max)(bounds)
            bound = widest if side.select == "max" else tightest
            assert decision.desired <= bound if direction == "out" else decision.desired >= bound
        stood.append((now, decision.desired))


@settings(max_examples=40)
@given(policies(), moments, st.integers(1, 60), st.lists(st.floats(0, 900), min_size=25, max_size=25))
def test_a_forecast_never_asks_for_fewer_than_what_is_measured(policy, series, current, expected):
    current = min(max(current, policy.least), policy.most)
    for (_, load, in_flight, measured), demand in zip(series, expected, strict=False):
        look = seen(current, load, in_flight, measured)
        alone = Scaler(policy).decide(look, 0.0)
        helped = Scaler(policy).decide(replace(look, demand={"load": demand}), 0.0)
        assert helped.desired >= alone.desired
