"""What tenfold adds to the HPA's decision: schedules, forecasts, the pause after a deployment, and how it tells."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.autoscale import (
    Behavior,
    Observed,
    PerWorker,
    Rate,
    Rules,
    Sample,
    Scaled,
    ScalePolicy,
    Scaler,
    Schedule,
    Target,
    Total,
    Worker,
)

QUICK = Behavior(down=Rules(window=0))
QUEUE = Target(name="queue", kind="average", target=10)
HOURS = Schedule(name="shop hours", start="0 8 * * mon-fri", end="0 20 * * mon-fri", zone="Europe/Berlin", workers=6)


def berlin(*parts):
    return datetime(*parts, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


def crew(count):
    return tuple(Worker(f"w{index}") for index in range(count))


def look(current, queue, **more):
    return Observed(current=current, workers=crew(current), readings={"queue": Total(queue)}, **more)


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ((2024, 5, 6, 7, 59, 59), False),
        ((2024, 5, 6, 8, 0), True),
        ((2024, 5, 6, 19, 59, 59), True),
        ((2024, 5, 6, 20, 0), False),
        ((2024, 5, 4, 12, 0), False),
        ((2024, 1, 8, 8, 0), True),
    ],
    ids=["before", "first moment", "last second", "end", "saturday", "winter time"],
)
def test_a_schedule_holds_from_its_start_to_its_end_in_its_zone(moment, inside):
    assert HOURS.active(berlin(*moment)) is inside


def test_a_schedule_may_cross_midnight():
    night = Schedule(name="night", start="0 22 * * *", end="0 4 * * *", workers=2)
    found = [hour for hour in range(24) if night.active(datetime(2024, 5, 6, hour, tzinfo=ZoneInfo("UTC")).timestamp())]
    assert found == [0, 1, 2, 3, 22, 23]


@pytest.mark.parametrize("day", [(2024, 3, 31), (2024, 10, 27)], ids=["spring", "autumn"])
def test_a_schedule_goes_by_the_wall_clock_on_the_days_that_clocks_change(day):
    daily = Schedule(name="daily", start="0 8 * * *", end="0 9 * * *", zone="Europe/Berlin", workers=2)
    assert [hour for hour in range(24) if daily.active(berlin(*day, hour, 30))] == [8]


def test_a_schedule_whose_start_and_end_come_together_next_counts_as_inside():
    """As KEDA has it."""
    odd = Schedule(name="odd", start="0 8 * * *", end="0 8,20 * * *", workers=2)
    assert odd.active(datetime(2024, 5, 6, 21, tzinfo=ZoneInfo("UTC")).timestamp())


def test_a_schedule_is_a_floor_under_what_is_measured():
    scaler = Scaler(ScalePolicy(most=10, targets=(QUEUE,), schedules=(HOURS,), behavior=QUICK))
    noon, night = berlin(2024, 5, 6, 12), berlin(2024, 5, 6, 23)
    decision = scaler.decide(look(2, 20, wall=noon), 0)
    assert (decision.desired, decision.codes) == (6, ("scheduled",))
    assert scaler.decide(look(6, 90, wall=noon), 15).desired == 9
    assert scaler.decide(look(9, 20, wall=night), 30).desired == 2


def test_a_schedule_without_the_time_of_day_removes_nobody():
    scaler = Scaler(ScalePolicy(most=10, targets=(QUEUE,), schedules=(HOURS,), behavior=QUICK))
    decision = scaler.decide(look(5, 20), 0)
    assert (decision.desired, decision.codes) == (5, ("partly unmeasured",))
    assert decision.unmeasured == {"shop hours": "the time of day is not known"}


def test_a_schedule_alone_is_a_policy():
    scaler = Scaler(ScalePolicy(least=2, most=10, schedules=(HOURS,), behavior=QUICK))
    assert scaler.decide(Observed(current=2, wall=berlin(2024, 5, 6, 12)), 0).desired == 6
    assert scaler.decide(Observed(current=6, wall=berlin(2024, 5, 6, 23)), 60).desired == 2


@pytest.mark.parametrize(
    ("target", "demand", "workers"),
    [
        (Target.in_flight(20), 90, 5),
        (QUEUE, 90, 9),
        (Target.cpu("50%", request=2.0), 6.5, 7),
    ],
    ids=["mean", "average", "utilization"],
)
def test_a_forecast_of_the_demand_becomes_workers(target, demand, workers):
    scaler = Scaler(ScalePolicy(most=10, targets=(target,)))
    reading = PerWorker({"w0": Sample(0)}) if target.per_worker else Total(0)
    seen = Observed(current=1, workers=crew(1), readings={target.name: reading}, demand={target.name: demand})
    decision = scaler.decide(seen, 0)
    assert decision.wish == workers
    assert decision.codes[0] == "forecast"


def test_a_forecast_never_takes_from_what_is_measured():
    scaler = Scaler(ScalePolicy(most=10, targets=(QUEUE,), behavior=QUICK))
    assert scaler.decide(look(4, 60, demand={"queue": 5}), 0).desired == 6


def test_a_forecast_of_a_value_is_refused():
    scaler = Scaler(ScalePolicy(most=10, targets=(Target.p95("100ms"),)))
    seen = Observed(current=1, workers=crew(1), readings={"p95_seconds": Total(0.1)}, demand={"p95_seconds": 0.2})
    with pytest.raises(MisuseError, match="depends on the number of workers"):
        scaler.decide(seen, 0)


def test_after_a_deployment_workers_are_added_and_not_removed():
    scaler = Scaler(ScalePolicy(most=10, targets=(QUEUE,), deploy_cooldown="2m", behavior=QUICK))
    decision = scaler.decide(look(4, 10, deployed=100.0), 130)
    assert (decision.desired, decision.codes) == (4, ("below target", "deployed"))
    assert scaler.decide(look(4, 60, deployed=100.0), 160).desired == 6
    assert scaler.decide(look(6, 10, deployed=100.0), 220).desired == 1


def test_a_decision_tells_how_it_came_about():
    scaler = Scaler(ScalePolicy(most=4, targets=(QUEUE,)))
    decision = scaler.decide(look(2, 90), 0)
    assert str(decision) == ("2 -> 4 workers: queue: 9 × the target, 9 workers; no more than 4 ever")
    assert (decision.direction, decision.change, decision.wish) == ("out", 2, 9)
    assert repr(scaler) == "<Scaler 1..4 workers>"
    hub, told = Hub(), []
    with hub.subscribe(Scaled, told.append):
        hub.emit(Scaled.of("shop", decision))
    assert told == [Scaled("shop", 2, 4, ("above target", "at most"), str(decision))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ScalePolicy(most=0, targets=(QUEUE,)), "most workers"),
        (lambda: ScalePolicy(least=3, most=2, targets=(QUEUE,)), "at most 2 as the least"),
        (lambda: ScalePolicy(most=2), "a target or a schedule"),
        (lambda: ScalePolicy(most=2, targets=(QUEUE, QUEUE)), "each name once"),
        (lambda: ScalePolicy(most=2, schedules=(HOURS,)), "at most 2 workers"),
        (lambda: Target.cpu("0%"), "whole percent"),
        (lambda: Target.cpu(0.705), "whole percent"),
        (lambda: Target(name="cpu", kind="utilization", target=0.5), "expected a request"),
        (lambda: Target(name="disk", kind="utilization", target=0.5, request=1), "cpu or memory"),
        (lambda: Target(name="In Flight", kind="pods", target=1), "lower case"),
        (lambda: Target(name="load", kind="mean", target=1), "expected one of"),
        (lambda: Target(name="load", kind="pods", target=0), "at least 0.001"),
        (lambda: Target(name="load", kind="pods", target=1, request=1), "goes with the kind utilization"),
        (lambda: Rate("pods", 0), "1 or more"),
        (lambda: Rate("pods", 1, 0.5), "whole seconds"),
        (lambda: Rate("shares", 1), "pods or percent"),
        (lambda: Rules(rates=()), "expected one Rate"),
        (lambda: Rules(window="2h"), "from 0 to 3600"),
        (lambda: Rules(select="none"), "max, min or disabled"),
        (lambda: Schedule(start="0 8 * *", end="0 9 * * *", workers=1), "five cron fields"),
        (lambda: Schedule(start="0 8 L * *", end="0 9 * * *", workers=1), "not read alike"),
        (lambda: Schedule(start="0 8 * * 7", end="0 9 * * *", workers=1), "Sunday is 0"),
        (lambda: Schedule(start="0 25 * * *", end="0 9 * * *", workers=1), "five cron fields"),
        (lambda: Schedule(start="0 8 * * *", end="0  8 * * *", workers=1), "not the start"),
        (lambda: Schedule(start="0 8 * * *", end="0 9 * * *", workers=1, zone="Berlin"), "Europe/Berlin"),
        (lambda: Schedule(start="0 8 31 2 *", end="0 9 * * *", workers=1), "five cron fields"),
        (lambda: Scaler(ScalePolicy(most=2, targets=(QUEUE,))).decide(Observed(current=-1), 0), "current workers"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(make, words):
    with pytest.raises(MisuseError, match=words):
        make()


def test_months_and_days_may_be_names_with_an_l_or_a_w():
    summer = Schedule(start="0 8 * jul wed", end="0 9 * jul wed", workers=1)
    assert summer.active(datetime(2024, 7, 3, 8, 30, tzinfo=ZoneInfo("UTC")).timestamp())
