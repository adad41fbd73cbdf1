"""The access log while the gateway runs: another one by a reload, the file anew, and lines that fit a pipe."""

import json
import os

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import read_config


def said(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_reload_begins_changes_and_ends_the_log(wire, tmp_path):
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:

        async def log(path):
            text = wire.toml(backend.url, gateway=f'access_log = "{path}"' if path else "")
            await run.gateway.reload(read_config(text, environ={}))

        peer = await run.connect()
        await peer.ask(wire.get("/0"))
        await log(one)
        await peer.ask(wire.get("/1"))
        with pytest.raises(MisuseError, match="cannot write the access log"):
            await log(tmp_path / "nowhere" / "log")
        await peer.ask(wire.get("/2"))
        await log(two)  # what is gathered is written before the old one is closed
        assert [each["target"] for each in said(one)] == ["/1", "/2"]
        await peer.ask(wire.get("/3"))
        await log(None)
        await peer.ask(wire.get("/4"))
        assert [each["target"] for each in said(two)] == ["/3"]
        assert run.gateway.state()["log"] is None


async def test_the_file_begins_anew_after_it_was_moved_away(wire, tmp_path):
    path, old = tmp_path / "log", tmp_path / "log.1"
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url, gateway=f'access_log = "{path}"')) as run:
            await run.ask(wire.get("/1"))
            await run.until(lambda: path.stat().st_size)
            path.rename(old)
            run.gateway.reopen_log()
            await run.until(path.exists)  # without a request, too
            await run.ask(wire.get("/2"))
        assert ([each["target"] for each in said(old)], [each["target"] for each in said(path)]) == (["/1"], ["/2"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("format", ["json", "text"])
async def test_no_line_is_longer_than_what_a_pipe_takes_as_a_whole(wire, tmp_path, format):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = f'access_log = {{ path = "{path}", format = "{format}" }}'
        async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=log)) as run:
            target = "/" + "a" * 6000
            await run.ask(wire.get(target, 'User-Agent: "' + '\\"' * 3000, "Referer: http://here/" + "b" * 6000))
            await run.until(lambda: run.gateway.state()["log"]["written"] == 1)
            line = os.read(reading, 65536)
        assert 500 < len(line) <= 4096
        assert line.endswith(b"\n")
        if format == "json":
            got = json.loads(line)
            assert got["target"].endswith("a…")
            assert (got["status"], got["tries"]) == (200, 1)
    finally:
        os.close(reading)


async def test_reopening_where_there_is_no_log_or_no_folder_any_more_disturbs_nobody(wire, tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url)) as run:
            run.gateway.reopen_log()
            assert (await run.ask(wire.get())).status == 200
        async with wire.running(wire.toml(backend.url, gateway=f'access_log = "{folder / "log"}"')) as run:
            moved = folder.rename(tmp_path / "moved")
            run.gateway.reopen_log()
            assert (await run.ask(wire.get("/x"))).status == 200
            await run.until(lambda: (moved / "log").stat().st_size)
    assert "goes on in the old file" in caplog.text
