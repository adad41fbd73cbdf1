"""The asyncio shell in virtual time: waits end when they should, and a place is never lost."""

import asyncio
import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.errors import DeadlineTooShort, Overloaded
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.shed import Shed
from tenfold.resilience.shedder import Shedder, SheddingEnded, SheddingStarted
from tenfold.resilience.wire import Priority, at_priority
from tenfold.testing import FakeClock


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


def make(clock, limit=1, **options):
    return Shedder(Shed(limit, **options), name="api", hub=Hub(), clock=clock)


async def hold(shedder, seconds, **how):
    async with shedder.place(**how) as waiter:
        await asyncio.sleep(seconds)
        return waiter


def test_a_place_is_passed_on_and_given_back(clock):
    shedder = make(clock, max_wait=5.0, interval=9.0)

    async def main():
        first, second = await asyncio.gather(hold(shedder, 1.0), hold(shedder, 1.0))
        assert (first.state, second.state) == ("done", "done")
        assert second.timer.cancelled()  # no timer outlives its wait
        assert clock.monotonic() == 2.0

    clock.run(main())
    assert shedder.state()["running"] == shedder.state()["waiting"] == 0
    assert shedder.state()["admitted"]["normal"] == 2


def test_who_waits_too_long_is_told_when_to_come_again(clock):
    shedder = make(clock, max_wait=0.5)

    async def main():
        holder = asyncio.create_task(hold(shedder, 10.0))
        await asyncio.sleep(0)
        with pytest.raises(
            Overloaded, match=r"shedder 'api': no place became free within 0.5 s \(priority normal\)"
        ) as e:
            async with shedder.place():
                pytest.fail("there is no place")
        assert clock.monotonic() == 0.5
        assert e.value.retry_after == 0.1
        assert e.value.policy == "api"
        holder.cancel()

    clock.run(main())


def test_the_callers_deadline_ends_the_wait_as_what_it_is(clock):
    shedder = make(clock, max_wait=5.0)

    async def main():
        holder = asyncio.create_task(hold(shedder, 10.0))
        await asyncio.sleep(0)
        SCOPE.set((2.0, False))
        with pytest.raises(DeadlineTooShort):
            await hold(shedder, 0)
        assert clock.monotonic() == 2.0
        with pytest.raises(DeadlineTooShort):
            shedder.ask()
        with pytest.raises(Overloaded):
            await hold(shedder, 0, until=math.inf)
        holder.cancel()

    clock.run(main())


def test_the_priority_of_the_context_counts(clock):
    shedder = make(clock, queue=1)

    async def main():
        holder = asyncio.create_task(hold(shedder, 0.1))
        await asyncio.sleep(0)
        with at_priority("batch"):
            batch = asyncio.create_task(hold(shedder, 0))
        await asyncio.sleep(0)
        critical = await hold(shedder, 0, priority=Priority.CRITICAL)
        assert critical.state == "done"
        with pytest.raises(Overloaded, match="higher priority"):
            await batch
        await holder

    clock.run(main())
    assert shedder.state()["shed"]["evicted"]["batch"] == 1


def test_a_cancelled_waiter_gives_up_its_turn(clock):
    shedder = make(clock, max_wait=5.0, interval=9.0)

    async def main():
        holder = asyncio.create_task(hold(shedder, 1.0))
        await asyncio.sleep(0)
        gone, next_one = asyncio.create_task(hold(shedder, 0)), asyncio.create_task(hold(shedder, 0))
        await asyncio.sleep(0.5)
        gone.cancel()
        await next_one
        assert clock.monotonic() == 1.0
        await holder

    clock.run(main())
    assert shedder.state()["gone"] == 1
    assert shedder.state()["running"] == 0


def test_a_waiter_cancelled_in_the_moment_it_gets_its_place_passes_it_on(clock):
    shedder = make(clock, max_wait=5.0, interval=9.0)

    async def main():
        holder = shedder.ask()
        unlucky, next_one = asyncio.create_task(hold(shedder, 0)), asyncio.create_task(hold(shedder, 0))
        await asyncio.sleep(0)
        shedder.leave(holder)  # the place is unlucky's now, and it has not run yet
        unlucky.cancel()
        await next_one
        assert unlucky.cancelled()

    clock.run(main())
    assert shedder.state()["running"] == shedder.state()["waiting"] == 0


def test_an_error_in_the_block_gives_the_place_back(clock):
    shedder = make(clock)

    async def main():
        with pytest.raises(ZeroDivisionError):
            async with shedder.place():
                raise ZeroDivisionError
        assert shedder.state()["running"] == 0

    clock.run(main())


def test_shedding_is_announced_when_it_begins_and_when_it_is_over(clock):
    shedder = make(clock, queue=0)
    said = []
    shedder._hub.subscribe(SheddingStarted, said.append)
    shedder._hub.subscribe(SheddingEnded, said.append)

    async def main():
        holder = shedder.ask()
        for _ in range(3):
            with pytest.raises(Overloaded, match="all 1 places are taken and 0 wait"):
                shedder.ask()
            await asyncio.sleep(0.5)
        shedder.leave(holder)
        shedder.leave(shedder.ask())
        assert len(said) == 1  # not calm for a second yet
        await asyncio.sleep(1.0)
        shedder.leave(shedder.ask())

    clock.run(main())
    assert said == [SheddingStarted("api", 1, 0, "full"), SheddingEnded("api", 3, 1.0)]


def test_a_second_loop_is_refused_while_the_first_has_callers_and_welcome_afterwards():
    shedder = Shedder(Shed(1))

    async def nested():
        waiter = shedder.ask()

        async def other():
            with pytest.raises(MisuseError, match="expected one event loop, got a second one"):
                shedder.ask()

        await asyncio.to_thread(asyncio.run, other())
        shedder.leave(waiter)
        await asyncio.to_thread(asyncio.run, hold(shedder, 0))

    asyncio.run(nested())
    asyncio.run(hold(shedder, 0))
    assert shedder.state()["admitted"]["normal"] == 3


def test_places_left_behind_in_a_dead_loop_are_free_again():
    shedder = Shedder(Shed(1))
    left = []

    async def forget():
        left.append(shedder.ask())

    asyncio.run(forget())
    assert asyncio.run(hold(shedder, 0)).state == "done"
    shedder.leave(left[0])  # too late to do harm
    assert shedder.state()["running"] == 0
    assert shedder.state()["admitted"]["normal"] == 2


def test_new_options_reach_those_who_wait(clock):
    shedder = make(clock, max_wait=5.0)

    async def main():
        holder = asyncio.create_task(hold(shedder, 2.0))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(hold(shedder, 0))
        await asyncio.sleep(1.0)
        shedder.reconfigure(Shed(2, max_wait=5.0))
        await waiting
        assert clock.monotonic() == 1.0
        await holder

    clock.run(main())
    assert shedder.options.limit == 2


def test_its_state_is_told(clock):
    shedder = make(clock, queue=0)

    async def main():
        holder = shedder.ask()
        with pytest.raises(Overloaded):
            shedder.ask()
        assert repr(shedder) == "<Shedder 'api' running=1/1 waiting=0/0 shed=1 shedding>"
        shedder.leave(holder)

    clock.run(main())
    with pytest.raises(MisuseError, match=r"Shedder: expected Shed options such as Shed\(limit=50\), got 50"):
        Shedder(50)
