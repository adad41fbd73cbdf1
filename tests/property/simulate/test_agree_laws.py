"""On any series an exported policy decides as the local one, and the comparison finds a difference that there is."""

from __future__ import annotations

from dataclasses import replace

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.autoscale import Behavior, Rate, Rules, ScalePolicy, Target
from tenfold.autoscale.export import Workload, azure, keda, kubernetes, parse
from tenfold.simulate import first_difference

APP = Workload(name="app", image="registry.example/app:1")
PROMETHEUS = "http://prometheus:9090"
rules = st.builds(
    Rules,
    window=st.integers(0, 300),
    rates=st.lists(
        st.builds(Rate, st.sampled_from(["pods", "percent"]), st.integers(1, 150), st.integers(1, 60)),
        min_size=1,
        max_size=2,
    ).map(tuple),
    select=st.sampled_from(["max", "min", "disabled"]),
)
behaviors = st.sampled_from([Behavior(), Behavior.local()]) | st.builds(Behavior, up=rules, down=rules)


@st.composite
def policies(draw, behavior=behaviors):
    least = draw(st.integers(1, 4))
    targets = draw(
        st.sampled_from(
            [
                (Target.in_flight(8),),
                (Target.in_flight(20), Target.p95("0.1s")),
                (Target(name="queue", kind="average", target=2.5),),
            ]
        )
    )
    return ScalePolicy(least=least, most=draw(st.integers(least, 30)), targets=targets, behavior=draw(behavior))


@st.composite
def series(draw):
    """Moments fifteen seconds apart with totals; sometimes a metric is missing. Whole ones, so that a mean is exact."""
    found = []
    for number in range(draw(st.integers(1, 25))):
        totals = {
            "in_flight": draw(st.integers(0, 500)),
            "p95_seconds": draw(st.integers(1, 400)) / 1000,
            "queue": draw(st.integers(0, 100)),
        }
        if draw(st.integers(0, 9)) == 0:
            del totals[draw(st.sampled_from(sorted(totals)))]
        found.append((15.0 * number, totals))
    return found


@settings(max_examples=60)
@given(policies(), series(), st.integers(1, 35))
def test_an_autoscaler_read_back_from_its_text_never_differs(policy, moments, current):
    there = parse(yaml.safe_load_all(kubernetes(APP, policy).text))
    assert first_difference(policy, there, moments, current=current) is None


@settings(max_examples=60)
@given(policies(), series(), st.integers(1, 35))
def test_a_scaled_object_differs_by_the_rounding_of_a_mean_at_most(policy, moments, current):
    there = parse(yaml.safe_load_all(keda(APP, policy, prometheus=PROMETHEUS).text))
    found = first_difference(policy, there, moments, current=current)
    if found is not None:
        assert any(target.kind == "pods" for target in policy.targets), "what is shared out here and there is the same"
        assert abs(found.one.wish - found.other.wish) <= 1


@settings(max_examples=40)
@given(policies(behavior=st.just(Behavior())), st.lists(st.integers(0, 400), min_size=1, max_size=20))
def test_azure_decides_alike_with_the_behaviour_that_it_has_but_for_rounding(policy, loads):
    policy = replace(policy, targets=(Target.in_flight(20),))
    made = azure(APP, policy, environment="/e", location="l", response_time="50ms").text
    moments = [(30.0 * at, {"in_flight": float(load), "request_rate": load / 0.05}) for at, load in enumerate(loads)]
    found = first_difference(policy, parse(yaml.safe_load_all(made)), moments)
    assert found is None or abs(found.one.wish - found.other.wish) <= 1


@given(policies(behavior=st.just(Behavior())))
def test_a_difference_is_found_at_its_moment(policy):
    """Twice the target is another answer as soon as there is a load that takes more than the least."""
    policy = replace(policy, most=30, targets=(Target.in_flight(10),))
    other = replace(policy, targets=(Target.in_flight(20),))
    calm = [(15.0 * number, {"in_flight": 5.0}) for number in range(10)]
    assert first_difference(policy, other, calm) is None
    found = first_difference(policy, other, [*calm, (150.0, {"in_flight": 10.0 * (policy.least * 2)})])
    assert found is not None
    assert (found.at, found.other.desired) == (150.0, policy.least)
    assert str(found).startswith("at 150 s: ")
