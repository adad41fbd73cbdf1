"""The commands that talk to a running gateway, against one; and a gateway that is run, reloaded and drained by them."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cli import _gateway_admin as cli
from tenfold.cli._gateway_client import AdminUnreachable, client_of
from tenfold.cli.gateway import app

SRC = str(Path(__file__).parents[3] / "src")
TOKEN = "a-token-for-the-tests"
ADMIN = f'[admin]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'


async def test_the_commands(wire, capsys):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\nSurrogate-Key: t\r\n\r\nok"
    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, route="edge = true", more=ADMIN)) as run:
            where = {"url": f"http://{run.gateway.admin}", "token": TOKEN}

            async def command(function, *args, **options):
                code = await asyncio.to_thread(function, *args, **options, **where)
                return code, capsys.readouterr().out

            assert (await run.ask(wire.get("/a"))).status == 200
            code, out = await command(cli.status)
            assert code == 0
            assert re.search(rf"app +\S+ +ready +yes +1 +0 +1 +0 +{backend.url}", out), out
            (id,) = json.loads((await command(cli.status, json=True))[1])["pools"]["app"]["endpoints"]
            id = id["id"]
            assert (await command(cli.purge, tag=("t",)))[1] == "purged 1 responses\n"
            assert (await command(cli.purge, "http://shop.example/a", "/b", json=True))[1] == '{"purged": 0}\n'
            assert (await command(cli.purge, all=True))[0] is None
            code, out = await command(cli.endpoint, "app", id, weight="3", state="drain", wait="5s")
            assert code == 0
            assert re.search(r"drain +no +3 +0", out), out
            assert (await command(cli.status))[0] == 1  # nobody is left in that pool
            assert "declared" not in (await command(cli.endpoint, "app", id, weight="declared", state="ready"))[1]
            out = (await command(cli.explain, "http://shop.example/x", header=("X-User: 7",)))[1]
            assert "route all" in out
            assert id in out
            for function, args, options in (
                (cli.purge, (), {}),
                (cli.purge, ("/",), {"all": True}),
                (cli.endpoint, ("app", "nobody"), {}),
                (cli.endpoint, ("app", id), {"weight": "much"}),
                (cli.explain, ("/",), {"header": ("X",)}),
            ):
                with pytest.raises(MisuseError):
                    await command(function, *args, **options)
            where["token"] += "x"
            with pytest.raises(MisuseError, match="401"):
                await command(cli.status)
        with pytest.raises(AdminUnreachable):
            await command(cli.status)


def test_where_the_address_and_the_token_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MisuseError, match=r"no gateway\.toml"):
        client_of(None, None, None)
    file = tmp_path / "gateway.toml"
    text = f'[gateway]\nlisten = "127.0.0.1:8080"\n[[route]]\nrespond = 204\n[admin]\ntoken = "{TOKEN}"\n'
    file.write_text(text)
    assert client_of(None, None, None).url == "http://127.0.0.1:8081"
    assert client_of(file, "http://[::1]:9", None).url == "http://[::1]:9"
    file.write_text(text + 'listen = "0.0.0.0:9"\npublic = true\n')
    assert client_of(file, None, None).url == "http://127.0.0.1:9"
    file.write_text(text + 'listen = "127.0.0.1:0"\n')
    with pytest.raises(MisuseError, match="port 0"):
        client_of(file, None, None)
    file.write_text(text.partition("[admin]")[0])
    with pytest.raises(MisuseError, match=r"\[admin\]"):
        client_of(file, None, None)


def test_a_file_that_is_broken_elsewhere_still_says_where_the_gateway_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    path = tmp_path / "gateway.toml"
    text = '[gateway]\nlisten = "nowhere"\n[admin]\nlisten = "127.0.0.1:8099"\ntoken = "${ADMIN_TOKEN}"\n'
    path.write_text(text)
    client = client_of(path, None, None)
    assert (client.url, client._token) == ("http://127.0.0.1:8099", TOKEN)
    for broken in (text.replace("8099", "port"), "[admin\n", 'admin = "x"\n[gateway]\nlisten = "nowhere"\n'):
        path.write_text(broken)
        with pytest.raises(MisuseError, match=re.escape(str(path))):
            client_of(path, None, None)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the gateway is in a process of its own
async def test_a_gateway_is_run_reloaded_and_drained(wire, tmp_path, marked):
    environment, living = marked
    socket = tmp_path / "admin.sock"
    path = tmp_path / "gateway.toml"
    admin = f'[admin]\nlisten = "unix:{socket}"\ntoken = "{TOKEN}"\n'
    async with wire.Backend() as backend:
        path.write_text(wire.toml(backend.url, more=admin))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenfold", "gateway", "run", str(path),
            env={**environment, "PYTHONPATH": SRC}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            line = (await asyncio.wait_for(child.stdout.readline(), 20)).decode()
            assert f"admin on unix:{socket}" in line
            assert socket.stat().st_mode & 0o077 == 0
            client = client_of(path, None, None)
            port = int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])
            words = (sys.executable, "-m", "tenfold", "gateway", "status", "--config", str(path), "--json")
            shown = await asyncio.create_subprocess_exec(
                *words, env={**environment, "PYTHONPATH": SRC}, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(shown.communicate(), 20)
            assert (shown.returncode, list(json.loads(out)["pools"])) == (0, ["app"])
            path.write_text(wire.toml(backend.url, more=admin + '[[route]]\nname = "n"\npath = "/n"\nrespond = 204'))
            told = await asyncio.to_thread(client.ask, "POST", "/v1/reload")
            assert told["changes"] in (["route n: added"], [])  # the watch may have been faster
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.get("/n"))
            assert (await wire.read(reader)).status == 204
            writer.close()
            assert (await asyncio.to_thread(client.ask, "POST", "/v1/drain")) == {"draining": True}
            assert await asyncio.wait_for(child.wait(), 20) == 0, await child.stderr.read()
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGKILL)
                await child.wait()
            child._transport.close()
    assert living() == []
    assert not socket.exists()


@pytest.mark.parametrize(
    ("words", "name", "found"),
    [
        (["purge", "/a", "/b", "--tag", "x", "--tag", "y"], "purge", {"address": ("/a", "/b"), "tag": ("x", "y")}),
        (["purge", "--all"], "purge", {"all": True}),
        (["endpoint", "app", "a", "--weight", "2", "--state", "drain"], "endpoint", {"id": "a", "state": "drain"}),
        (["explain", "/", "--header", "A: b", "--method", "POST"], "explain", {"header": ("A: b",), "method": "POST"}),
        (["drain", "--url", "http://h:1", "--token", "t"], "drain", {"url": "http://h:1", "token": "t"}),
    ],
)
def test_the_command_line_is_read_as_it_is_meant(words, name, found):
    command, bound, _ = app.parse_args(words)
    assert command is getattr(cli, name)
    assert bound.arguments.items() >= found.items()
