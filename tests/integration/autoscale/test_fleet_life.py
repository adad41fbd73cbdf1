"""A fleet with real workers: started, scaled, rolled, recycled, drained, under both servers."""

import asyncio
import os
import sys

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale.supervisor import WorkerCrashed, WorkerLeft, WorkerReady

SERVERS = ["uvicorn", "granian"]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.parametrize("server", SERVERS)
async def test_workers_serve_are_scaled_and_leave_nothing(run, tools, server):
    it = run(server=server)
    await it.fleet.start(2)
    first = it.fleet.members
    assert [(member.id, member.state) for member in first] == [("1", "ready"), ("2", "ready")]
    assert it.fleet.wish == 2
    assert set(it.front.serving) == {"1", "2"}
    for member in first:
        assert member.url.startswith("unix:///")
        assert await tools.get(member.url) == str(member.pid)
        if sys.platform.startswith("linux"):
            assert member.memory() > 1_000_000
            assert member.cpu_seconds() > 0

    await it.fleet.scale(3)
    await tools.until(lambda: len(it.ready) == 3)
    first[1].in_flight = 1  # now the idlest are 1 and 3, and 3 is the younger
    await it.fleet.scale(2)
    await tools.until(lambda: "3" in it.front.why)
    assert it.front.of("3") == ["ready", "leaving", "gone"]
    assert it.front.why["3"] == "fewer workers are wanted"
    first[1].in_flight = 0
    await it.fleet.scale(1, choose=lambda members: members[0])
    await tools.until(lambda: "1" in it.front.why)
    assert it.front.of("1") == ["ready", "leaving", "gone"]
    assert [path.name for path in it.sockets] == ["2.sock"]

    assert it.told(WorkerCrashed) == []
    assert {event.id for event in it.told(WorkerReady)} == {"1", "2", "3"}
    assert [event.id for event in it.told(WorkerLeft)] == ["3", "1"]
    await it.fleet.aclose()
    shut_down = (it.folder / "shut-down").read_text().split()
    assert sorted(map(int, shut_down)) == sorted(event.pid for event in it.told(WorkerReady))
    assert first[0].memory() is None
    assert first[0].cpu_seconds() is None
    with pytest.raises(MisuseError, match="between start"):
        await it.fleet.scale(1)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_worker_is_ready_when_its_app_is(run, tools, server):
    it = run(server=server, env={"STARTS": "slowly"})
    starting = asyncio.create_task(it.fleet.start(1))
    await tools.until((it.folder / "starting").exists)
    (member,) = it.fleet.members
    assert member.state == "starting"
    assert not _accepts(member.url)
    (it.folder / "go-on").touch()
    await starting
    assert await tools.get(member.url) == str(member.pid)


@pytest.mark.parametrize("server", SERVERS)
async def test_sigterm_lets_requests_under_way_end(run, tools, server):
    """The front here does not wait, so it is the server that does."""
    it = run(server=server)
    await it.fleet.start(1)
    (member,) = it.fleet.members
    request = asyncio.create_task(tools.get(member.url, "/wait"))
    await tools.until((it.folder / f"waiting-{member.pid}").exists)
    closing = asyncio.create_task(it.fleet.aclose())
    await tools.until(lambda: "leaving" in it.front.of("1"))
    # It takes no more connections: the signal has come, and the request is under way still.
    await tools.until(lambda: not _accepts(member.url))
    assert not request.done()
    (it.folder / "go-on").touch()
    assert await request == str(member.pid)
    await closing
    assert it.front.of("1") == ["ready", "leaving", "gone"]


def _accepts(url):
    from tenfold.autoscale.supervisor.place import accepts

    return accepts(url)


async def test_a_worker_that_does_not_leave_is_killed_after_the_drain_timeout(run, tools):
    it = run(drain_timeout="200ms")
    await it.fleet.start(1)
    (member,) = it.fleet.members
    request = asyncio.create_task(it.front.request("/wait"))
    await tools.until((it.folder / f"waiting-{member.pid}").exists)
    await it.fleet.aclose()
    assert not tools.living(member.pid)
    with pytest.raises((OSError, AssertionError)):
        await request


async def test_a_roll_under_requests_loses_none(run, tools):
    it = run()
    await it.fleet.start(2)
    it.front.least = 2
    old = {str(member.pid) for member in it.fleet.members}
    seen, stop = set(), False

    async def client():
        while not stop:
            seen.add(await it.front.request())

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client())
        await asyncio.gather(it.fleet.roll(), it.fleet.roll())  # the second joins the first
        new = {str(member.pid) for member in it.fleet.members}
        seen.clear()
        await tools.until(lambda: seen == new)
        stop = True
    assert len(new) == 2
    assert not old & new
    assert it.front.least == 2, "a worker left before its replacement was ready"
    assert it.fleet.crashes == 0
    assert it.fleet.recycled >= 2


async def test_workers_are_replaced_after_enough_requests_one_at_a_time(run, tools):
    it = run(max_requests=20)
    await it.fleet.start(2)
    it.front.least = 2
    first = it.fleet.members
    for member in first:
        for _ in range(30):
            await tools.get(member.url)
            member.requests += 1
    await tools.until(lambda: it.fleet.recycled == 2 and len(it.ready) == len(it.fleet.members) == 2)
    assert not set(first) & set(it.fleet.members)
    assert it.front.least == 2, "a worker left before its replacement was ready"
    assert it.fleet.crashes == 0
    assert len({member.limit for member in first}) == 2, "they are to go at different times"
    for event in it.told(WorkerLeft):
        served = int(event.why.removeprefix("replaced after ").removesuffix(" requests"))
        assert 20 <= served <= 30


@linux
async def test_a_worker_above_the_memory_limit_is_replaced(run, tools):
    it = run(memory_limit="90MB")
    await it.fleet.start(1)
    it.front.least = 1
    (member,) = it.fleet.members
    assert member.memory() < 90_000_000
    await it.front.request("/grow")
    await tools.until(lambda: member.id in it.front.why)
    assert it.fleet.recycled == 1
    assert it.front.why[member.id].startswith("replaced at ")
    assert it.front.least == 1, "it left before its replacement was ready"
    assert not tools.living(member.pid)


async def test_replace_replaces_one(run, tools):
    it = run()
    await it.fleet.start(2)
    one, other = it.fleet.members
    it.fleet.replace(one, "it fails its checks")
    await tools.until(lambda: one.id in it.front.why and len(it.ready) == 2)
    assert other.state == "ready"
    assert it.front.why[one.id] == "it fails its checks"


@pytest.mark.parametrize("server", SERVERS)
async def test_ports_take_the_place_of_paths_that_are_too_long(run, tools, tmp_path, server):
    it = run(server=server, directory=tmp_path / ("d" * 120), factory=True, app="simple:make")
    await it.fleet.start(2)
    for member in it.fleet.members:
        assert member.url.startswith("http://127.0.0.1:")
        assert await tools.get(member.url) == str(member.pid)


@pytest.mark.parametrize("server", SERVERS)
async def test_the_app_sees_the_client_that_the_front_tells_of(run, tools, server):
    it = run(server=server)
    await it.fleet.start(1)
    headers = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n"
    assert await tools.get(it.fleet.members[0].url, "/client", headers) == "192.0.2.7 https"


async def test_what_workers_write_is_passed_on_with_their_number(run, tools, capsys):
    it = run(env={"NAME": "value"})
    await it.fleet.start(1)
    await it.front.request("/say")
    await it.fleet.aclose()
    assert "[1] the app says something\n" in capsys.readouterr().err
    assert "the app says something" in it.front.words["1"]
    assert "NAME" not in os.environ
