"""Laws of a race, whatever the attempts do and whenever the caller leaves."""

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold._core.events import Hub
from tenfold.resilience.hedge import Hedge, Hedger
from tenfold.testing import FakeClock


class Payer:
    def __init__(self, tokens):
        self.tokens = tokens

    def reserve(self, now):
        self.tokens -= 1
        return self if self.tokens >= 0 else None

    def confirm(self, reservation, now):
        return True


class Failed(Exception):
    pass


attempts = st.lists(
    # Milliseconds on odd ticks, so that nothing falls on the delay itself; whether it succeeds; how long it cleans up.
    st.tuples(st.integers(0, 400).map(lambda n: 2 * n + 1), st.booleans(), st.sampled_from([0, 0, 50])),
    min_size=4,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(
    steps=attempts,
    delay=st.integers(0, 200).map(lambda n: 2 * n),
    hedges=st.integers(1, 3),
    tokens=st.integers(0, 3),
    leaves=st.none() | st.integers(0, 800).map(lambda n: n + 0.5),
)
def test_the_first_success_wins_and_nothing_is_left(steps, delay, hedges, tokens, leaves):
    started, ended, complaints = {}, {}, []
    numbers = itertools.count()

    async def attempt():
        number = next(numbers)
        milliseconds, good, cleanup = steps[number]
        started[number] = clock.monotonic()
        try:
            await asyncio.sleep(milliseconds / 1000)
        except asyncio.CancelledError:
            await asyncio.sleep(cleanup / 1000)
            raise
        finally:
            ended[number] = clock.monotonic()
        if not good:
            raise Failed(number)
        return number

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        task = asyncio.ensure_future(hedger.run(attempt))
        if leaves is not None:
            loop.call_later(leaves / 1000, task.cancel)
        try:
            return "won", await task
        except Failed as error:
            return "failed", error.args[0]
        except asyncio.CancelledError:
            return "left", None
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert started.keys() == ended.keys()

    with FakeClock() as clock:
        hedger = Hedger(Hedge(delay / 1000, max_hedges=hedges), Payer(tokens), policy="p", clock=clock, hub=Hub())
        verdict, number = clock.run(main())
    assert complaints == []
    assert hedger.stuck == 0
    assert len(started) <= 1 + min(hedges, tokens)
    assert hedger.hedges == len(started) - 1 or verdict == "left"  # one cancelled before its first step never ran
    finish = {n: at + steps[n][0] / 1000 for n, at in started.items()}
    successes = {n: at for n, at in finish.items() if steps[n][1]}
    if verdict == "won":
        assert successes[number] == min(successes.values())
        assert all(at <= successes[number] + 1e-9 for at in started.values())
        assert hedger.won == (number > 0)
    elif verdict == "failed":
        assert successes == {}
        assert number == 0
        assert set(started) == set(finish)
    else:
        decided = min(successes.values(), default=max(finish.values(), default=0.0))
        # It may also leave while a loser cleans up, which takes 50 ms at most.
        assert leaves / 1000 <= decided + 0.05 + 1e-9


@settings(max_examples=50, deadline=None)
@given(
    first=st.lists(st.integers(1, 10**6), min_size=100, max_size=300),
    quantile=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_delay_is_that_quantile_of_what_was_seen(first, quantile):
    """Against a sorted list; the histogram is exact to 0.8 %, the answer up to a sixteenth of the samples old."""
    with FakeClock() as clock:
        hedger = Hedger(
            Hedge(quantile=quantile, min_samples=1, min_delay=0, max_delay="1h"), policy="p", clock=clock, hub=Hub()
        )
        for microseconds in first:
            hedger.observe(0.0, microseconds / 1e6)
        found = hedger.delay(0.0)
    ordered = sorted(first)
    expected = ordered[max(1, -(-int(quantile * 1000) * len(first) // 1000)) - 1] / 1e6
    assert expected <= found <= expected * 1.008 + 1e-6
