"""Scaling by what is measured: the policy, forecasts, and the same policy for Kubernetes, KEDA and Azure.

::

    from tenfold.autoscale import Observed, PerWorker, Sample, ScalePolicy, Scaler, Target, Worker

    scaler = Scaler(ScalePolicy(least=2, most=8, targets=(Target.in_flight(20),)))
    workers = (Worker("a"), Worker("b"))
    reading = PerWorker({"a": Sample(31), "b": Sample(35)})
    decision = scaler.decide(Observed(current=2, workers=workers, readings={"in_flight": reading}), now=0.0)
    decision.desired  # 4
"""

from tenfold.autoscale.behavior import Behavior, Rate, Rules
from tenfold.autoscale.forecast import Forecast, NoForecast, forecast
from tenfold.autoscale.happenings import Scaled
from tenfold.autoscale.metrics import PerWorker, Proposal, Reading, Sample, Target, Total, Unavailable, Worker
from tenfold.autoscale.plan import NoPlan, Plan, plan
from tenfold.autoscale.policy import Code, Decision, Observed, Reason, ScalePolicy, Scaler
from tenfold.autoscale.schedule import Schedule
from tenfold.autoscale.usl import USL, Measured

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # what is wanted
    "ScalePolicy",
    "Target",
    "Behavior",
    "Rules",
    "Rate",
    "Schedule",
    # what is measured
    "Observed",
    "Worker",
    "Reading",
    "PerWorker",
    "Sample",
    "Total",
    "Unavailable",
    # what is decided
    "Scaler",
    "Decision",
    "Proposal",
    "Reason",
    "Code",
    "Scaled",
    # what is expected
    "forecast",
    "Forecast",
    "NoForecast",
    # what a rate takes
    "plan",
    "Plan",
    "NoPlan",
    "Measured",
    "USL",
]
