"""A discrete-event simulator that runs the balancer's own policies on a virtual clock.

Thousands of servers, their queues, their faults and the clients before them in one process and in seconds, seeded and
exactly repeatable. The autoscaler's policies run on it too: traffic, workers that take a while to start, and what it
costs. The command is ``tenfold simulate scenario.toml``.
"""

from tenfold.simulate.agree import Difference, first_difference
from tenfold.simulate.policies import PickFactory, Place
from tenfold.simulate.result import Latency, Moment, PolicyResult, Result, ServerResult
from tenfold.simulate.run import simulate
from tenfold.simulate.scaling import simulate_scaling
from tenfold.simulate.scaling_result import Point, ScaleResult, ScalingResult
from tenfold.simulate.scaling_scenario import ScalingScenario, load_scaling, scaling_from_dict
from tenfold.simulate.scenario import Scenario, ScenarioError, from_dict, load, parse

__all__ = [  # noqa: RUF022 - grouped by use
    # what is to be simulated
    "Scenario",
    "ScenarioError",
    "load",
    "parse",
    "from_dict",
    # the simulation
    "simulate",
    "PickFactory",
    "Place",
    # what comes out
    "Result",
    "PolicyResult",
    "Latency",
    "Moment",
    "ServerResult",
    # scaling
    "ScalingScenario",
    "load_scaling",
    "scaling_from_dict",
    "simulate_scaling",
    "ScalingResult",
    "ScaleResult",
    "Point",
    "first_difference",
    "Difference",
]  # fmt: skip
