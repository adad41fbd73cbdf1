import asyncio
import gc
import logging

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import Tasks, TasksClosedError, TasksFullError, TasksStuckError, shielded
from tenfold.testing import FakeClock


@pytest.fixture
def run():
    """Run a coroutine in virtual time."""
    with FakeClock() as clock:
        yield clock.run


def now():
    return asyncio.get_running_loop().time()


def test_tasks_run_are_named_and_give_their_results(run):
    async def main():
        async with Tasks("refresh") as tasks:
            first = tasks.spawn(asyncio.sleep(5, "five"), name="product")
            second = tasks.spawn(asyncio.sleep(1))
            assert (first.get_name(), second.get_name()) == ("refresh/product", "refresh/2")
            assert len(tasks) == 2
            assert repr(tasks) == "<Tasks 'refresh' open running=2/1000 failures=0>"
            assert await first == "five"
        assert len(tasks) == 0
        assert repr(tasks) == "<Tasks 'refresh' closed running=0/1000 failures=0>"

    run(main())


def test_leaving_cancels_what_runs_and_waits_for_its_clean_up(run):
    log = []

    async def work():
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(2)
            log.append(now())

    async def main():
        async with Tasks("work") as tasks:
            task = tasks.spawn(work())
            await asyncio.sleep(1)
        assert log == [3.0]
        assert task.cancelled()

    run(main())


def test_a_failure_is_logged_counted_and_handed_on_and_the_others_go_on(run, caplog):
    seen = []

    async def boom():
        raise KeyError("boom")

    async def main():
        async with Tasks("work", on_error=lambda task, error: seen.append((task.get_name(), error))) as tasks:
            other = tasks.spawn(asyncio.sleep(1, "fine"))
            tasks.spawn(boom(), name="bad")
            assert await other == "fine"
            assert tasks.failures == 1

    with caplog.at_level(logging.ERROR, "tenfold.tasks"):
        run(main())
    gc.collect()
    assert [(name, str(error)) for name, error in seen] == [("work/bad", "'boom'")]
    assert [record.getMessage() for record in caplog.records] == ["task work/bad failed"]
    assert "KeyError" in caplog.text


def test_the_number_is_bounded_and_a_refused_coroutine_is_closed(run):
    async def main():
        async with Tasks("few", limit=2) as tasks:
            done = tasks.spawn(asyncio.sleep(1))
            tasks.spawn(asyncio.sleep(100))
            with pytest.raises(TasksFullError, match="all 2 run") as caught:
                tasks.spawn(asyncio.sleep(1))
            assert caught.value.limit == 2
            await done
            tasks.spawn(asyncio.sleep(1))

    run(main())
    gc.collect()  # warnings are errors: a coroutine that was never awaited would fail the test


def test_spawn_is_refused_before_and_after_the_block(run):
    async def main():
        tasks = Tasks("work")
        with pytest.raises(TasksClosedError, match="not open"):
            tasks.spawn(asyncio.sleep(1))
        async with tasks:
            with pytest.raises(MisuseError, match="entered already"):
                await tasks.__aenter__()
        with pytest.raises(TasksClosedError):
            tasks.spawn(asyncio.sleep(1))
        await tasks.close()

    run(main())


def test_a_task_being_cancelled_cannot_spawn_another(run):
    refused = []

    async def work(tasks):
        try:
            await asyncio.sleep(1e6)
        finally:
            try:
                tasks.spawn(asyncio.sleep(1))
            except TasksClosedError:
                refused.append(True)

    async def main():
        async with Tasks("work") as tasks:
            tasks.spawn(work(tasks))
            await asyncio.sleep(1)

    run(main())
    assert refused == [True]


async def stubborn(seconds):
    """Ignores cancellation for that long."""
    until = now() + seconds
    while now() < until:
        try:
            await asyncio.sleep(until - now())
        except asyncio.CancelledError:
            continue


def test_what_outlives_the_grace_is_an_error_that_names_it(run):
    async def main():
        tasks = Tasks("work", grace="3s")
        await tasks.__aenter__()
        tasks.spawn(stubborn(100), name="mule")
        await asyncio.sleep(1)
        with pytest.raises(TasksStuckError, match=r"still run 3\.00 s after .* work/mule; let") as caught:
            await tasks.__aexit__(None, None, None)
        assert caught.value.names == ("work/mule",)
        assert now() == 4.0
        assert len(tasks) == 1  # not lost from sight

    run(main())


def test_an_error_of_the_block_is_not_hidden_by_a_stuck_task(run, caplog):
    async def main():
        async with Tasks("work", grace=1) as tasks:
            tasks.spawn(stubborn(5))
            await asyncio.sleep(0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main())
    assert "still run" in caplog.text


def test_leaving_is_shielded_from_cancellation(run):
    async def slow_to_clean():
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(3)

    async def block():
        async with Tasks("work") as tasks:
            block.task = tasks.spawn(slow_to_clean())
            await asyncio.sleep(1)

    async def main():
        owner = asyncio.create_task(block())
        await asyncio.sleep(2)  # the block is closing now
        owner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owner
        assert block.task.done()
        assert now() == 4.0

    run(main())


def test_a_task_cannot_close_its_own_owner(run):
    async def main():
        async with Tasks("work") as tasks:
            task = tasks.spawn(tasks.close())
            await asyncio.wait([task])
            assert isinstance(task.exception(), MisuseError)
            tasks.spawn(asyncio.sleep(0))  # and the owner is as open as before

    run(main())


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_that_makes_no_sense_is_refused(limit):
    with pytest.raises(MisuseError, match="limit"):
        Tasks("work", limit=limit)


# shielded


def test_shielded_gives_the_result_or_the_exception(run):
    async def boom():
        raise KeyError("boom")

    assert run(shielded(asyncio.sleep(1, "done"))) == "done"
    with pytest.raises(KeyError, match="boom"):
        run(shielded(boom()))


def test_the_work_ends_before_the_cancellation_is_passed_on_however_often_it_comes(run):
    log = []

    async def work():
        await asyncio.sleep(10)
        log.append(now())

    async def main():
        task = asyncio.create_task(shielded(work()))
        for _ in range(3):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [10.0]

    run(main())


def test_a_failure_of_work_whose_caller_was_cancelled_is_the_cause(run):
    async def boom():
        await asyncio.sleep(2)
        raise KeyError("boom")

    async def main():
        task = asyncio.create_task(shielded(boom()))
        await asyncio.sleep(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error.__cause__

    assert repr(run(main())) == "KeyError('boom')"


def test_a_surrounding_timeout_still_reads_as_a_timeout(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await shielded(asyncio.sleep(5))
        assert now() == 5.0

    run(main())


def test_its_own_timeout_cancels_the_work(run):
    async def main():
        with pytest.raises(TimeoutError, match=r"within 2\.00 s"):
            await shielded(asyncio.sleep(5), timeout="2s")
        assert now() == 2.0
        assert await shielded(asyncio.sleep(1, "in time"), timeout="2s") == "in time"

    run(main())
