"""The local behaviour in a closed loop on a clock of our own: workers that need a while to start, and a queue."""

from itertools import pairwise
from random import Random

import pytest

from tenfold.autoscale import Behavior, Observed, PerWorker, Sample, ScalePolicy, Scaler, Target, Worker

LIMIT, WAIT = 10, 0.05
"""A worker takes ten requests at a time, and each waits 50 ms: 200 a second."""
STARTS = 1.5


def play(load, seconds, *, tick=0.5, workers=1, behavior=None):
    """(time, wanted, ready, waiting) at each decision, for ``load(time)`` requests a second.

    What waits before the workers is counted to them, in equal shares.
    """
    scaler = Scaler(ScalePolicy(most=8, targets=(Target.in_flight(8),), behavior=behavior or Behavior.local()))
    crew = [(f"w{index}", -100.0) for index in range(workers)]
    waiting, made, found = 0.0, workers, []
    for step in range(int(seconds / tick)):
        now = step * tick
        ready = [name for name, started in crew if started + STARTS <= now]
        arriving, capacity = load(now), len(ready) * LIMIT / WAIT
        waiting = max(0.0, waiting + (arriving - capacity) * tick)
        in_flight = min(arriving, capacity) * WAIT + waiting
        look = Observed(
            current=len(crew),
            workers=tuple(Worker(name, "running" if name in ready else "pending", name in ready) for name, _ in crew),
            readings={"in_flight": PerWorker({name: Sample(in_flight / len(ready)) for name in ready})},
        )
        decision = scaler.decide(look, now)
        found.append((now, decision.desired, len(ready), waiting))
        for _ in range(decision.change):
            crew.append((f"w{made}", now))
            made += 1
        del crew[decision.desired :]
    return found


def test_a_step_from_one_to_nearly_eight_workers_is_met_within_six_seconds():
    found = play(lambda now: 150.0 if now < 10 else 1500.0, 40)
    assert max(ready for now, _, ready, _ in found if now < 10) == 1
    met = next(now for now, _, ready, _ in found if now >= 10 and ready * LIMIT / WAIT >= 1500)
    assert met - 10 <= 6


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_load_with_noise_turns_at_most_once_a_minute(seed):
    random = Random(seed)
    found = play(lambda now: random.gauss(600, 60), 300, workers=4)
    moves = [after - before for (_, before, *_), (_, after, *_) in pairwise(found) if after != before]
    turns = sum(1 for before, after in pairwise(moves) if before * after < 0)
    assert turns <= 5


def test_after_a_peak_workers_leave_one_at_a_time_and_not_before_a_minute():
    found = play(lambda now: 1500.0 if now < 30 else 150.0, 180, workers=8)
    left = [(now, before - after) for (_, before, *_), (now, after, *_) in pairwise(found) if after < before]
    assert left
    assert left[0][0] >= 29.5 + 60, "a minute after the last decision of the peak"
    assert all(count == 1 for _, count in left)
    assert all(later - earlier >= 5 for (earlier, _), (later, _) in pairwise(left))
    assert found[-1][1] == 1
