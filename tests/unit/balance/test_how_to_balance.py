"""The how-to is true: its ten lines run as a program, its other blocks as test files, against three real servers."""

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tenfold

for needed in ("httpx2", "aiohttp", "dns"):
    pytest.importorskip(needed, reason="one of the blocks shows it")

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFTEST = "import pytest\n\n\n@pytest.fixture\ndef servers():\n    return {urls!r}\n"


@pytest.fixture(scope="module")
def blocks():
    return BLOCK.findall((ROOT / "docs" / "how-to" / "balance.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ports():
    """Three servers that answer with their name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self):
            body = self.server.body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    running = []
    for number in range(3):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.body = b"server %d" % number
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
    yield [server.server_address[1] for server in running]
    for server in running:
        server.shutdown()
        server.server_close()


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def placed(program, ports):
    """The program with the addresses of the servers that run here."""
    for shown, port in zip(("9001", "9002", "9003"), ports, strict=True):
        assert shown in program
        program = program.replace(shown, str(port))
    return program


def test_ten_lines_balance_a_client_over_three_servers(blocks, ports, tmp_path):
    program = blocks[0]
    assert len([line for line in program.splitlines() if line]) == 10
    (tmp_path / "ten_lines.py").write_text(placed(program, ports), encoding="utf-8")
    answers = run(["-W", "error", "ten_lines.py"], tmp_path).split("\n")[:-1]
    assert len(answers) == 30
    assert set(answers) == {"server 0", "server 1", "server 2"}


def test_every_other_block_of_the_how_to_passes(blocks, ports, tmp_path):
    tests = 0
    for number, block in enumerate(blocks[1:]):
        tests += len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE))
        (tmp_path / f"test_block_{number}.py").write_text(block, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        CONFTEST.format(urls=[f"http://127.0.0.1:{port}" for port in ports]), encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n",
        encoding="utf-8",
    )
    assert tests >= 9
    assert f"{tests} passed" in run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "."], tmp_path)


def test_the_ten_lines_of_the_readme_are_those_of_the_how_to(blocks):
    assert blocks[0] in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
