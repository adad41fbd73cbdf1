"""Life of a gateway: reloads under load, draining, limits on connections, the log."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import read_config
from tenfold.gateway.engine import Gateway

SRC = str(Path(__file__).parents[3] / "src")


class Load:
    """Clients that ask one request after another until told to stop; what fails is kept."""

    def __init__(self, wire, run, count=8):
        self.wire, self.run, self.count = wire, run, count
        self.answers, self.failures = [], []

    async def __aenter__(self):
        self.going = True
        self.tasks = [asyncio.create_task(self._client(n)) for n in range(self.count)]
        return self

    async def __aexit__(self, *_):
        self.going = False
        await asyncio.gather(*self.tasks)

    async def _client(self, number):
        peer = None
        while self.going:
            if peer is None:
                peer = await self.run.connect()
            raw = self.wire.post(b"body") if number % 2 else self.wire.get()
            try:
                got = await peer.ask(raw)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
                peer = None
                continue
            self.answers.append(got.body)
            if got.status != 200:
                self.failures.append((got.status, got.body))
            if got.get("connection") == "close":
                peer.close()
                peer = None


async def test_five_reloads_under_load_lose_no_request(wire):
    async def answer(request, writer, reader):
        await asyncio.sleep(0.002)
        writer.write(wire.OK)

    async with wire.Backend(answer) as one, wire.Backend(answer) as two:
        texts = [
            wire.toml(two.url),
            wire.toml(one.url, two.url, pool='pick = "round_robin"'),
            wire.toml(one.url, pool="max_in_flight = 100", route='deadline = "5s"'),
            wire.toml(two.url, route="edge = true", more='[[route]]\npath = "/x"\nrespond = 204'),
            wire.toml(one.url, two.url, pool='check = true\nidle = "1s"', route="retries = 2"),
        ]
        async with wire.running(wire.toml(one.url)) as run:
            async with Load(wire, run) as load:
                for text in texts:
                    seen = len(load.answers)
                    await run.until(lambda seen=seen: len(load.answers) > seen + 30)
                    assert await run.gateway.reload(read_config(text, environ={}))
                await run.until(lambda: len(load.answers) > 300)
            assert load.failures == []
            assert run.counters["reloads"] == 5
            assert min(len(one.seen), len(two.seen)) > 30
            await run.at_rest()
            await run.until(lambda: not run.gateway._site.retired)


async def test_replacing_all_backends_loses_no_request(wire):
    async with wire.Backend() as first, wire.running(wire.toml(first.url)) as run:
        async with Load(wire, run) as load:
            old = first
            backends = []
            for _ in range(4):
                new = await wire.Backend().__aenter__()
                backends.append(new)
                await run.gateway.reload(read_config(wire.toml(old.url, new.url), environ={}))
                await run.gateway.reload(read_config(wire.toml(new.url), environ={}))
                seen = len(load.answers)
                await run.until(lambda seen=seen: len(load.answers) > seen + 30)
                await run.until(lambda old=old: not old.open)  # the gateway lets go of it by itself
                if old is not first:
                    await old.__aexit__()
                old = new
            seen = len(load.answers)
            await run.until(lambda: len(load.answers) > seen + 20)
        assert load.failures == []
        await old.__aexit__()


async def test_a_reload_that_cannot_be_changes_nothing(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        other = wire.toml(backend.url).replace("127.0.0.1:0", "127.0.0.1:1")
        with pytest.raises(MisuseError, match="listen"):
            await run.gateway.reload(read_config(other, environ={}))
        assert (await run.ask(wire.get())).status == 200


async def test_draining_ends_what_is_under_way_and_takes_no_more(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /slow"):
            await go.wait()
        writer.write(wire.OK)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        slow, idle, late = [await run.connect() for _ in range(3)]
        slow.send(wire.get("/slow"))
        await idle.ask(wire.get())
        await backend.arrived.wait()
        draining = asyncio.create_task(run.gateway.drain("5s"))
        await run.until(lambda: run.gateway.state()["draining"])
        got = await late.ask(wire.get())  # its request was on the way
        assert (got.status, got.get("connection")) == (200, "close")
        with pytest.raises(ConnectionError):
            await run.connect()
        assert await idle.rest() == b""
        go.set()
        got = await slow.answer()
        assert (got.status, got.get("connection")) == (200, "close")
        assert await draining is True


async def test_draining_has_a_deadline(wire):
    async def answer(request, writer, reader):
        await asyncio.sleep(60)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        peer.send(wire.get())
        await backend.arrived.wait()
        assert await run.gateway.drain("100ms") is False
        await run.at_rest()


async def test_further_clients_wait_to_be_accepted(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway="connections = 2")) as run:
        first, second = [await run.connect() for _ in range(2)]
        assert (await first.ask(wire.get())).status == (await second.ask(wire.get())).status == 200
        third = await run.connect()
        third.send(wire.get())
        assert (await first.ask(wire.get())).status == 200
        assert run.gateway.state()["clients"] == 2
        second.abort()
        assert (await third.answer()).status == 200


@pytest.mark.parametrize("cfg", [{"engine": "haproxy"}, {}])
def test_what_this_engine_does_not_do_is_refused_before_it_starts(wire, cfg):
    config = read_config(wire.toml("http://127.0.0.1:9"), environ={}, **cfg)
    if not cfg:
        config = type(config)(
            gateway=type(config.gateway)(listen=config.gateway.listen, processes=4),
            pools=config.pools,
            routes=config.routes,
        )
    with pytest.raises(MisuseError, match="embedded"):
        Gateway(config)


async def test_the_access_log_has_a_line_of_json_for_each_request(wire, tmp_path):
    path = tmp_path / "access.log"
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url, gateway=f'access_log = "{path}"')) as run:
            await run.ask(wire.get("/a?b=c", "User-Agent: me"))
            await run.ask(b"nonsense\r\n\r\n")
            await run.until(lambda: path.read_bytes().count(b"\n") == 2)
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["method"], first["target"], first["status"], first["route"]) == ("GET", "/a?b=c", 200, "all")
    assert (first["agent"], first["tries"], first["endpoint"] != "") == ("me", 1, True)
    assert first["request_id"] == backend.seen[0].get("x-request-id")
    assert (second["status"], second["fault"]) == (400, "request_line")


@pytest.fixture
async def process(tmp_path, marked):
    """`tenfold gateway FILE` in a process of its own: start it, and it is stopped at the end."""
    environment, _ = marked
    started = []

    async def start(text):
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenfold", "gateway", "run", str(path),
            env={**environment, "PYTHONPATH": SRC}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(child)
        line = (await asyncio.wait_for(child.stdout.readline(), 20)).decode()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line + (await child.stderr.read()).decode()
        return child, int(found[1]), path

    yield start
    for child in started:
        if child.returncode is None:
            child.kill()
        await child.wait()
        child._transport.close()


async def test_the_command_serves_reloads_and_drains(wire, process):
    async with wire.Backend() as one, wire.Backend(wire.OK.replace(b"ok", b"no")) as two:
        child, port, path = await process(wire.toml(one.url))

        async def body():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.get())
            found = (await wire.read(reader)).body
            writer.close()
            return found

        assert await body() == b"ok"
        path.write_text(wire.toml(two.url))
        child.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await body() != b"no":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        path.write_text("[gateway]\nlisten = 7\n")
        child.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while b"listen" not in (await child.stderr.readline()):
                pass
        assert await body() == b"no"
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 10) == 0
        with pytest.raises(ConnectionError):
            await body()


async def test_an_endpoint_that_must_be_spoken_to_in_tls_is_never_spoken_to_without(wire, tmp_path):
    async with wire.Backend() as backend:
        found = tmp_path / "endpoints.toml"
        found.write_text(f'endpoints = ["https://127.0.0.1:{backend.port}"]\n')
        text = wire.toml(backend.url, pool='connect_timeout = "200ms"')
        text = text.replace(f'endpoints = ["{backend.url}"]', f'discovery = {{ file = "{found}" }}')
        async with wire.running(text) as run:
            assert (await run.ask(wire.get())).status == 504
        assert backend.seen == []
        assert all(each[:1] in (b"", b"\x16") for each in backend.bytes)  # a handshake, and no request
