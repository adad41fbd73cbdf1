"""A balancer with checks, ejection and slow start of its own: who is ill gets nothing, who comes back starts slowly."""

from __future__ import annotations

import asyncio
import random

import pytest

from tenfold._core.events import Event, Hub
from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.errors import NoEndpoint
from tenfold.balance.happenings import EndpointDown, EndpointEjected, EndpointReturned, EndpointUp
from tenfold.testing import FakeClock

checks = pytest.importorskip("tenfold.balance.checks")
outlier = pytest.importorskip("tenfold.balance.outlier")
slow_start = pytest.importorskip("tenfold.balance.slow_start")
pytest.importorskip("tenfold.balance.pick.p2c")


def test_checks_take_out_and_bring_back_and_the_load_counts() -> None:
    clock, hub, events = FakeClock(), Hub(), list[Event]()
    hub.subscribe(Event, events.append)
    well = {"a": True, "b": True, "c": True}
    load: dict[str, float] = {}

    async def look(endpoint: Endpoint) -> object:
        return checks.Verdict(well[endpoint.id], "asked", load.get(endpoint.id))

    check = checks.FunctionCheck(look, interval="1s", rise=2, fall=2, jitter=0, backoff="1s")
    balancer = Balancer(
        [Endpoint(id, f"http://{id}") for id in "abc"],
        name="shop",
        check=check,
        slow_start=slow_start.SlowStart("10s", floor=0.1),
        clock=clock,
        random=random.Random(1),
        hub=hub,
    )

    async def main() -> None:
        async with balancer:
            await clock.sleep(3)
            well["b"] = False
            await clock.sleep(4)
            assert events == [EndpointDown("shop", "b", "asked")]
            assert {balancer.acquire().endpoint.id for _ in range(50)} == {"a", "c"}
            well["b"] = True
            await clock.sleep(3)
            assert events[-1] == EndpointUp("shop", "b", "asked")
            assert balancer.state()["endpoints"]["b"]["weight"] < 0.5
            await clock.sleep(11)
            assert balancer.state()["endpoints"]["b"]["weight"] == 1.0
            load["c"] = 1.0
            await clock.sleep(60)
            assert balancer.state()["endpoints"]["c"]["weight"] == pytest.approx(0.1)
            balancer.remove("a")
            balancer.add(Endpoint("a", "http://elsewhere"))
        assert len(asyncio.all_tasks()) == 1

    with clock:
        clock.run(main())


def test_who_fails_real_requests_is_put_aside_for_a_while() -> None:
    clock, hub, events = FakeClock(), Hub(), list[Event]()
    hub.subscribe(Event, events.append)
    balancer = Balancer(
        [Endpoint(id, f"http://{id}") for id in "abc"],
        name="shop",
        eject=outlier.OutlierEjection(consecutive=3, base="5s", jitter=0),
        slow_start=slow_start.SlowStart("10s", floor=0.1),
        clock=clock,
        random=random.Random(1),
        hub=hub,
    )
    for _ in range(3):
        clock.jump(0.1)
        balancer.acquire(tried=("b", "c")).release(False)
    with pytest.raises(NoEndpoint) as refusal:
        balancer.acquire(tried=("b", "c"))
    assert refusal.value.why == {"not ready": 1}
    assert isinstance(events[-1], EndpointEjected)
    clock.jump(5.5)
    assert balancer.acquire(tried=("b", "c")).endpoint.id == "a"
    assert isinstance(events[-1], EndpointReturned)
    assert balancer.state()["endpoints"]["a"]["weight"] == pytest.approx(0.1)
