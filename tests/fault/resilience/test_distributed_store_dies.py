"""The store of a shared rate limit killed, frozen, cut, slow, never there: no call hangs, and none fails otherwise
than ``on_store_error`` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.distributed import RateStoreDown, RateStoreUp, SharedMeter
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.ratelimit import RateLimit
from tenfold.servers import Valkey
from tenfold.testing import FaultProxy, free_port

MODES: dict[str, dict[str, Any]] = {
    "open": {"on_store_error": "open"},
    "closed": {"on_store_error": "closed"},
    "local": {"on_store_error": "local", "local_share": "50%"},
}
TIMEOUT, PAUSE = 0.25, 60.0
BURST = 1000


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


def meter_at(url: str, mode: str, **more: Any) -> SharedMeter:
    options = {"burst": BURST, "store_timeout": TIMEOUT, "store_pause": PAUSE, **MODES[mode], **more}
    return SharedMeter(RateLimit("1/h", store=url, **options), name="shop", hub=more.pop("hub", Hub()))


async def outcome(work: Any) -> str:
    """How one call went; anything but a refusal goes on and fails the test."""
    try:
        await work
    except RateLimited as refusal:
        return "down" if "does not answer" in str(refusal) else "refused"
    return "admitted"


async def calls(meter: SharedMeter, count: int) -> list[str]:
    return list(await asyncio.gather(*(outcome(meter.admit_async(time.monotonic())) for _ in range(count))))


def sync_calls(meter: SharedMeter, count: int) -> list[str]:
    answers = []
    for _ in range(count):
        try:
            meter.admit(time.monotonic())
            answers.append("admitted")
        except RateLimited as refusal:
            answers.append("down" if "does not answer" in str(refusal) else "refused")
    return answers


def expect(mode: str, answers: list[str], meter: SharedMeter) -> None:
    """What 600 calls without a store have to come to."""
    assert len(answers) == 600
    if mode == "open":
        assert answers == ["admitted"] * 600
        assert meter.unmetered == 600
    elif mode == "closed":
        assert answers == ["down"] * 600
    else:
        assert answers == ["admitted"] * 500 + ["refused"] * 100  # half of the burst


Harm = Callable[[Valkey, FaultProxy], Any]


async def _kill(server: Valkey, proxy: FaultProxy) -> None:
    await server.kill()


async def _stop_the_process(server: Valkey, proxy: FaultProxy) -> None:
    await server.pause()


async def _freeze(server: Valkey, proxy: FaultProxy) -> None:
    proxy.freeze()


async def _cut(server: Valkey, proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.cut()


HARMS: dict[str, Harm] = {"killed": _kill, "stopped": _stop_the_process, "frozen": _freeze, "cut": _cut}


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("mode", MODES)
async def test_in_the_middle_of_calls(valkey: Valkey, mode: str, how: str) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, mode)
        assert await calls(meter, 50) == ["admitted"] * 50
        await HARMS[how](valkey, proxy)
        began = time.monotonic()
        answers = await calls(meter, 100)
        for _ in range(500):
            answers += await calls(meter, 1)
        assert time.monotonic() - began < TIMEOUT * 3, "more than one time-out was waited for"
        expect(mode, answers, meter)
        assert meter.state()["store_up"] is False
        assert 1 <= meter.failures <= 100  # of the calls then under way; the later ones did not ask
        asked = meter.asked
        await calls(meter, 10)
        assert meter.asked == asked
        await meter.aclose()


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("mode", MODES)
async def test_in_the_middle_of_calls_from_a_thread(valkey: Valkey, mode: str, how: str) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, mode)
        assert await asyncio.to_thread(sync_calls, meter, 50) == ["admitted"] * 50
        await HARMS[how](valkey, proxy)
        began = time.monotonic()
        answers = await asyncio.to_thread(sync_calls, meter, 600)
        assert time.monotonic() - began < TIMEOUT * 3
        expect(mode, answers, meter)
        assert meter.failures == 1
        meter.close()


async def test_the_event_loop_is_never_blocked_by_a_frozen_store(valkey: Valkey) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, "open", store_timeout="1s")
        assert await calls(meter, 1) == ["admitted"]
        proxy.freeze()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        counter = asyncio.ensure_future(count())
        assert await calls(meter, 20) == ["admitted"] * 20
        counter.cancel()
        assert turns > 100
        await meter.aclose()


async def test_it_comes_back_and_says_so(valkey: Valkey) -> None:
    hub, told = Hub(), []
    hub.subscribe(RateStoreDown, told.append)
    hub.subscribe(RateStoreUp, told.append)
    options = RateLimit("1/h", burst=10, store=valkey.url, store_timeout="1s", store_pause="20ms")
    meter = SharedMeter(options, name="shop", hub=hub)
    assert await calls(meter, 4) == ["admitted"] * 4
    await valkey.kill()
    assert await calls(meter, 4) == ["admitted"] * 4
    await valkey.start()
    async with asyncio.timeout(10):
        while not meter.state()["store_up"]:
            await calls(meter, 1)
            await asyncio.sleep(0.005)
    assert [type(event) for event in told] == [RateStoreDown, RateStoreUp]
    assert told[0].policy == "shop"
    assert told[0].reason
    await meter.aclose()


async def test_after_the_pause_one_call_tries_and_the_others_do_not_wait_for_it(valkey: Valkey) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, "open")
        assert await calls(meter, 1) == ["admitted"]
        proxy.freeze()
        await calls(meter, 1)
        asked = meter.asked
        later = time.monotonic() + TIMEOUT + PAUSE + 1
        answers = await asyncio.gather(*(outcome(meter.admit_async(later)) for _ in range(100)))
        assert answers == ["admitted"] * 100
        assert meter.asked == asked + 1
        await meter.aclose()


async def test_leases_are_served_while_the_store_is_down(valkey: Valkey) -> None:
    meter = meter_at(valkey.url, "closed", lease=100, lease_time="1m")
    while meter.state()["held"] != 63.0:  # 1, 2, 4 … 64, of which one is spent
        assert await calls(meter, 1) == ["admitted"]
    await valkey.kill()
    assert await calls(meter, 70) == ["admitted"] * 63 + ["down"] * 7
    await meter.aclose()


async def test_a_store_that_was_never_there(valkey: Valkey) -> None:
    meter = meter_at(f"redis://127.0.0.1:{free_port()}/0", "closed")
    assert await calls(meter, 20) == ["down"] * 20
    with pytest.raises(RateLimited) as refusal:
        await meter.admit_async(time.monotonic())
    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after <= PAUSE + TIMEOUT
    await meter.aclose()


async def test_a_slow_store_costs_no_call_more_than_its_time_out(valkey: Valkey) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, "open")
        await calls(meter, 1)
        proxy.delay(TIMEOUT * 2)
        began = time.monotonic()
        assert await calls(meter, 50) == ["admitted"] * 50
        assert time.monotonic() - began < TIMEOUT * 2
        assert meter.unmetered == 50
        await meter.aclose()


async def test_who_comes_while_others_wait_does_not_wait_a_time_out_of_its_own(valkey: Valkey) -> None:
    async with FaultProxy(valkey.url) as proxy:
        meter = meter_at(proxy.url, "open", store_timeout="1s")
        await calls(meter, 1)
        proxy.freeze()
        began = time.monotonic()
        first = asyncio.ensure_future(calls(meter, 1))
        await asyncio.sleep(0.5)
        assert await calls(meter, 300) == ["admitted"] * 300
        assert time.monotonic() - began < 1.4
        assert await first == ["admitted"]
        await meter.aclose()


async def test_a_store_that_refuses_the_script_counts_as_down(valkey: Valkey) -> None:
    """Out of memory, read-only after a failover, no permission: an answer, but no decision."""
    meter = meter_at(valkey.url.replace("/0", "/15000"), "closed")
    assert await calls(meter, 3) == ["down"] * 3
    await meter.aclose()
