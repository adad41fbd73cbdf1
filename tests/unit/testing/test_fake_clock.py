import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time

import pytest

from tenfold._core.clock import Clock
from tenfold._core.errors import MisuseError
from tenfold.testing import DeadlockError, FakeClock


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def manual():
    with FakeClock(auto=False) as clock:
        yield clock


def real(function, *args):
    """Result and real seconds it took."""
    begin = time.monotonic()
    result = function(*args)
    return result, time.monotonic() - begin


async def note_after(log, seconds, what):
    await asyncio.sleep(seconds)
    log.append((asyncio.get_running_loop().time(), what))


# Time that passes by itself


def test_an_hour_of_sleep_takes_no_time_and_ends_exactly_on_the_hour(clock):
    _, took = real(clock.run, asyncio.sleep(3600))
    assert clock.monotonic() == 3600.0
    assert took < 1.0


def test_ten_thousand_timers_an_hour_apart_in_a_second_or_so(clock):
    async def main():
        for _ in range(10_000):
            await asyncio.sleep(3600)

    _, took = real(clock.run, main())
    assert clock.monotonic() == 36_000_000.0
    assert took < 10.0


def test_it_is_a_clock(clock):
    typed: Clock = clock
    clock.run(typed.sleep(90))
    assert typed.monotonic() == 90.0
    assert typed.time() == 1_700_000_090.0


def test_start_and_epoch_can_be_chosen():
    with FakeClock(start=50.0, epoch=1000.0) as clock:
        assert (clock.monotonic(), clock.time()) == (50.0, 1000.0)
        clock.run(asyncio.sleep(1))
        assert (clock.monotonic(), clock.time()) == (51.0, 1001.0)


def test_timers_fire_in_the_order_of_their_times_whatever_the_order_of_their_making(clock):
    log = []

    async def main():
        async with asyncio.TaskGroup() as group:
            for seconds in (30, 0.001, 7200, 5, 0):
                group.create_task(note_after(log, seconds, seconds))

    clock.run(main())
    assert log == [(s, s) for s in (0, 0.001, 5, 30, 7200)]


def test_timeout_wait_for_call_at_and_call_later_obey_it(clock):
    log = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_at(10.0, log.append, "at")
        loop.call_later(20.0, log.append, "later").cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await loop.create_future()
        assert loop.time() == 30.0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 30)
        assert loop.time() == 60.0
        async with asyncio.timeout(10):
            await asyncio.sleep(9)
        _, pending = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(500))], timeout=31)
        assert pending
        assert loop.time() == 100.0

    clock.run(main())
    assert log == ["at"]


def test_exceptions_and_groups_of_them_come_through(clock):
    async def boom():
        await asyncio.sleep(5)
        raise KeyError("five")

    with pytest.raises(KeyError, match="five"):
        clock.run(boom())

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(boom())
            tasks.create_task(asyncio.sleep(3600))

    with pytest.raises(ExceptionGroup):
        clock.run(group())
    assert clock.monotonic() == 10.0  # the long sleep was cancelled, not slept


def test_several_runs_share_the_loop_and_the_time(clock):
    async def start():
        return asyncio.create_task(asyncio.sleep(10, "done"))

    task = clock.run(start())

    async def finish():
        return await task

    assert clock.run(finish()) == "done"
    assert clock.monotonic() == 10.0


def test_leaving_the_block_cancels_what_runs_and_lets_it_clean_up_in_virtual_time():
    log = []

    async def worker():
        try:
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(60)
            log.append("clean")

    async def main():
        task = asyncio.create_task(worker())
        await asyncio.sleep(0)
        return task

    with FakeClock(auto=False) as clock:
        task = clock.run(main())
    assert log == ["clean"]
    assert task.cancelled()


def test_two_runs_with_the_same_program_have_the_same_history():
    async def main(log):
        async with asyncio.TaskGroup() as group:
            for n in range(200):
                group.create_task(note_after(log, (n * 7919) % 13 / 10, n))

    histories = []
    for _ in range(2):
        log = []
        with FakeClock() as clock:
            clock.run(main(log))
        histories.append(log)
    assert histories[0] == histories[1]


# Time that passes on command


def test_a_manual_clock_fires_each_timer_at_its_time_and_settles_before_it_returns(manual):
    log = []

    async def chain():
        await note_after(log, 60, "first")
        await note_after(log, 60, "second")
        await note_after(log, 180, "third")

    async def main():
        task = asyncio.create_task(chain())
        await manual.advance("2m")
        assert log == [(60.0, "first"), (120.0, "second")]
        await manual.advance("179s")
        assert len(log) == 2
        await manual.advance(1)
        assert log[2:] == [(300.0, "third")]
        assert task.done()
        assert manual.monotonic() == 300.0

    manual.run(main())


def test_advance_on_an_automatic_clock_stops_at_its_end(clock):
    async def main():
        log = []
        task = asyncio.create_task(note_after(log, 100, "late"))
        await clock.advance(40)
        assert clock.monotonic() == 40.0
        assert log == []
        await task
        assert log == [(100.0, "late")]

    clock.run(main())


def test_only_one_advances_and_a_cancelled_advance_leaves_the_clock_usable(manual):
    async def main():
        first = asyncio.create_task(manual.advance(10))
        await asyncio.sleep(0)
        with pytest.raises(MisuseError, match="another task is advancing"):
            await manual.advance(10)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await manual.advance(5)

    manual.run(main())
    assert manual.monotonic() == 5.0


def test_jump_passes_over_timers_which_then_fire_late(clock):
    log = []

    async def main():
        task = asyncio.create_task(note_after(log, 1, "late"))
        await asyncio.sleep(0)
        clock.jump("1h")
        await task

    clock.run(main())
    assert log == [(3600.0, "late")]


def test_jump_and_reading_need_no_loop():
    clock = FakeClock()
    clock.jump("1m30s")
    assert clock.monotonic() == 90.0


# Nothing goes on: an error, not a hang


def test_a_deadlock_names_the_tasks_and_the_places_where_they_wait(clock):
    async def helper():
        await asyncio.Event().wait()

    async def waits_for_ever():
        await helper()

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="the stuck one")
            group.create_task(asyncio.sleep(5))

    with pytest.raises(DeadlockError, match="the stuck one") as caught:
        clock.run(main())
    assert clock.monotonic() == 5.0
    assert len(caught.value.waiting) == 2
    line = next(line for line in caught.value.waiting if "stuck" in line)
    assert "waits_for_ever" in line
    assert "locks.py" in line  # the innermost await is in asyncio's own Event


def test_a_manual_clock_that_nobody_advances_says_so(manual):
    with pytest.raises(DeadlockError, match=r"next timer is due in 5\.00 s, and nobody advances"):
        manual.run(asyncio.sleep(5))


def test_misuse_is_said_in_a_sentence(clock):
    with pytest.raises(MisuseError, match="with FakeClock"):
        FakeClock().run(asyncio.sleep(0))
    with pytest.raises(MisuseError, match="entered already"):
        clock.__enter__()
    with pytest.raises(MisuseError, match="advance: expected"):
        clock.run(clock.advance("soon"))
    with pytest.raises(MisuseError):
        FakeClock(patience=-1)


async def test_in_a_foreign_loop_it_refuses_to_wait():
    clock = FakeClock()
    with pytest.raises(MisuseError, match="not the clock's own"):
        await clock.sleep(1)
    with pytest.raises(MisuseError, match="not the clock's own"):
        await clock.advance(1)


def test_repr_tells_the_time_and_the_mode(clock):
    clock.jump(1.5)
    assert repr(clock) == "<FakeClock 1.5 s auto>"
    assert repr(FakeClock(auto=False)) == "<FakeClock 0 s manual>"


# The real world is not starved


def test_a_thread_is_waited_for_while_time_stands_still(clock):
    async def main():
        async with asyncio.timeout(1):
            return await asyncio.to_thread(time.sleep, 0.2)

    _, took = real(clock.run, main())
    assert took >= 0.2
    assert clock.monotonic() == 0.0


def test_a_name_look_up_is_a_thread_too(clock):
    async def main():
        async with asyncio.timeout(0.001):
            return await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)

    assert clock.run(main())


def test_a_thread_that_hangs_is_waited_for_no_longer_than_patience():
    release = threading.Event()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.to_thread(release.wait, 20)
        release.set()

    with FakeClock(patience=0.2) as clock:
        _, took = real(clock.run, main())
    assert 0.2 <= took < 5


def test_a_child_process_is_waited_for(clock):
    async def main():
        code = "import time; time.sleep(0.3); print('done')"
        async with asyncio.timeout(5):
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
            out, _ = await child.communicate()
        return out, child.returncode

    assert clock.run(main()) == (b"done\n", 0)
    assert clock.monotonic() == 0.0


def test_sockets_are_served_before_a_timeout_is_jumped_to(clock):
    async def answer(reader, writer):
        data = await reader.readexactly(5)
        await asyncio.sleep(3600)  # a slow server, in virtual time
        writer.write(data[::-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await reader.read(5)
            async with asyncio.timeout(3600):
                assert await reader.read(5) == b"olleh"
            writer.close()
            await writer.wait_closed()

    clock.run(main())
    assert clock.monotonic() == 3600.0


def test_a_real_peer_in_another_thread_has_the_threshold_to_answer():
    listener = socket.create_server(("127.0.0.1", 0))

    def peer():
        with listener, listener.accept()[0] as client:
            client.recv(10)
            time.sleep(0.1)
            client.sendall(b"pong")

    async def main():
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"ping")
        async with asyncio.timeout(1):
            data = await reader.read(4)
        writer.close()
        await writer.wait_closed()
        return data

    thread = threading.Thread(target=peer)
    thread.start()
    try:
        with FakeClock(autojump_threshold="2s") as clock:
            assert clock.run(main()) == b"pong"
            assert clock.monotonic() == 0.0
    finally:
        thread.join()


def test_a_silent_socket_lets_the_clock_jump(clock):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await asyncio.get_running_loop().sock_recv(ours, 1)

    _, took = real(clock.run, main())
    assert clock.monotonic() == 3600.0
    assert took < 5


def test_a_manual_clock_serves_sockets_on_its_way(manual):
    async def beat(writer):
        while True:
            await asyncio.sleep(60)
            writer.write(b".")

    async def main():
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        reader, other = await asyncio.open_connection(sock=theirs)
        task = asyncio.create_task(beat(writer))
        await manual.advance("10m")
        task.cancel()
        assert await reader.readexactly(10) == b"." * 10
        for each in (writer, other):
            each.close()
            await each.wait_closed()

    manual.run(main())
    assert manual.monotonic() == 600.0


def test_hold_keeps_the_clock_for_a_thread_it_does_not_know(clock):
    async def main():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        timer = threading.Timer(0.2, loop.call_soon_threadsafe, (answer.set_result, 42))
        timer.start()
        try:
            with clock.hold():
                async with asyncio.timeout(1):
                    return await answer
        finally:
            timer.join()

    assert clock.run(main()) == 42
    assert clock.monotonic() == 0.0


@pytest.fixture
def ctrl_c():
    """SIGINT as in a terminal, also where the tests run in the background, whose children ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_run_in_real_time(ctrl_c):
    async def main():
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(3600)

    with FakeClock() as clock, pytest.raises(KeyboardInterrupt):
        clock.run(main())
    assert clock.monotonic() == 0.0


def test_the_plugin_offers_a_clock(pytester_run):
    pytester_run(
        """
        import asyncio
        pytest_plugins = ["tenfold.testing.pytest_plugin"]

        def test_it(fake_clock):
            fake_clock.run(asyncio.sleep(3600))
            assert fake_clock.monotonic() == 3600.0
        """
    )


@pytest.fixture
def pytester_run(tmp_path):
    """Run a test file in a pytest of its own and expect one test that passes."""
    import os
    import subprocess
    import textwrap
    from pathlib import Path

    import tenfold

    def run(source):
        (tmp_path / "conftest.py").write_text("")
        (tmp_path / "test_sample.py").write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout

    return run
