"""Open-loop load tests: journeys in Python, honest latencies, a verdict.

The first lines of a scenario file are ``from tenfold.load import feed, journey, step, check, target``;
whoever drives runs from code takes `run`, `find_breakpoint` and the schedules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenfold.load import feed
from tenfold.load.breakpoint import ProbeProgress, find_breakpoint
from tenfold.load.compare import CompareOptions, Comparison, Metric, compare
from tenfold.load.environment import describe as describe_environment
from tenfold.load.errors import LoadError, RequestFailed, TargetDownError, WorkerError
from tenfold.load.progress import Progress, Snapshot
from tenfold.load.result import ClientHealth, Counts, Interval, ObjectiveResult, RunResult, StepResult
from tenfold.load.run import RunOptions, run
from tenfold.load.scenario import Journey, Scenario, journey, load_scenario, target
from tenfold.load.schedule import Constant, Poisson, Ramp, Replay, Schedule, Soak, Spike, Steps
from tenfold.load.search import Probe, SearchOptions, SearchResult
from tenfold.load.slo import Objective, Validity, Verdict, load_objectives, verdict
from tenfold.load.step import check, step

if TYPE_CHECKING:
    from tenfold.load.answer import Answer
    from tenfold.load.user import User

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # scenario files
    "journey", "step", "check", "target", "feed", "Journey", "RequestFailed", "User", "Answer",
    # schedules
    "Schedule", "Constant", "Poisson", "Ramp", "Steps", "Spike", "Soak", "Replay",
    # running
    "Scenario", "load_scenario", "run", "RunOptions", "Progress", "Snapshot",
    "find_breakpoint", "ProbeProgress", "SearchOptions", "SearchResult", "Probe",
    # judging
    "Objective", "Validity", "Verdict", "load_objectives", "verdict",
    "compare", "CompareOptions", "Comparison", "Metric",
    # results
    "RunResult", "StepResult", "Counts", "Interval", "ClientHealth", "ObjectiveResult",
    "describe_environment",
    # errors
    "LoadError", "TargetDownError", "WorkerError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`User` and `Answer` are for annotations in scenario files; loaded when asked for."""
    if name == "User":
        from tenfold.load.user import User

        return User
    if name == "Answer":
        from tenfold.load.answer import Answer

        return Answer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
