"""Several processes and one after another, as a user runs them: under load no request fails, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.gateway.config import GatewayConfigError, read_config
from tenfold.gateway.processes import Sockets, Supervisor, WorkerCrashLoop, WorkerDied, WorkerStarted, child

SRC = str(Path(__file__).parents[3] / "src")
WITHIN = 20.0
MARK = "TENFOLD_TEST_MARK"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT and /proc as Linux has them"),
    pytest.mark.asyncio(loop_factories=["asyncio"]),  # the gateway is in other processes, with loops of their own
]


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Command:
    """`tenfold gateway run FILE`, and what it says: into a file, because a successor goes on to write there."""

    def __init__(self, child, path, out):
        self.child, self.path, self._out = child, path, out
        self.port = None

    @property
    def said(self):
        return self._out.read_text()

    async def says(self, text):
        async with asyncio.timeout(WITHIN):
            while text not in self.said:
                assert self.child.returncode is None, self.said
                await asyncio.sleep(0.02)

    def signal(self, number):
        self.child.send_signal(number)

    async def end(self):
        return await asyncio.wait_for(self.child.wait(), WITHIN)

    @property
    def workers(self):
        return children(self.child.pid)


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def inheritors(environment):
    """All processes with the mark of this test."""
    mark = f"{MARK}={environment[MARK]}".encode()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def alive(pids):
    return [each for each in pids if Path(f"/proc/{each}").exists()]


@pytest.fixture
async def command(tmp_path, marked):
    """Start it with the text of a configuration; all that came of it has ended after the test."""
    environment, living = marked
    started = []

    async def start(text, *, before=(), pass_fds=()):
        path, out = tmp_path / "gateway.toml", tmp_path / "out"
        path.write_text(text)
        tenfold = [sys.executable, "-m", "tenfold", "gateway", "run", str(path)]
        with out.open("wb") as to:
            child = await asyncio.create_subprocess_exec(
                *before, *tenfold, cwd=tmp_path,
                env={**environment, "PYTHONPATH": SRC}, stdout=to, stderr=to, pass_fds=pass_fds,
            )  # fmt: skip
        running = Command(child, path, out)
        started.append(running)
        await running.says("gateway on")
        running.port = int(re.search(r"127\.0\.0\.1:(\d+)", running.said)[1])
        return running

    yield start
    for each in started:
        if each.child.returncode is None:
            each.child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(each.child.wait(), 5)
        if each.child.returncode is None:
            each.child.kill()
        await each.child.wait()
    for pid in inheritors(environment):  # successors, which are nobody's children
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(10):
            while living():  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.02)
    finally:
        for each in started:
            each.child._transport.close()


class Load:
    """Clients that ask one request after another: half on a connection that is kept, half on a fresh one each."""

    def __init__(self, wire, port, count=12):
        self.wire, self.port, self.count = wire, port, count
        self.answers, self.refused, self.broken, self.wrong = 0, 0, 0, []

    async def __aenter__(self):
        self.going = True
        self.tasks = [asyncio.create_task(self._client(n % 2 == 0, n)) for n in range(self.count)]
        return self

    async def __aexit__(self, *_):
        self.going = False
        await asyncio.wait_for(asyncio.gather(*self.tasks), WITHIN)

    async def _client(self, keep, number):
        raw = self.wire.post(b"body") if number % 3 else self.wire.get()
        writer = None
        while self.going:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.01)
                continue
            try:
                writer.write(raw)
                got = await self.wire.read(reader)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                writer.close()
                writer = None
                continue
            self.answers += 1
            if got.status != 200:
                self.wrong.append((got.status, got.body))
            if not keep or got.get("connection") == "close":
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    async def more(self, count):
        """Until so many more requests have been answered."""
        seen = self.answers
        async with asyncio.timeout(WITHIN):
            while self.answers < seen + count:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.005)

    @property
    def failed(self):
        return self.refused, self.broken, self.wrong


TWO = 'processes = 2\ndrain_timeout = "5s"'


async def test_reloads_replaced_backends_a_killed_worker_and_a_hot_restart_under_load(wire, command):
    async with wire.Backend() as one, wire.Backend() as two, wire.Backend() as three:
        run = await command(wire.toml(one.url, gateway=TWO))
        assert len(run.workers) == 2
        async with Load(wire, run.port) as load:
            await load.more(300)
            texts = [
                wire.toml(one.url, two.url, gateway=TWO),
                wire.toml(two.url, gateway=TWO, pool='pick = "round_robin"'),
                wire.toml(two.url, three.url, gateway=TWO, route='deadline = "5s"'),
                wire.toml(three.url, gateway=TWO, route="retries = 2"),
                wire.toml(one.url, three.url, gateway=TWO),
            ]
            for number, text in enumerate(texts):
                run.path.write_text(text)
                run.signal(signal.SIGHUP)
                async with asyncio.timeout(WITHIN):
                    while run.said.count("pool app: endpoint") + run.said.count("pool app: pick") <= number:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await load.more(150)
            assert load.failed == (0, 0, [])

            victim = run.workers[0]
            os.kill(victim, signal.SIGKILL)
            await run.says("serves again")
            await load.more(300)
            assert load.refused == 0
            assert load.broken <= load.count  # its own connections, once each
            assert load.wrong == []
            assert len(run.workers) == 2
            assert victim not in run.workers

            broken = load.broken
            run.signal(signal.SIGUSR2)
            await run.says("has taken over")
            await load.more(300)
            assert await run.end() == 0
            await load.more(300)
            assert (load.refused, load.broken, load.wrong) == (0, broken, [])
        assert load.answers > 1500
        assert min(len(each.seen) for each in (one, two, three)) > 30


async def test_one_process_hands_over_too_and_a_successor_that_fails_changes_nothing(wire, command):
    async with wire.Backend() as backend:
        run = await command(wire.toml(backend.url, gateway='drain_timeout = "5s"'))
        assert run.workers == []
        async with Load(wire, run.port) as load:
            good = run.path.read_text()
            run.path.write_text(good + "[[route]]\nnonsense = 1\n")
            run.signal(signal.SIGUSR2)
            await run.says("hot restart failed, this gateway goes on")
            await load.more(100)
            assert run.child.returncode is None
            run.path.write_text(wire.toml(backend.url, gateway=TWO))  # which needs a restart
            run.signal(signal.SIGUSR2)
            assert await run.end() == 0
            await load.more(200)
        assert load.failed == (0, 0, [])


async def test_a_terminated_gateway_drains_all_and_leaves_nothing(wire, command, tmp_path, marked):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /slow"):
            await go.wait()
        writer.write(wire.OK)

    path = tmp_path / "gateway.sock"
    async with wire.Backend(answer) as backend:
        run = await command(
            wire.toml(backend.url, gateway=TWO).replace('"127.0.0.1:0"', f'["127.0.0.1:0", "unix:{path}"]')
        )
        workers = run.workers
        tcp = await asyncio.open_connection("127.0.0.1", run.port)
        unix = await asyncio.open_unix_connection(str(path))
        for _, writer in (tcp, unix):
            writer.write(wire.get("/slow"))
        async with asyncio.timeout(WITHIN):
            while len(backend.seen) < 2:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        run.signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", run.port)
                except ConnectionRefusedError:
                    break
                writer.close()
                await asyncio.sleep(0.01)
        go.set()
        for reader, writer in (tcp, unix):
            assert (await asyncio.wait_for(wire.read(reader), WITHIN)).status == 200
            writer.close()
        assert await run.end() == 0
        assert not path.exists()
        assert alive(workers) == []
        assert marked[1]() == []


async def test_workers_that_cannot_start_are_told_with_what_they_said(wire, command, tmp_path):
    missing = tmp_path / "nowhere" / "access.log"
    async with wire.Backend() as backend:
        with pytest.raises(AssertionError, match=r"worker [01] did not start.*nowhere"):
            await command(wire.toml(backend.url, gateway=f'{TWO}\naccess_log = "{missing}"'))


async def test_a_wrong_file_changes_nothing_in_any_worker_and_all_end_with_their_supervisor(wire, command, tmp_path):
    async with wire.Backend() as one, wire.Backend(wire.OK.replace(b"ok", b"no")) as two:
        run = await command(wire.toml(one.url, gateway=TWO))

        async def bodies():
            found = set()
            for _ in range(16):  # both workers, all but surely
                reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
                writer.write(wire.get())
                found.add((await wire.read(reader)).body)
                writer.close()
            return found

        missing = tmp_path / "nowhere" / "access.log"
        run.path.write_text(wire.toml(two.url, gateway=f'{TWO}\naccess_log = "{missing}"'))
        run.signal(signal.SIGHUP)
        await run.says("cannot write the access log")  # in the workers alone can it be seen
        assert await bodies() == {b"ok"}
        run.path.write_text(wire.toml(two.url, gateway=TWO.replace("2", "3", 1)))
        run.signal(signal.SIGHUP)
        await run.says("gateway.processes: 2 -> 3")
        assert await bodies() == {b"ok"}
        run.path.write_text(wire.toml(two.url, gateway=TWO))
        run.signal(signal.SIGHUP)
        await run.says("endpoint")
        assert await bodies() == {b"no"}

        workers = run.workers
        run.child.kill()
        await run.child.wait()
        async with asyncio.timeout(WITHIN):
            while alive(workers):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)


@pytest.mark.slow  # for the sake of `make test`; what one process does of it is tested in `test_gateway_log_life`
async def test_the_log_of_all_is_whole_lines_and_begins_anew_at_sigusr1(wire, command, tmp_path):
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with wire.Backend() as backend:
        run = await command(wire.toml(backend.url, gateway=TWO))
        run.path.write_text(wire.toml(backend.url, gateway=f'{TWO}\naccess_log = "{log}"'))
        run.signal(signal.SIGHUP)
        await run.says("access_log")
        async with Load(wire, run.port) as load:
            await load.more(400)
            log.rename(old)
            run.signal(signal.SIGUSR1)
            async with asyncio.timeout(WITHIN):
                while not (log.exists() and log.stat().st_size):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
            await load.more(100)
        run.signal(signal.SIGTERM)
        assert await run.end() == 0
        lines = [json.loads(line) for path in (old, log) for line in path.read_text().splitlines()]
        assert len(lines) == load.answers
        assert {each["status"] for each in lines} == {200}


async def test_sockets_come_from_a_service_manager(wire, command):
    """As systemd does it: descriptor 3, for the process that is started."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = made.getsockname()[1]

        async with wire.Backend() as backend:
            text = wire.toml(backend.url).replace("127.0.0.1:0", f"127.0.0.1:{port}")
            run = await command(
                text, before=(sys.executable, "-c", AS_SYSTEMD, str(made.fileno())), pass_fds=(made.fileno(),)
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.get())
            assert (await wire.read(reader)).status == 200
            writer.close()
            assert run.port == port


async def test_all_workers_are_asked_as_one_and_a_dead_ones_clients_are_served_by_the_others(wire, monkeypatch):
    died, again, loops = asyncio.Event(), asyncio.Event(), asyncio.Queue()
    hub = Hub()
    hub.subscribe(WorkerDied, lambda event: died.set())
    hub.subscribe(WorkerStarted, lambda event: event.lives > 1 and again.set())
    hub.subscribe(WorkerCrashLoop, loops.put_nowait)
    async with wire.Backend() as backend:
        config = read_config(wire.toml(backend.url, gateway=TWO), environ={})
        sockets = Sockets(config.gateway.listen, 2)
        try:
            async with Supervisor(config, sockets, hub=hub) as supervisor:
                workers = supervisor.workers
                assert workers.count == 2

                async def ask():
                    reader, writer = await asyncio.open_connection("127.0.0.1", supervisor.addresses[0].port)
                    writer.write(wire.get())
                    got = await asyncio.wait_for(wire.read(reader), WITHIN)
                    writer.close()
                    return got.status

                assert [await ask() for _ in range(24)] == [200] * 24
                states = await workers.call_all("state", {}, timeout=5)
                requests = [each["counters"]["requests"] for each in states]
                assert sum(requests) == 24
                assert min(requests) > 0
                with pytest.raises(MisuseError, match="nonsense"):
                    await workers.call_all("nonsense", {}, timeout=5)
                with pytest.raises(GatewayConfigError):
                    await workers.call_all("reload", {"toml": "[gateway]\nlisten = 7"}, timeout=5)
                other = wire.toml(backend.url, gateway=TWO, route='deadline = "5s"')
                (told,) = await workers.call_all("reload", {"toml": other}, timeout=5)
                assert told == {"changes": ["route all: deadline: none -> 5.0"]}
                assert supervisor.config.routes[0].deadline == 5.0

                os.kill(supervisor.living[1].pid, signal.SIGKILL)
                await asyncio.wait_for(died.wait(), WITHIN)
                assert not again.is_set()
                assert [await ask() for _ in range(12)] == [200] * 12
                assert [each.number for each in supervisor.living] == [0]
                assert len(await workers.call_all("state", {}, timeout=5)) == 1
                await asyncio.wait_for(again.wait(), WITHIN)
                states = await workers.call_all("state", {}, timeout=5)
                assert [each["counters"]["reloads"] for each in states] == [1, 0]  # it began with what is in force
                assert [each["lives"] for each in supervisor.state()["workers"]] == [1, 2]

                with monkeypatch.context() as patch:
                    patch.setattr(child, "_command", lambda line: ["/bin/sh", "-c", "echo boom >&2; exit 3"])
                    os.kill(supervisor.living[0].pid, signal.SIGKILL)
                    loop = await asyncio.wait_for(loops.get(), WITHIN)
                assert (loop.number, loop.code, loop.words) == (0, 3, "boom")
                assert [await ask() for _ in range(12)] == [200] * 12

                asked = asyncio.Event()
                supervisor.asked_to_drain = asked.set
                await workers.call_all("drain", {}, timeout=5)
                assert asked.is_set()
                assert await supervisor.drain() is True
                assert workers.count == 0
        finally:
            sockets.close()
