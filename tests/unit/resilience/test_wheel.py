"""The wheel: it stops tasks as `asyncio.timeout` does, never early, a tick late at most, and never the wrong await."""

import asyncio
import threading

import pytest

from tenfold.resilience import wheel
from tenfold.resilience.errors import AttemptTimeout, DeadlineExceeded
from tenfold.resilience.policy import Policy
from tenfold.resilience.wheel import NO_LINE, TICK, Lines, disarm, unused, wheel_of
from tenfold.testing import FakeClock


@pytest.fixture
def clock():
    with FakeClock(start=1000.0) as clock:
        yield clock


def stopped_after(clock, seconds, work):
    """``work``, stopped after ``seconds``."""
    return Policy("p", timeout=seconds, clock=clock, registry=None)(work)


@pytest.mark.parametrize("seconds", [0.001, 0.0078125, 0.01, 0.0999, 1.0, 2.5, 77.7])
@pytest.mark.parametrize("start", [0.0, 1000.003, 1e6 + 0.1])
def test_never_early_and_a_tick_late_at_most(seconds, start):
    with FakeClock(start=start) as clock:

        async def sleeps():
            await asyncio.sleep(1e6)

        async def timed():
            began = clock.monotonic()
            with pytest.raises(AttemptTimeout):
                await stopped_after(clock, seconds, sleeps)()
            return clock.monotonic() - began

        took = clock.run(timed())
    assert seconds - 1e-9 <= took <= seconds + TICK + 0.001


def test_what_ends_in_time_is_left_alone_for_ever_after(clock):
    """A stale cancellation must never hit what the task awaits next."""

    async def quick():
        await asyncio.sleep(0.5)
        return 7

    async def main():
        assert await stopped_after(clock, 1.0, quick)() == 7
        await asyncio.sleep(10)  # over the limit of the call that is done
        return asyncio.current_task().cancelling()

    assert clock.run(main()) == 0


def test_a_call_that_ends_in_the_very_turn_of_its_limit_leaves_nothing_behind(clock):
    """The timer of the bucket and the future that the call waits for become due at the same moment: whichever runs
    first wins, and the next await is untouched either way.
    """
    outcomes = set()

    async def main(order):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        due = ((loop.time() + 1.0) // TICK + 1.0) * TICK
        if order == "result first":
            loop.call_at(due, future.set_result, "in time")

        async def waits():
            if order == "limit first":
                # Armed already: this timer comes after that of the bucket.
                loop.call_at(due, lambda: future.done() or future.set_result("in time"))
            return await future

        try:
            outcomes.add((order, await stopped_after(clock, 1.0, waits)()))
        except AttemptTimeout:
            outcomes.add((order, "stopped"))
        task = asyncio.current_task()
        assert task.cancelling() == 0
        await asyncio.sleep(5)

    clock.run(main("result first"))
    clock.run(main("limit first"))
    assert ("limit first", "stopped") in outcomes
    assert len(outcomes) == 2


def test_a_cancellation_from_outside_passes_as_one(clock):
    async def sleeps():
        await asyncio.sleep(100)

    async def main():
        task = asyncio.create_task(stopped_after(clock, 5.0, sleeps)())
        await asyncio.sleep(1)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert task.cancelling() == 1

    clock.run(main())


@pytest.mark.parametrize("outer_first", [True, False])
def test_cancelled_from_outside_in_the_turn_of_the_limit_it_ends_as_a_cancellation(clock, outer_first):
    async def sleeps():
        await asyncio.sleep(100)

    async def main():
        loop = asyncio.get_running_loop()
        due = ((loop.time() + 1.0) // TICK + 1.0) * TICK
        holder = []
        if outer_first:
            loop.call_at(due, lambda: holder[0].cancel())
        task = asyncio.create_task(stopped_after(clock, 1.0, sleeps)())
        holder.append(task)
        if not outer_first:
            await asyncio.sleep(0)
            loop.call_at(due, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1  # the wheel's own request was taken back

    clock.run(main())


@pytest.mark.parametrize(("inner", "outer", "first"), [(1.0, 3.0, "inner"), (3.0, 1.0, "outer"), (1.0, 1.0, "inner")])
def test_nested_in_one_task_the_nearer_limit_fires(clock, inner, outer, first):
    async def sleeps():
        await asyncio.sleep(100)

    nested = Policy("inner", timeout=inner, clock=clock, registry=None)(sleeps)

    async def calls():
        try:
            await nested()
        except AttemptTimeout as error:
            return error.policy
        return "nothing"

    async def main():
        began = clock.monotonic()
        try:
            who = await Policy("outer", timeout=outer, clock=clock, registry=None)(calls)()
        except AttemptTimeout as error:
            who = error.policy
        task = asyncio.current_task()
        assert task.cancelling() == 0
        await asyncio.sleep(10)
        return who, clock.monotonic() - began - 10

    who, took = clock.run(main())
    # With equal limits both fire in one turn: the inner one answers for its call, and the outer one for all.
    assert who == ("outer" if inner == outer else first)
    assert min(inner, outer) <= took <= min(inner, outer) + TICK


def test_both_fire_one_after_the_other_when_the_inner_one_is_swallowed(clock):
    async def stubborn():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(100)

    inner = Policy("inner", timeout=1.0, clock=clock, registry=None)(stubborn)

    async def main():
        began = clock.monotonic()
        with pytest.raises(AttemptTimeout) as info:
            await Policy("outer", timeout=3.0, clock=clock, registry=None)(inner)()
        assert asyncio.current_task().cancelling() == 0
        return info.value.policy, clock.monotonic() - began

    who, took = clock.run(main())
    assert who == "outer"
    assert 3.0 <= took <= 3.0 + TICK


def test_inside_asyncio_timeout_and_around_it(clock):
    async def sleeps():
        await asyncio.sleep(100)

    async def standard():
        async with asyncio.timeout(1):
            await asyncio.sleep(100)

    async def main():
        with pytest.raises(TimeoutError) as info:
            async with asyncio.timeout(1):
                await stopped_after(clock, 5.0, sleeps)()
        assert not isinstance(info.value, AttemptTimeout)
        with pytest.raises(TimeoutError) as info:
            await stopped_after(clock, 5.0, standard)()
        assert not isinstance(info.value, AttemptTimeout)
        with pytest.raises(AttemptTimeout):
            async with asyncio.timeout(5):
                await stopped_after(clock, 1.0, sleeps)()
        await asyncio.sleep(20)
        return asyncio.current_task().cancelling()

    assert clock.run(main()) == 0


def test_a_result_after_the_time_out_is_discarded(clock):
    async def swallows():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "late"

    async def main():
        with pytest.raises(AttemptTimeout):
            await stopped_after(clock, 1.0, swallows)()
        await asyncio.sleep(10)
        return asyncio.current_task().cancelling()

    assert clock.run(main()) == 0


def test_an_error_made_of_the_cancellation_is_the_cause_of_the_time_out(clock):
    async def translates():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise ConnectionError("cut") from None

    async def main():
        with pytest.raises(AttemptTimeout) as info:
            await stopped_after(clock, 1.0, translates)()
        return info.value

    error = clock.run(main())
    assert isinstance(error.__cause__, ConnectionError)


def test_in_a_task_that_was_cancelled_before_it_still_times_out(clock):
    """In clean-up after a cancellation ``task.cancelling()`` is 1 from the start."""

    async def sleeps():
        await asyncio.sleep(100)

    found = []

    async def cleans_up():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            try:
                await stopped_after(clock, 1.0, sleeps)()
            except AttemptTimeout:
                found.append(asyncio.current_task().cancelling())
            raise

    async def main():
        task = asyncio.create_task(cleans_up())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert found == [1]


def test_the_deadline_of_a_caller_in_another_task_stops_the_call(clock):
    """The caller's own timer cancels the caller's task; the one it started is stopped by what it inherited."""

    async def sleeps():
        await asyncio.sleep(100)

    inner = Policy("inner", deadline="50s", clock=clock, registry=None)(sleeps)
    tasks = []

    async def starts():
        tasks.append(asyncio.create_task(inner()))
        await asyncio.sleep(0.5)

    async def main():
        began = clock.monotonic()
        await Policy("outer", deadline="2s", clock=clock, registry=None)(starts)()
        with pytest.raises(DeadlineExceeded, match="inherited"):
            await tasks[0]
        return clock.monotonic() - began

    assert 2.0 <= clock.run(main()) <= 2.0 + TICK


def test_equal_limits_share_a_bucket_and_all_fire(clock):
    async def sleeps():
        await asyncio.sleep(100)

    stopped = stopped_after(clock, 1.0, sleeps)

    async def main():
        return await asyncio.gather(*(stopped() for _ in range(500)), return_exceptions=True)

    assert {type(error) for error in clock.run(main())} == {AttemptTimeout}


def test_limits_that_are_taken_move_by_less_than_a_nanosecond():
    task = object()
    armed = {}
    for _ in range(100):
        limit = unused(armed, 1000.0)
        armed[limit] = task
    assert len(armed) == 100
    assert max(armed) - 1000.0 < 1e-9


def run_in_thread(target):
    found = []

    def body():
        try:
            found.append(target())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            found.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, found


def test_several_loops_in_several_threads_use_one_policy():
    policy = Policy("p", timeout="30ms", registry=None)

    async def sleeps(seconds):
        await asyncio.sleep(seconds)
        return seconds

    guarded = policy(sleeps)

    async def main():
        found = await asyncio.gather(*(guarded(0 if n % 2 else 60) for n in range(50)), return_exceptions=True)
        return [type(each) for each in found[::2]], found[1::2], asyncio.current_task().cancelling()

    threads = [run_in_thread(lambda: asyncio.run(main())) for _ in range(4)]
    for thread, found in threads:
        thread.join(30)
        assert found == [([AttemptTimeout] * 25, [0] * 25, 0)]


def test_one_loop_after_another_in_one_thread():
    lines = Lines()

    async def sleeps():
        await asyncio.sleep(60)

    policy = Policy("p", timeout="10ms", registry=None)
    guarded = policy(sleeps)

    async def main():
        line, task = lines.find()
        assert line.loop is asyncio.get_running_loop()
        assert task is asyncio.current_task()
        with pytest.raises(AttemptTimeout):
            await guarded()

    for _ in range(3):
        asyncio.run(main())
    assert len(lines) == 1


def test_a_loop_that_moves_to_another_thread_is_forgotten_in_the_old_one():
    lines = Lines()
    loop = asyncio.new_event_loop()

    async def find():
        return lines.find()[0]

    try:
        first = loop.run_until_complete(find())
        assert len(lines) == 1
        thread, found = run_in_thread(lambda: loop.run_until_complete(find()))
        thread.join(10)
        assert found[0].loop is first.loop
        assert len(lines) == 1
        assert lines.get(threading.get_ident(), NO_LINE) is NO_LINE
    finally:
        loop.close()


def test_a_loop_that_is_closed_with_entries_left_is_let_go():
    loop = asyncio.new_event_loop()
    lines = Lines()

    async def arm():
        lines.arm(lines.find()[0]._wheel._monotonic() + 3600)

    loop.run_until_complete(arm())
    assert wheel_of(loop).armed == 1
    loop.close()

    async def another():
        lines.find()

    asyncio.run(another())
    assert loop not in {key[0] for key in wheel._WHEELS}
    assert len(lines) == 1


def test_outside_of_a_task_there_is_nothing_to_stop():
    with pytest.raises(RuntimeError):
        Lines().find()


def test_the_slow_way_to_the_current_task_is_the_same():
    async def main():
        loop = asyncio.get_running_loop()
        return wheel._current_task(loop) is wheel.task_of(loop) is asyncio.current_task()

    assert asyncio.run(main())
    assert wheel._current_task(None) is wheel.task_of(None) is None


def test_on_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def sleeps(seconds):
        await asyncio.sleep(seconds)
        return seconds

    guarded = Policy("p", timeout="20ms", registry=None)(sleeps)

    async def main():
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await asyncio.gather(*(guarded(n % 2 * 60) for n in range(20)), return_exceptions=True)
        assert loop.time() - began >= 0.018
        return [type(each) for each in found], asyncio.current_task().cancelling()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == ([int, AttemptTimeout] * 10, 0)


def test_disarming_tells_the_three_endings_apart(clock):
    async def main():
        lines = Lines(clock)
        in_time = lines.arm(clock.monotonic() + 1)
        assert disarm(*in_time) is None
        fired = lines.arm(clock.monotonic() + 1)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
        assert disarm(*fired) is True
        assert asyncio.current_task().cancelling() == 0
        both = lines.arm(clock.monotonic() + 1)
        task = asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
        task.cancel()
        assert disarm(*both) is False
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()

    clock.run(main())


def test_buckets_do_not_pile_up_under_a_long_deadline(clock):
    """An hour has 460,800 ticks. What was emptied in time must not wait for its own."""

    async def quick():
        await asyncio.sleep(0)

    async def slow():
        await asyncio.sleep(50)

    policy = Policy("p", deadline="1h", clock=clock, registry=None)
    other = Policy("q", deadline="30m", clock=clock, registry=None)

    async def main():
        live = wheel_of(asyncio.get_running_loop(), clock)
        tasks, most = [], 0
        for n in range(5000):
            await policy(quick)()
            await other(quick)()
            if n % 50 == 0:
                tasks.append(asyncio.create_task(policy(slow)()))
            await asyncio.sleep(0.011)
            most = max(most, len(live._buckets))
        await asyncio.gather(*tasks)
        assert len(live._slots) <= 2 * most + 64
        return most, live.armed

    most, armed = clock.run(main())
    assert armed == 0
    assert most <= 2 * (5000 // 50 + 2) + 64


def test_a_bucket_that_two_policies_have_at_hand_is_not_swept_away_from_one(clock):
    async def sleeps(seconds):
        await asyncio.sleep(seconds)

    quiet = Policy("quiet", timeout="10s", clock=clock, registry=None)(sleeps)
    busy = Policy("busy", timeout="10s", clock=clock, registry=None)(sleeps)

    async def main():
        await quiet(0)  # has the bucket at hand, and it is empty
        await busy(0)
        for n in range(500):  # makes many buckets, so that there is a sweep
            await Policy("x", timeout=20 + n / 10, clock=clock, registry=None)(sleeps)(0)
        with pytest.raises(AttemptTimeout):
            await quiet(100)
        with pytest.raises(AttemptTimeout):
            await busy(100)

    clock.run(main())


def test_a_nearer_limit_moves_the_timer_forward(clock):
    async def sleeps():
        await asyncio.sleep(1000)

    async def main():
        far = asyncio.create_task(stopped_after(clock, 100.0, sleeps)())
        await asyncio.sleep(0)
        began = clock.monotonic()
        with pytest.raises(AttemptTimeout):
            await stopped_after(clock, 1.0, sleeps)()
        near = clock.monotonic() - began
        with pytest.raises(AttemptTimeout):
            await far
        return near, clock.monotonic() - began

    near, far = clock.run(main())
    assert 1 <= near <= 1 + TICK
    assert 100 <= far <= 100 + TICK
