"""The reference of the admin API: every curl in it is run, and its table of metrics is the one of the code."""

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tenfold.gateway.admin import metrics_table

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "gateway-admin.md"
TOKEN = "a-token-for-the-tests"


def test_the_table_is_what_the_code_says():
    """It is `metrics_table()`; put it there after a change."""
    assert metrics_table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_every_curl_of_the_page_works(wire, tmp_path):
    commands = re.findall(r"^curl .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) > 12
    text = f"""
[gateway]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
token = "{TOKEN}"
[[pool]]
name = "app"
endpoints = [{{ id = "a", url = "http://127.0.0.1:9" }}, {{ id = "b", url = "http://127.0.0.1:10" }}]
[[route]]
pool = "app"
edge = true
"""
    (tmp_path / "gateway.toml").write_text(text)
    async with wire.running(text) as run:
        for command in commands:
            streams = " -N " in command
            line = command.replace("127.0.0.1:8081", str(run.gateway.admin))
            line = line.replace("curl ", "curl -sS --fail-with-body " + ("-m 0.3 " if streams else ""), 1)
            done = await asyncio.to_thread(
                subprocess.run, ["sh", "-c", line], cwd=tmp_path, env={**os.environ, "TOKEN": TOKEN, "no_proxy": "*"},
                capture_output=True, text=True, timeout=20,
            )  # fmt: skip
            if command.endswith("/v1/reload") and "-X POST" in command:
                assert "from no file" in done.stdout
                continue
            assert done.returncode in ((28,) if streams else (0,)), command + done.stdout + done.stderr
            assert "event: snapshot" in done.stdout if streams else done.stdout, command
        assert run.gateway.state()["draining"]
