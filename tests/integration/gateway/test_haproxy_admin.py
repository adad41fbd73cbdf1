"""The admin API over an HAProxy that is driven, and the command that drives one, as a process."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.admin.names import METRICS, PREFIX
from tenfold.gateway.config import ConfigFile
from tenfold.gateway.haproxy.home import Home, sweep

SRC = str(Path(__file__).parents[3] / "src")
TOKEN = "a-token-for-the-tests"
ADMIN = f'[admin]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'
ENGINE = '[engine]\nname = "haproxy"\nreconcile = "50ms"\n'


async def http(wire, address, method, path, body=None, token=TOKEN):
    """What the admin API answers: status, and JSON or text."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    answer = await asyncio.wait_for(wire.read(reader), 8)
    writer.transport.abort()
    text = answer.body.decode()
    return answer.status, json.loads(text) if "json" in (answer.get("content-type") or "") else text


def changed(text):
    return text.replace('name = "all"', 'name = "every"')


async def test_the_admin_api_of_haproxy(wire, haproxy, tmp_path):
    answer = wire.OK.replace(b"\r\n\r\n", b"\r\nCache-Control: max-age=60\r\n\r\n")
    async with wire.Backend(answer) as backend, wire.Backend(answer) as second:
        urls = f'[{{ id = "a", url = "{backend.url}" }}, {{ id = "b", url = "{second.url}" }}]'
        more = 'path = "/x"\n[[route]]\nname = "kept"\npool = "app"\npath = "/kept"\nedge = { ttl = "1m" }\n'
        text = wire.toml(pool='pick = "round_robin"', route=more).replace("endpoints = []", f"endpoints = {urls}")
        path = tmp_path / "site.toml"
        path.write_text(text + ENGINE + ADMIN)
        async with haproxy(path.read_text(), ConfigFile(path)) as run:
            admin = run.gateway.admin

            async def api(method, path, body=None):
                return await http(wire, admin, method, path if path == "/metrics" else f"/v1{path}", body)

            assert (await http(wire, admin, "GET", "/v1/state", token="another-token-of-no-use"))[0] == 401
            await run.call("events")  # what comes from now on is kept
            for _ in range(4):
                assert (await run.ask(wire.get("/x"))).status == 200
            for _ in range(3):
                assert (await run.ask(wire.get("/kept"))).status == 200
            status, state = await api("GET", "/state")
            assert status == 200
            told = {each["id"]: each for each in state["pools"]["app"]["endpoints"]}
            assert sum(each["requests"] for each in told.values()) == 5
            assert (told["a"]["url"], told["a"]["ready"], told["a"]["declared_weight"]) == (backend.url, True, 1)

            status, told = await api("PATCH", "/pools/app/endpoints/a", {"state": "drain"})
            assert status == 200, told
            before = len(backend.seen)
            for _ in range(4):
                await run.ask(wire.get("/x"))
            assert len(backend.seen) == before
            status, told = await api("PATCH", "/pools/app/endpoints/a", {"state": "ready", "weight": 5})
            assert status == 200, told
            assert (await run.endpoint("a"))["state"] == "ready"
            status, told = await api("POST", "/purge", {"all": True})
            assert status in (400, 409, 422), told
            assert "the engine haproxy has no purge" in json.dumps(told)

            status, exposed = await api("GET", "/metrics")
            assert status == 200
            checked = shutil.which("promtool")
            if checked:
                process = await asyncio.create_subprocess_exec(
                    checked, "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                out, _ = await process.communicate(exposed.encode())
                assert (process.returncode, out) == (0, b"")
            lines = [line for line in exposed.splitlines() if not line.startswith("#")]
            values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
            families = {name.partition("{")[0].removeprefix(PREFIX) for name in values}
            assert families <= {each.name for each in METRICS}
            assert {"requests_total", "endpoint_up", "endpoint_connections", "in_flight", "reloads_total"} <= families
            assert values[f"{PREFIX}edge_hits_total"] == 2
            assert values[f"{PREFIX}edge_misses_total"] == 1
            assert values[f'{PREFIX}endpoint_up{{pool="app",endpoint="a"}}'] == 1
            assert values[f'{PREFIX}responses_total{{pool="app",code="2xx"}}'] == 9  # without those of the cache

            path.write_text(path.read_text().replace('name = "all"', 'name = "every"'))
            status, told = await api("POST", "/reload", {})
            assert (status, told["changes"]) == (200, ["route every: added", "route all: removed"])
            status, told = await api("GET", "/config")
            assert '"every"' in json.dumps(told)
            os.kill(run.gateway.pid, signal.SIGKILL)

            async def restarted():
                return (run.gateway.state())["counters"]["restarts"] == 1

            await run.until(restarted)
            await run.keeper.process.command("set server pool.app/b state maint")

            async def corrected():
                return {each["type"] for each in (await run.call("events"))["events"]}

            async def told_all():
                return {"HAProxyReloaded", "HAProxyRestarted", "HAProxyCorrected"} <= await corrected()

            await run.until(told_all)
            assert (await run.ask(wire.get("/x"))).status == 200
            with pytest.raises(MisuseError, match="got nonsense"):
                await run.call("state", nonsense=1)


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary ones, where nothing else is; its path is short, as those of sockets must be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)
    monkeypatch.undo()


async def test_the_command_reloads_refuses_to_open_the_log_again_and_leaves_nothing_that_stays(
    wire, haproxy, tmp_path, temporary
):
    async with wire.Backend() as backend:
        log = tmp_path / "log"
        path = tmp_path / "site.toml"
        text = wire.toml(backend.url, gateway=f'access_log = "{log}"') + ADMIN
        path.write_text(text)
        command = [sys.executable, "-m", "tenfold", "gateway", "run", "--engine", "haproxy", str(path)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SRC}
        )

        async def line(stream):
            return (await asyncio.wait_for(stream.readline(), 10)).decode()

        first = await line(process.stdout)
        assert first, (await process.communicate())[1].decode()
        port = int(first.partition(" on 127.0.0.1:")[2].partition(";")[0])
        (folder,) = temporary.iterdir()
        assert sweep() == []  # it has an owner

        async def ask():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.get())
            answer = await asyncio.wait_for(wire.read(reader), 5)
            writer.transport.abort()
            return answer.status

        assert await ask() == 200
        path.write_text(changed(text))
        process.send_signal(signal.SIGHUP)
        assert [await line(process.stderr) for _ in range(2)] == [
            "tenfold: route every: added\n", "tenfold: route all: removed\n"
        ]  # fmt: skip
        process.send_signal(signal.SIGUSR1)
        assert "copytruncate" in await line(process.stderr)
        assert await ask() == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no request\r\n\r\n")
        assert (await asyncio.wait_for(wire.read(reader), 5)).status == 400
        writer.transport.abort()
        lines = [json.loads(each) for each in log.read_text().splitlines()]  # and no message of HAProxy's own
        assert [(each["route"], each["status"]) for each in lines] == [("all", 200), ("every", 200), ("-", 400)]
        process.kill()
        await process.wait()
        assert folder.exists()
        made = await asyncio.to_thread(Home, None)
        try:
            assert [str(each) for each in temporary.iterdir()] == [made.directory]
        finally:
            made.remove()
        assert list(temporary.iterdir()) == []
        async with asyncio.timeout(8):  # HAProxy does not outlive whoever drives it
            while True:
                try:
                    await ask()
                except (OSError, asyncio.IncompleteReadError):
                    break


def test_a_folder_of_one_s_own_is_nobody_else_s(tmp_path):
    first = Home(str(tmp_path / "here"))
    with pytest.raises(MisuseError, match="another's"):
        Home(str(tmp_path / "here"))
    first.remove()
    assert list((tmp_path / "here").iterdir()) == []
    Home(str(tmp_path / "here")).remove()
