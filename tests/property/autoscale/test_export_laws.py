"""An exported policy, read back from its text, decides as the local one on any series; the emitters lose nothing."""

import math
from dataclasses import replace

import yaml
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
    Schedule,
    Target,
    Total,
    Unavailable,
    Worker,
)
from tenfold.autoscale.export import Workload, azure, keda, kubernetes, parse
from tenfold.autoscale.export.keda import policy_of as keda_policy_of
from tenfold.autoscale.export.kubernetes import policy_of
from tenfold.autoscale.export.text import yaml_of

SHOP = Workload(name="shop", image="registry.example/shop:1", cpu=0.35, memory="300MB")
amount = st.floats(0.001, 5000)
percent = st.integers(1, 200).map(lambda whole: whole / 100)


@st.composite
def target_sets(draw, kinds):
    known = {
        "in_flight": st.builds(Target, name=st.just("in_flight"), kind=st.just("pods"), target=amount),
        "cpu": st.builds(
            Target, name=st.just("cpu"), kind=st.just("utilization"), target=percent, request=st.just(0.35)
        ),
        "memory": st.builds(
            Target, name=st.just("memory"), kind=st.just("utilization"), target=percent, request=st.just("300MB")
        ),
        "p95_seconds": st.builds(Target, name=st.just("p95_seconds"), kind=st.just("value"), target=amount),
        "queue": st.builds(Target, name=st.just("queue"), kind=st.just("average"), target=amount),
    }
    names = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4, unique=True))
    return tuple(draw(known[name]) for name in names)


rules = st.builds(
    Rules,
    window=st.integers(0, 600),
    rates=st.lists(
        st.builds(Rate, st.sampled_from(["pods", "percent"]), st.integers(1, 200), st.integers(1, 120)),
        min_size=1,
        max_size=3,
    ).map(tuple),
    select=st.sampled_from(["max", "min", "disabled"]),
    tolerance=st.integers(0, 300).map(lambda thousandths: thousandths / 1000),
)


@st.composite
def policies(draw, kinds=("in_flight", "cpu", "memory", "p95_seconds", "queue")):
    least = draw(st.integers(1, 8))
    return ScalePolicy(
        least=least,
        most=draw(st.integers(least, 40)),
        targets=draw(target_sets(kinds)),
        behavior=Behavior(up=draw(rules), down=draw(rules)),
    )


@st.composite
def moments(draw, policy, now):
    """What is seen at one moment, for each number of workers: unknown, unready and leaving ones among them."""
    random = draw(st.randoms(use_true_random=False))

    def look(current):
        count = max(0, current + random.choice([-1, 0, 0, 0, 1]))
        workers = tuple(
            Worker(
                f"w{index}",
                random.choice(["running"] * 8 + ["pending", "stopping", "failed"]),
                random.random() < 0.9,
                now - random.choice([10.0, 1e4]),
                now - random.choice([5.0, 1e4]),
            )
            for index in range(count)
        )
        readings = {}
        for one in policy.targets:
            goal = float(one.target) * float(one.request or 1)
            if random.random() < 0.1:
                readings[one.name] = Unavailable("no answer")
            elif one.per_worker:
                readings[one.name] = PerWorker(
                    {w.name: Sample(goal * random.uniform(0, 2), now, 15.0) for w in workers if random.random() < 0.9}
                )
            else:
                scale = current if one.kind == "average" else 1
                readings[one.name] = Total(goal * scale * random.uniform(0, 2))
        return Observed(current=current, workers=workers, readings=readings)

    return look


def numbers(policy):
    """All that is reckoned with, in the units in which it is."""
    goals = [(one.name, one.kind, one.goal, one.request) for one in policy.targets]
    return policy.least, policy.most, goals, policy.behavior


@settings(max_examples=40)
@given(policies())
def test_every_field_of_a_policy_comes_back_from_an_autoscalers_text(policy):
    assert numbers(parse(yaml.safe_load_all(kubernetes(SHOP, policy).text))) == numbers(policy)


@settings(max_examples=40)
@given(policies())
def test_every_field_of_a_policy_comes_back_from_a_scaled_object_with_means_as_shared_sums(policy):
    there = parse(yaml.safe_load_all(keda(SHOP, policy, prometheus="http://prometheus:9090").text))
    shared = [replace(one, kind="average") if one.kind == "pods" else one for one in policy.targets]
    assert numbers(there) == numbers(replace(policy, targets=tuple(shared)))


@settings(max_examples=40)
@given(policies(kinds=("in_flight", "cpu", "queue")))
def test_limits_and_targets_come_back_from_a_container_app_and_the_behaviour_is_azures(policy):
    app = Workload(name="shop", image="x", cpu=0.5, memory="1GiB", memory_limit="1GiB")
    policy = replace(policy, targets=tuple(replace(t, request=0.5) if t.request else t for t in policy.targets))
    there = parse(
        yaml.safe_load_all(
            azure(app, policy, environment="/e", location="westeurope", prometheus="http://prometheus:9090").text
        )
    )
    shared = [replace(one, kind="average") if one.kind == "pods" else one for one in policy.targets]
    assert numbers(there) == numbers(replace(policy, targets=tuple(shared), behavior=Behavior()))


def test_a_change_of_any_field_of_the_behaviour_changes_the_text():
    """So that no field can be left out of what is written and what is read alike."""
    policy = ScalePolicy(least=2, most=9, targets=(Target.in_flight(20),))
    texts = {kubernetes(SHOP, policy).text}
    changes = [
        {"window": 77},
        {"rates": (Rate("pods", 3, 15),)},
        {"rates": (Rate("percent", 100, 16), Rate("pods", 4))},
        {"select": "min"},
        {"select": "disabled"},
        {"tolerance": 0.2},
    ]
    for way in ("up", "down"):
        for change in changes:
            other = replace(policy.behavior, **{way: replace(getattr(policy.behavior, way), **change)})
            changed = replace(policy, behavior=other)
            text = kubernetes(SHOP, changed).text
            assert parse(yaml.safe_load_all(text)) == changed
            texts.add(text)
    for changed in (
        replace(policy, least=1),
        replace(policy, most=10),
        replace(policy, targets=(Target.in_flight(21),)),
    ):
        texts.add(kubernetes(SHOP, changed).text)
    assert len(texts) == 1 + 2 * len(changes) + 3


@settings(max_examples=40)
@given(st.data())
def test_an_exported_autoscaler_decides_as_the_local_policy_on_any_series(data):
    policy = data.draw(policies())
    text = kubernetes(SHOP, policy).text
    local, exported = Scaler(policy), Scaler(policy_of(yaml.safe_load_all(text)))
    now, current = 0.0, data.draw(st.integers(1, 45))
    for pause in data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=15)):
        now += pause
        look = data.draw(moments(policy, now))(current)
        decision = local.decide(look, now)
        assert exported.decide(look, now) == decision
        current = decision.desired


@settings(max_examples=40)
@given(policies(kinds=("cpu", "memory", "p95_seconds", "queue")), st.data())
def test_a_scaled_object_decides_as_the_local_policy_on_any_series(policy, data):
    hours = Schedule(name="schedule 0", start="0 8 * * *", end="30 9 * * *", zone="Asia/Tokyo", workers=policy.least)
    policy = ScalePolicy(
        least=policy.least, most=policy.most, targets=policy.targets, behavior=policy.behavior, schedules=(hours,)
    )
    text = keda(SHOP, policy, prometheus="http://prometheus:9090").text
    local, exported = Scaler(policy), Scaler(keda_policy_of(yaml.safe_load_all(text)))
    now, current = 0.0, data.draw(st.integers(1, 45))
    for pause in data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=12)):
        now += pause
        seen = data.draw(moments(policy, now))(current)
        wall = data.draw(st.integers(0, 2_000_000_000))
        look = Observed(current=current, workers=seen.workers, readings=seen.readings, wall=float(wall))
        decision = local.decide(look, now)
        assert exported.decide(look, now) == decision
        current = decision.desired


@given(st.integers(1, 30), st.floats(0.01, 500), st.floats(0, 4))
def test_a_mean_asked_of_prometheus_as_a_sum_comes_to_the_same_while_all_are_measured(count, goal, load):
    """KEDA: the mean of the workers against a target, and their sum shared out. They may differ by a rounding."""
    mean, total = (Target(name="in_flight", kind=kind, target=goal) for kind in ("pods", "average"))
    workers = tuple(Worker(f"w{index}") for index in range(count))
    each = math.floor(goal * load * 1000) / 1000
    wishes = []
    for one, reading in (
        (mean, PerWorker({worker.name: Sample(each) for worker in workers})),
        (total, Total(each * count)),
    ):
        policy = ScalePolicy(most=10_000, targets=(one,))
        look = Observed(current=count, workers=workers, readings={"in_flight": reading})
        wishes.append(Scaler(policy).decide(look, 0).wish)
    assert abs(wishes[0] - wishes[1]) <= 1


texts = st.text(max_size=20) | st.sampled_from(
    ["no", "1.0", "a: b", "- a", "#", "0x1f", "1e3", "12:30", "~", "", "null", "=", "<<"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda x: round(x, 3))
    | texts
)
documents = st.dictionaries(
    texts,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60)
@given(
    st.lists(documents, min_size=1, max_size=3),
    st.lists(st.text(st.characters(codec="ascii"), max_size=30), max_size=2),
)
def test_a_yaml_reader_finds_what_was_written(written, notes):
    assert list(yaml.safe_load_all(yaml_of(written, notes))) == written
