"""The parts of several processes: the deal of sockets, what is inherited, the line to a worker, its replacement."""

import asyncio
import itertools
import os
import random
import socket
import stat

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Address
from tenfold.gateway.engine.log import _batches
from tenfold.gateway.processes import HandOverError, Inherited, Sockets, hand_over
from tenfold.gateway.processes.channel import (
    Channel,
    WorkerError,
    WorkerGoneError,
    WorkerTimeoutError,
    answer,
)
from tenfold.gateway.processes.lives import LOOP, YOUNG, Lives
from tenfold.gateway.processes.sockets import taken

ANY_PORT = Address("127.0.0.1", 0)


@pytest.fixture
def listening():
    """Sockets that an earlier process might have had, for so many processes."""
    opened = []

    def make(*addresses, processes=1, inherited=(), **more):
        made = Sockets(addresses or (ANY_PORT,), processes, inherited, **more)
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()


def copies(sockets):
    return [each.dup() for each in sockets.held]


def ports(sockets):
    return [made.getsockname()[1] for _, made in sockets.bound]


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_each_process_has_a_socket_of_its_own_on_one_port(listening):
    found = listening(processes=3)
    assert len(set(ports(found))) == 1
    assert len(found.bound) == 3
    assert found.addresses == (Address("127.0.0.1", ports(found)[0]),)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_address_that_somebody_listens_on_is_refused_with_several_processes_too(listening, processes):
    first = listening(processes=processes)
    with pytest.raises(OSError, match="cannot listen on 127"):
        listening(*first.addresses, processes=2)


@pytest.mark.parametrize("workers", [[0], [1], [0, 1], [0, 1, 2], [0, 2, 3], list(range(7))])
def test_every_socket_has_a_worker_and_every_worker_a_socket_of_each_address(listening, tmp_path, workers):
    found = listening(ANY_PORT, Address(path=str(tmp_path / "s")), ANY_PORT, processes=4)
    dealt = found.deal(workers)
    assert sorted(dealt) == workers
    assert {each for several in dealt.values() for each in several} == set(range(len(found.bound))) == set(range(9))
    for several in dealt.values():
        assert {found.bound[each][0] for each in several} == set(found.addresses)
        assert len(set(several)) == len(several)


def test_nobody_is_dealt_nothing(listening):
    assert listening(processes=2).deal([]) == {}


@pytest.mark.parametrize(("before", "after", "count"), [(2, 2, 2), (2, 3, 3), (3, 2, 3), (1, 2, 1), (2, 1, 2)])
def test_a_successor_takes_all_sockets_over_and_adds_those_it_lacks(listening, tmp_path, before, after, count):
    """A socket without SO_REUSEPORT, one process's, is shared; and none is closed that others may wait at."""
    path = Address(path=str(tmp_path / "s"))
    old = listening(ANY_PORT, path, processes=before, admin=ANY_PORT)
    new = listening(ANY_PORT, path, processes=after, admin=ANY_PORT, inherited=copies(old))
    assert new.addresses == old.addresses
    assert len(new.groups[0]) == count
    assert new.admin[1].getsockname() == old.admin[1].getsockname()
    assert new.unclaimed == ()
    old.handed_over = True
    old.close()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path.path)
    new.close()
    assert not os.path.exists(path.path)


def test_what_no_address_asks_for_is_closed_and_told(listening):
    old = listening()
    new = listening(ANY_PORT, inherited=[each.dup() for each in listening(Address("127.0.0.2", 0)).held])
    assert len(new.unclaimed) == 1
    assert "127.0.0.2" in new.unclaimed[0]
    assert ports(new) != ports(old)


def test_systemds_socket_for_all_families_is_taken_for_all_addresses(listening):
    with socket.socket(socket.AF_INET6) as made:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            made.bind(("::", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        made.listen()
        found = listening(Address("0.0.0.0", made.getsockname()[1]), inherited=[made.dup()])
        assert found.unclaimed == ()


def test_a_unix_socket_left_behind_is_replaced_and_a_live_one_is_not(listening, tmp_path):
    path = Address(path=str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path.path)
    live = listening(path)
    with pytest.raises(OSError, match="another process does"):
        listening(path)
    assert stat.S_ISSOCK(os.stat(path.path).st_mode)
    os.unlink(path.path)
    other = listening(path)
    live.close()  # the file is the other's by now
    assert os.path.exists(path.path)
    other.close()
    assert not os.path.exists(path.path)


# -- inheriting -------------------------------------------------------------------------------------------------------


def test_nothing_is_inherited_that_is_meant_for_another_process():
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}
    found = Inherited(environ)
    assert found.sockets == []
    assert environ == {"HOME": "/"}
    found.close()


def test_numbers_that_are_none_are_refused():
    with pytest.raises(MisuseError, match="whole numbers"):
        Inherited({"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())})


def test_what_does_not_listen_is_not_taken():
    with socket.socket() as plain, pytest.raises(MisuseError, match="listens"):
        taken([os.dup(plain.fileno())])
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(MisuseError, match="expected a socket"):
            taken([descriptor])
    finally:
        os.close(descriptor)


async def test_who_does_not_come_to_serve_is_told_and_stopped(listening):
    sockets = listening(processes=2).held
    with pytest.raises(HandOverError, match=r"exit code 7"):
        await hand_over(sockets, command=["/bin/sh", "-c", "exit 7"])
    with pytest.raises(HandOverError, match=r"within 0.05 s \(exit code -15\)"):
        await hand_over(sockets, command=["/bin/sh", "-c", "exec sleep 60"], timeout=0.05)
    with pytest.raises(HandOverError, match="No such file"):
        await hand_over(sockets, command=["/nowhere"])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # noqa: ASYNC222 - it does not wait


async def test_sockets_come_as_a_service_gets_them(listening, tmp_path):
    out = tmp_path / "out"
    tell = f'echo "$LISTEN_FDS $LISTEN_PID $(ls /proc/$$/fd | tr "\\n" " ")" > {out}; echo ready >&5; exec 5>&-'
    pid = await hand_over(listening(processes=2).held, command=["/bin/sh", "-c", tell])
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended, or nearly
    count, meant, *descriptors = out.read_text().split()
    assert (count, int(meant)) == ("2", os.getpid())
    assert {"3", "4", "5"} <= set(descriptors)


# -- the line to a worker ---------------------------------------------------------------------------------------------


@pytest.fixture
async def line():
    """A channel to a worker with that method."""
    ends = []

    async def make(method):
        ours, theirs = socket.socketpair()
        channel_streams = await asyncio.open_unix_connection(sock=ours)
        worker_streams = await asyncio.open_unix_connection(sock=theirs)
        channel = Channel(*channel_streams, "worker 0")
        tasks = [asyncio.create_task(channel.listen()), asyncio.create_task(answer(*worker_streams, method))]
        ends.append((channel_streams[1], worker_streams[1], tasks))
        return channel, worker_streams[1]

    yield make
    for ours, theirs, tasks in ends:
        ours.close()
        theirs.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def test_calls_overlap_and_answers_find_their_call(line):
    gates = {each: asyncio.Event() for each in "ab"}

    async def method(name, params):
        await gates[name].wait()
        return {"name": name, **params}

    channel, _ = await line(method)
    first = asyncio.create_task(channel.call("a", {"n": 1}, timeout=5))
    second = asyncio.create_task(channel.call("b", {"n": "x" * 300_000}, timeout=5))
    gates["b"].set()
    assert len((await second)["n"]) == 300_000
    assert not first.done()
    gates["a"].set()
    assert await first == {"name": "a", "n": 1}


async def test_what_a_worker_raises_is_raised_here(line):
    async def method(name, params):
        raise {"misuse": MisuseError("expected another"), "else": KeyError("k")}[name]

    channel, _ = await line(method)
    with pytest.raises(MisuseError, match="expected another"):
        await channel.call("misuse", {}, timeout=5)
    with pytest.raises(WorkerError, match="worker 0") as caught:
        await channel.call("else", {}, timeout=5)
    assert caught.value.kind == "KeyError"


async def test_a_call_has_a_deadline_at_both_ends_and_a_late_answer_is_nobodys(line):
    ended = asyncio.Event()

    async def method(name, params):
        if name == "fast":
            return {}
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    channel, _ = await line(method)
    with pytest.raises(WorkerTimeoutError, match="no answer to 'slow' within 0"):
        await channel.call("slow", {}, timeout=0.05)
    await asyncio.wait_for(ended.wait(), 5)
    assert await channel.call("fast", {}, timeout=5) == {}


async def test_a_worker_that_ends_answers_all_that_wait(line):
    called = asyncio.Event()

    async def method(name, params):
        called.set()
        await asyncio.Event().wait()

    channel, theirs = await line(method)
    waiting = asyncio.create_task(channel.call("slow", {}, timeout=30))
    await called.wait()
    theirs.transport.abort()
    with pytest.raises(WorkerGoneError):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(WorkerGoneError):
        await channel.call("slow", {}, timeout=30)


# -- when one is replaced ---------------------------------------------------------------------------------------------


def test_the_first_death_is_replaced_at_once_and_early_ones_ever_later():
    lives, rng = Lives(), random.Random(1)
    assert lives.died(YOUNG, rng) == 0
    assert lives.died(1.0, rng) == 0
    pauses = [lives.died(1.0, rng) for _ in range(12)]
    assert all(later >= sooner for sooner, later in itertools.pairwise(pauses[:7]))
    assert 15 <= pauses[-1] <= 30
    assert lives.looping
    assert lives.died(YOUNG, rng) == 0
    assert not lives.looping


def test_one_that_never_served_is_not_replaced_at_once():
    lives, rng = Lives(), random.Random(1)
    assert lives.died(None, rng) > 0
    for _ in range(LOOP - 1):
        assert not lives.looping
        lives.died(None, rng)
    assert lives.looping


# -- the log of several -----------------------------------------------------------------------------------------------


def test_a_pipe_gets_whole_lines_up_to_its_size_and_a_file_all_at_once():
    lines = [b"x" * n + b"\n" for n in (10, 4000, 90, 200, 4095, 1)]
    assert list(_batches(lines, 0)) == [b"".join(lines)]
    batches = list(_batches(lines, 4096))
    assert b"".join(batches) == b"".join(lines)
    assert max(map(len, batches)) <= 4096
    assert all(each.endswith(b"\n") for each in batches)
    assert len(batches) == 4
