"""Workers that crash, hang, do not start or find their place taken, and a supervisor that is killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tenfold.autoscale.supervisor import CrashLoop, Fleet, FleetError, FleetOptions, WorkerCrashed
from tenfold.autoscale.supervisor.life import Life

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


async def test_a_killed_worker_is_taken_out_and_replaced(run, tools):
    it = run()
    await it.fleet.start(2)
    one, other = it.fleet.members
    assert os.getpgid(one.pid) == one.pid, "a terminal's Ctrl-C would reach it"
    os.kill(one.pid, signal.SIGKILL)
    await tools.until(lambda: len(it.front.serving) == 2 and one.id in it.front.why)
    assert it.front.of(one.id) == ["ready", "gone"]
    assert it.front.why[one.id] == "signal SIGKILL"
    assert [member.id for member in it.fleet.members] == [other.id, "3"]
    assert (it.fleet.crashes, it.fleet.restarts, it.fleet.recycled) == (1, 1, 0)
    assert [path.name for path in sorted(it.sockets)] == ["2.sock", "3.sock"]
    (crash,) = it.told(WorkerCrashed)
    assert (crash.id, crash.pause) == (one.id, 0.0)


async def test_a_stopped_worker_is_replaced(run, tools):
    it = run(hung_after="1s")
    await it.fleet.start(2)
    one, other = it.fleet.members
    os.kill(one.pid, signal.SIGSTOP)
    await tools.until(lambda: one.id in it.front.why and len(it.front.serving) == 2)
    assert it.front.why[one.id].startswith("hung: no sign of life for ")
    assert not tools.living(one.pid)
    assert other.state == "ready"


@linux
async def test_a_busy_worker_is_not_hung(run, tools):
    """Requests that go on together block its loop for 3.6 s; it is to give a sign of life in 2 s."""
    it = run(hung_after="2s")
    await it.fleet.start(1)
    answers = await asyncio.gather(*(it.front.request("/busy") for _ in range(12)))
    assert len(set(answers)) == 1
    assert it.fleet.crashes == 0


async def test_a_worker_ends_when_its_line_is_closed(run, tools):
    """What ends it where the kernel has no signal for the death of a parent."""
    it = run()
    await it.fleet.start(1)
    (member,) = it.fleet.members
    it.fleet._lives[member.id]._process._hang_up()
    await tools.until(lambda: member.id in it.front.why)
    assert it.front.why[member.id] == "signal SIGKILL"


async def test_a_crash_at_import_is_told_with_the_last_words(run):
    it = run()
    (it.folder / "simple.py").write_text("raise LookupError('no such setting: SHOP_DSN')\n")
    with pytest.raises(FleetError, match=r"simple:app: no worker got ready \(exit code 1\); it said") as caught:
        await it.fleet.start(2)
    assert caught.value.last_words.endswith("LookupError: no such setting: SHOP_DSN")
    assert it.fleet.members == ()
    assert it.front.heard == []


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_an_app_that_refuses_to_start_is_told_with_the_last_words(run, server):
    it = run(server=server)
    (it.folder / "simple.py").write_text(
        textwrap.dedent("""
            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "the database is not there"})
        """)
    )
    with pytest.raises(FleetError, match="the database is not there"):
        await it.fleet.start(1)


async def test_an_app_that_never_gets_ready_is_ended_in_time(run, tools):
    it = run(ready_timeout="1s")
    (it.folder / "simple.py").write_text(
        textwrap.dedent("""
            import asyncio
            async def app(scope, receive, send):
                await asyncio.Event().wait()
        """)
    )
    starting = asyncio.create_task(it.fleet.start(1))
    await tools.until(lambda: it.fleet.members and it.fleet.members[0].pid)
    (member,) = it.fleet.members
    with pytest.raises(FleetError, match=r"not ready within 1\.00 s"):
        await starting
    assert not tools.living(member.pid)


async def test_broken_code_leaves_the_old_workers_in_service(run, tools):
    it = run(backoff_first="10ms", backoff_cap="40ms")
    await it.fleet.start(2)
    old = it.fleet.members
    good = (it.folder / "simple.py").read_text()
    (it.folder / "simple.py").write_text("raise RuntimeError('broken by an edit')\n")
    with pytest.raises(FleetError, match="the new workers do not get ready"):
        await it.fleet.roll()
    assert it.fleet.crash_loop
    await tools.until(lambda: it.fleet.crashes >= 6)  # it keeps trying
    (loop,) = it.told(CrashLoop)
    assert loop.deaths == 5
    assert loop.last_words.endswith("RuntimeError: broken by an edit")
    assert [member.state for member in old] == ["ready", "ready"]
    assert await it.front.request() in {str(member.pid) for member in old}

    (it.folder / "simple.py").write_text(good)
    await it.fleet.roll()
    assert [member.state for member in old] == ["gone", "gone"]
    assert len(it.ready) == 2
    assert not it.fleet.crash_loop


async def test_a_taken_path_is_passed_over(run, tools):
    it = run()
    await it.fleet.start(1)
    path = it.fleet._place.path / "2.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        await it.fleet.scale(2)
        await tools.until(lambda: len(it.ready) == 2)
        assert [member.id for member in it.fleet.members] == ["1", "3"]
    assert it.fleet.crashes == 0


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_a_worker_whose_path_was_taken_meanwhile_says_so(run, server, monkeypatch):
    spawn = Life._spawn

    async def taken(life):
        os.mkdir(life.member.url.removeprefix("unix://"))
        return await spawn(life)

    it = run(server=server)
    monkeypatch.setattr(Life, "_spawn", taken)
    monkeypatch.setattr("tenfold.autoscale.supervisor.place.Place.left", lambda place, url: None)
    with pytest.raises(FleetError, match=r"(?i)in use|is a directory"):
        await it.fleet.start(1)


async def test_a_worker_that_the_front_refuses_is_replaced(run, tools, caplog):
    it = run()
    await it.fleet.start(1)
    ready, it.front.ready = it.front.ready, _refuse
    await it.fleet.scale(2)
    await tools.until(lambda: it.fleet.crashes == 1)
    it.front.ready = ready
    await tools.until(lambda: len(it.front.serving) == 2)
    assert it.told(WorkerCrashed)[0].why == "the front failed at ready: ZeroDivisionError('of the front')"


async def _refuse(member):
    raise ZeroDivisionError("of the front")


async def test_a_start_that_is_cancelled_leaves_nothing(run, tools):
    it = run()
    starting = asyncio.create_task(it.fleet.start(2))
    await tools.until(lambda: len(it.fleet.members) == 2 and all(member.pid for member in it.fleet.members))
    pids = [member.pid for member in it.fleet.members]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [pid for pid in pids if tools.living(pid)] == []


@linux
@pytest.mark.parametrize("restarts", [20, pytest.param(300, marks=pytest.mark.slow)])
async def test_fast_restarts_leave_no_zombie_and_no_socket(run, tools, restarts):
    """Killed at every stage of their start; every tenth is let come to serve."""
    it = run(backoff_first="1ms", backoff_cap="1ms")
    others = _children()  # servers that other tests keep
    await it.fleet.start(2)
    files, killed = len(os.listdir("/proc/self/fd")), set()
    while len(killed) < restarts:
        victims = [member for member in it.fleet.members if member.pid and member.pid not in killed]
        if len(killed) % 10 == 0:
            await tools.until(lambda: len(it.front.serving) == 2)
            victims = it.ready[:1]
        for member in victims[:1]:
            os.kill(member.pid, signal.SIGKILL)
            killed.add(member.pid)
        await asyncio.sleep(len(killed) % 7 * 0.01)
    await tools.until(lambda: len(it.front.serving) == len(it.fleet.members) == 2)
    assert it.fleet.crashes == it.fleet.restarts == restarts
    assert _children() - others == {member.pid for member in it.fleet.members}
    assert {path.name for path in it.sockets} == {f"{member.id}.sock" for member in it.fleet.members}
    assert len(os.listdir("/proc/self/fd")) <= files


def _children() -> set[int]:
    """The processes that this one has started, zombies included."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(folder.name))
    return found


SUPERVISOR = """
import asyncio, sys
from tenfold.autoscale.supervisor import Fleet, FleetOptions
class Front:
    async def ready(self, member): pass
    async def leaving(self, member): pass
    async def gone(self, member, why, words): pass
async def main():
    fleet = Fleet(FleetOptions(app="simple:app", server="uvicorn", app_dir=sys.argv[1], directory=sys.argv[1]), Front())
    await fleet.start(2)
    print("ready", flush=True)
    await asyncio.Event().wait()
loop = None
if sys.argv[2] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop
with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main())
"""


@linux
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_workers_die_with_their_supervisor(tmp_path, tools, marked, loop):
    env, living = marked
    (tmp_path / "simple.py").write_text(tools.APP)
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(tmp_path), loop, env=env, stdout=subprocess.PIPE
    )
    assert await supervisor.stdout.readline() == b"ready\n"
    assert len(living()) == 3
    supervisor.kill()
    await supervisor.wait()
    await tools.until(lambda: living() == [])


async def test_one_fleet_starts_once_and_closes_twice(tools, tmp_path):
    (tmp_path / "simple.py").write_text(tools.APP)
    fleet = Fleet(FleetOptions(app="simple:app", server="uvicorn", app_dir=str(tmp_path)), tools.Front())
    await fleet.start(1)
    assert repr(fleet) == "<Fleet simple:app: 1 of 1 serve>"
    await asyncio.gather(fleet.aclose(), fleet.aclose())
    await fleet.aclose()
