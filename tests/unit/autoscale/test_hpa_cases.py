"""Every decision of the table `hpa_cases.toml`, and that the table is what it says it is."""

import math
import tomllib
from pathlib import Path

import pytest

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
    Unavailable,
    Worker,
)

TABLE = tomllib.loads((Path(__file__).parent / "hpa_cases.toml").read_text())["case"]
NOT_PHASES = {"run": ("running", True), "unready": ("running", False)}


def target(text):
    name, *rest = text.split()
    match rest:
        case [share] if share.endswith("%"):
            return Target(name=name, kind="utilization", target=int(share[:-1]) / 100, request=1.0)
        case [mean]:
            return Target(name=name, kind="pods", target=float(mean))
        case ["=", value]:
            return Target(name=name, kind="value", target=float(value))
        case ["/", value]:
            return Target(name=name, kind="average", target=float(value))
    raise AssertionError(text)


def rates(texts):
    return tuple(Rate(unit, int(value), int(period)) for value, unit, _, period in (text.split() for text in texts))


def policy(case):
    default = Behavior()
    return ScalePolicy(
        least=case.get("least", 1),
        most=case.get("most", 20),
        targets=tuple(target(text) for text in case["targets"]),
        behavior=Behavior(
            up=Rules(
                window=case.get("up_window", 0),
                rates=rates(case["up"]) if "up" in case else default.up.rates,
                select=case.get("up_select", "max"),
                tolerance=case.get("up_tolerance", 0.1),
            ),
            down=Rules(
                window=case.get("down_window", 300),
                rates=rates(case["down"]) if "down" in case else default.down.rates,
                select=case.get("down_select", "max"),
                tolerance=case.get("down_tolerance", 0.1),
            ),
        ),
    )


def observed(step, current, targets):
    values = [step[one.name] for one in targets if isinstance(step[one.name], list)]
    states = step.get("states", ["run"] * (len(values[0]) if values else current))
    workers = []
    for index, state in enumerate(states):
        phase, ready = NOT_PHASES.get(state, (state, False))
        started, changed = (step[key][index] if key in step else -math.inf for key in ("started", "changed"))
        workers.append(Worker(f"w{index}", phase, ready, started, changed))
    readings = {}
    for one in targets:
        value = step[one.name]
        if value == "failed":
            readings[one.name] = Unavailable("the server does not answer")
        elif isinstance(value, list):
            assert len(value) == len(states), "a value for each worker"
            readings[one.name] = PerWorker(
                {
                    f"w{index}": Sample(number, step.get("sampled", [math.inf] * 99)[index], step.get("window", 0))
                    for index, number in enumerate(value)
                    if number != "-"
                }
            )
        else:
            readings[one.name] = Total(value)
    return Observed(current=current, workers=tuple(workers), readings=readings)


@pytest.mark.parametrize("case", TABLE, ids=[case["name"] for case in TABLE])
def test_the_decision_is_that_of_the_table(case):
    scaler, current = Scaler(policy(case)), 0
    for number, step in enumerate(case["steps"]):
        current = step.get("current", current)
        decision = scaler.decide(observed(step, current, scaler.policy.targets), step.get("at", 0))
        assert decision.desired == step["desired"], f"step {number}: {decision}"
        if "codes" in step:
            assert list(decision.codes) == step["codes"], f"step {number}: {decision}"
        current = decision.desired


def test_the_table_holds_at_least_forty_cases_and_each_names_its_source():
    assert len(TABLE) >= 40
    assert len({case["name"] for case in TABLE}) == len(TABLE)
    assert all(case["source"].split(": ")[0] in ("doc", "calculator", "controller", "api") for case in TABLE)
