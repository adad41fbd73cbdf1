"""The shared rate limit on a real Valkey: in one process, in two loops, in threads and in four processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tenfold.resilience.distributed import SharedMeter
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.ratelimit import RateLimit
from tenfold.servers import Valkey

FREE = {"store_timeout": "2s"}  # a busy machine is not what these tests are about


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with asyncio.Runner() as runner:
        server = Valkey()
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.close())


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name


def admits(meter: SharedMeter, key: Any = None, cost: float = 1) -> bool:
    try:
        meter.admit(time.monotonic(), key, cost)
    except RateLimited:
        return False
    return True


async def admits_async(meter: SharedMeter, key: Any = None, cost: float = 1) -> bool:
    try:
        await meter.admit_async(time.monotonic(), key, cost)
    except RateLimited:
        return False
    return True


async def test_two_meters_are_one_limit(url: str, name: str) -> None:
    first, second = (SharedMeter(RateLimit("1/h", burst=5, store=url, **FREE), name=name) for _ in range(2))
    answers = [await admits_async(meter) for meter in (first, second, first, second, first, second)]
    assert answers == [True] * 5 + [False]
    assert not admits(first)  # threads and tasks are one limit too
    await first.aclose()
    await second.aclose()


async def test_retry_after_is_the_stores_own(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("2/s", burst=1, store=url, **FREE), name=name)
    assert await admits_async(meter)
    with pytest.raises(RateLimited) as refusal:
        await meter.admit_async(time.monotonic())
    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after <= 0.5
    assert refusal.value.policy == name
    later = time.monotonic() + refusal.value.retry_after
    asked = meter.asked
    assert not await admits_async(meter)  # a refusal holds without another round trip
    assert meter.asked == asked
    await asyncio.sleep(later - time.monotonic() + 0.001)  # what is tested is time itself, the server's
    assert await admits_async(meter)
    await meter.aclose()


async def test_keys_and_costs(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=4, store=url, **FREE), name=name)
    assert await admits_async(meter, "a", 3)
    assert not await admits_async(meter, "a", 2)
    assert await admits_async(meter, "a", 1)
    assert await admits_async(meter, "b", 4)
    assert [await admits_async(meter, "c", 0.75) for _ in range(6)] == [True] * 5 + [False]
    await meter.aclose()


async def test_a_flushed_script_is_sent_again(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=4, store=url, **FREE), name=name)
    with redis.Redis.from_url(url) as client:
        assert await admits_async(meter)
        client.script_flush()
        assert await asyncio.gather(*(admits_async(meter) for _ in range(4))) == [True, True, True, False]
        client.script_flush()
        assert not admits(SharedMeter(RateLimit("1/h", burst=4, store=url, **FREE), name=name))
    assert meter.failures == 0
    await meter.aclose()


async def test_a_record_ends_when_its_bucket_is_empty(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("100/s", burst=50, store=url, **FREE), name=name)
    assert await admits_async(meter, cost=50)
    with redis.Redis.from_url(url) as client:
        assert 0 < client.pttl(f"tenfold:1:rate:{name}:") <= 1500
    await meter.aclose()


async def test_a_lease_saves_round_trips_and_stays_within_its_bound(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=200, store=url, lease=20, lease_time="1m", **FREE), name=name)
    assert sum([await admits_async(meter) for _ in range(250)]) == 200
    assert meter.asked < 40
    assert meter.leased > 160
    await meter.aclose()


async def test_unused_cells_go_back_on_close(url: str, name: str) -> None:
    options = RateLimit("1/h", burst=100, store=url, lease=50, lease_time="1m", **FREE)
    meter, other = SharedMeter(options, name=name), SharedMeter(options, name=name)
    for _ in range(32):
        assert await admits_async(meter)
    assert meter.state()["held"] > 0  # type: ignore[operator]
    await meter.aclose()
    assert meter.state()["held"] == 0
    assert sum([await admits_async(other) for _ in range(100)]) == 68
    await other.aclose()


async def test_cells_that_have_drained_meanwhile_do_not_go_back(url: str, name: str) -> None:
    """Otherwise they would be subtracted from the calls of others, who could then burst."""
    options = RateLimit("200/s", burst=20, store=url, lease=16, lease_time="1m", **FREE)
    meter = SharedMeter(options, name=name)
    while not meter.state()["held"]:
        await admits_async(meter)
    await asyncio.sleep(0.15)  # the server's clock; the bucket is empty after 0.1 s
    other = SharedMeter(RateLimit("200/s", burst=20, store=url, **FREE), name=name)
    assert await admits_async(other, cost=20)
    await meter.aclose()
    with redis.Redis.from_url(url) as client:
        record = client.get(f"tenfold:1:rate:{name}:")
    level = float(record.split()[0])  # type: ignore[union-attr]
    assert level == 20, "the lease was subtracted from calls of another process"
    await other.aclose()


async def test_many_tasks_share_one_connection(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=300, store=url, **FREE), name=name)
    with redis.Redis.from_url(url) as client:
        before = client.info("stats")["total_connections_received"]
        answers = await asyncio.gather(*(admits_async(meter) for _ in range(1000)))
        assert client.info("stats")["total_connections_received"] == before + 1
    assert sum(answers) == 300
    await meter.aclose()


def test_two_runs_of_asyncio_and_threads_use_one_meter(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=100, store=url, lease=4, **FREE), name=name)

    async def some() -> int:
        return sum(await asyncio.gather(*(admits_async(meter) for _ in range(20))))

    counts = [asyncio.run(some()), asyncio.run(some())]  # neither closes; a loop takes its connection with it
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        counts.append(asyncio.run(some()))
        counts.append(sum(admits(meter) for _ in range(20)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter.close()
    # Nothing is lost but what a lease may hold: when another thread has it, a call may find nothing.
    assert 100 - 8 <= sum(counts) <= 100
    assert meter.failures == 0


async def test_a_cancelled_caller_harms_nobody(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=50, store=url, **FREE), name=name)
    tasks = [asyncio.ensure_future(admits_async(meter)) for _ in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [True, False] * 20
    assert all(each is True for each in done[1::2])
    assert await admits_async(meter)
    await meter.aclose()


async def test_reconfigure_keeps_what_has_been_used(url: str, name: str) -> None:
    meter = SharedMeter(RateLimit("1/h", burst=10, store=url, **FREE), name=name)
    assert await admits_async(meter, cost=10)
    meter.reconfigure(RateLimit("1/h", burst=12, store=url, **FREE), time.monotonic())
    assert await admits_async(meter, cost=2)
    assert not await admits_async(meter, cost=12)
    meter.reconfigure(RateLimit("1/h", burst=12, store=url, name="another", store_timeout="1s"), time.monotonic())
    assert await admits_async(meter, cost=12)
    await meter.aclose()


CHILD = """
import asyncio, json, sys, time
from tenfold.resilience.distributed import SharedMeter
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.ratelimit import RateLimit

url, name, lease, seconds, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
meter = SharedMeter(RateLimit(200, burst=50, store=url, lease=lease, lease_time="200ms", store_timeout="2s"), name=name)
admitted = []

async def ask():
    try:
        if mode == "async":
            await meter.admit_async(time.monotonic())
        else:
            meter.admit(time.monotonic())
    except RateLimited:
        return
    admitted.append(time.time())

async def main():
    sys.stdin.readline()
    began = time.monotonic()
    while time.monotonic() < began + 0.6:  # gently, so that leases are taken and held
        await ask()
        await asyncio.sleep(0.03)
    until = began + seconds
    while time.monotonic() < until:
        await asyncio.gather(*(ask() for _ in range(10)))
        await asyncio.sleep(0.002)
    await meter.aclose()

asyncio.run(main())
print(json.dumps({**meter.state(), "times": admitted}))
"""


@pytest.mark.parametrize(("lease", "mode"), [(0, "async"), (20, "async"), (20, "sync")])
def test_four_processes_are_never_above_the_limit_by_more_than_the_leases(
    url: str, tmp_path: Path, lease: int, mode: str
) -> None:
    seconds = 2.0
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, url, tmp_path.name, str(lease), str(seconds), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [json.loads(child.communicate(timeout=30)[0]) for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    times = sorted(moment for each in found for moment in each["times"])
    assert all(each["failures"] == 0 for each in found)
    slack = 0.05  # between the server's decision and the child's note of it
    for start in range(0, len(times), 7):
        for end in range(start, len(times), 13):
            length = times[end] - times[start] + slack
            assert end - start + 1 <= 50 + 200 * length + 4 * lease
    length = times[-1] - times[0]
    assert len(times) <= 50 + 200 * (length + slack) + 4 * lease
    # And not far below it either: four times as much was asked for.
    assert len(times) >= 0.8 * 200 * (seconds - 0.6) - 4 * lease
    assert (sum(each["leased"] for each in found) > 20) == bool(lease)
