"""Everything below is down: how many calls reach the bottom for one at the top.

Three layers with three tries each make 27 of one call. Here only the outermost retries, and its budget bounds it. Where
the layers are processes that do not pass the marker on, the budgets stand alone.
"""

import asyncio
import contextvars
import random

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retry
from tenfold.testing import FakeClock

LAYERS = 3
CALLS = 3000


def amplification(*, marker: bool, budget: bool, rate: float = 100.0) -> float:
    """Calls at the bottom for one at the top, over ``CALLS`` calls, ``rate`` a second."""
    reached = 0

    async def bottom() -> None:
        nonlocal reached
        reached += 1
        raise ConnectionRefusedError

    def another_process(fn):
        async def crosses():
            await asyncio.create_task(fn(), context=contextvars.Context())  # nothing is inherited

        return crosses

    with FakeClock(start=1000.0) as clock:
        work = bottom
        for n in range(LAYERS):
            policy = Policy(
                f"layer {n}",
                retry=Retry(3, idempotent=True, base="50ms", budget=budget),
                clock=clock,
                registry=None,
                hub=Hub(),
                rng=random.Random(n),
            )
            work = policy(work if marker or n == 0 else another_process(work))

        async def one() -> None:
            with pytest.raises(ConnectionRefusedError):
                await work()

        async def main() -> None:
            tasks = []
            for _ in range(CALLS):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(1 / rate)
            await asyncio.gather(*tasks)

        clock.run(main())
    return reached / CALLS


def test_three_layers_multiply_by_no_more_than_one_budget():
    assert 1.1 <= amplification(marker=True, budget=True) <= 1.3


def test_without_the_marker_each_budget_counts():
    """1.2 to the power of three and what the floors and the bursts add; not 27."""
    assert 1.6 <= amplification(marker=False, budget=True) <= 2.2


def test_what_the_marker_alone_does():
    assert amplification(marker=True, budget=False) == pytest.approx(3.0)


def test_the_test_would_see_a_storm(monkeypatch):
    monkeypatch.setattr(f"{__name__}.CALLS", 200)
    assert amplification(marker=False, budget=False) == pytest.approx(27.0)
