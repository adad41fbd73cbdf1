"""One policy, several event loops and plain threads at once, failures and cancellations among them: nothing is lost and
nothing is counted twice.
"""

import asyncio
import random
import threading

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.errors import ResilienceError
from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retry

CALLS = 400


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_loops_and_threads_share_one_policy(factory):
    new_loop = asyncio.new_event_loop if factory == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    policy = Policy(
        "shared",
        deadline="5s",
        retry=Retry(2, base=0.001, cap=0.001, idempotent=True),
        breaker=Breaker(consecutive="off", ratio=1.0, permits=2),
        bulkhead=Bulkhead(4, queue=2000, wait="20s"),
        registry=None,
        hub=Hub(),
    )
    lock = threading.Lock()
    inside = most = begun = 0
    ended = []

    def enter(step):
        nonlocal inside, most
        with lock:
            inside += step
            most = max(most, inside)

    @policy
    async def work(n, stuck):
        enter(1)
        try:
            await asyncio.sleep(60 if stuck else 0)
            if n % 7 == 0:
                raise OSError("down")
            return n
        finally:
            enter(-1)

    @policy
    def plain(n):
        enter(1)
        try:
            if n % 7 == 0:
                raise OSError("down")
            return n
        finally:
            enter(-1)

    async def begins(n):
        nonlocal begun
        with lock:
            begun += 1  # a task may be cancelled before its first step, and then nothing is called
        return await work(n, n % 11 == 0)

    async def one(n):
        task = asyncio.create_task(begins(n))
        if n % 11 == 0:
            # Given up by its caller, in the queue or inside.
            asyncio.get_running_loop().call_later(random.uniform(0, 0.05), task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            assert task.cancelled()
            return "cancelled"
        except (OSError, ResilienceError) as error:
            return type(error).__name__

    async def main():
        found = await asyncio.gather(*(one(n) for n in range(CALLS)))
        assert asyncio.current_task().cancelling() == 0
        return found

    def loop_thread():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            ended.extend(runner.run(main()))

    def plain_thread():
        for n in range(CALLS):
            try:
                ended.append(plain(n))
            except (OSError, ResilienceError) as error:
                ended.append(type(error).__name__)

    threads = [threading.Thread(target=loop_thread) for _ in range(2)]
    threads += [threading.Thread(target=plain_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 4 * CALLS
    counters = policy.counters
    assert counters.calls == begun + 2 * CALLS
    assert counters.cancelled == ended.count("cancelled") - (2 * CALLS - begun)
    assert counters.successes == sum(isinstance(each, int) for each in ended)
    assert 1 <= most <= 4
    assert inside == 0
    state = policy.state()
    assert (state["bulkhead"]["in_use"], state["bulkhead"]["queued"]) == (0, 0)
    assert state["breaker"]["permits"]["out"] == 0
    settled = state["breaker"]["counters"]
    assert settled["failures"] + settled["successes"] + settled["neutral"] + settled["stale"] == (
        counters.calls + counters.retries - counters.rejected["breaker"]
    )
