"""The how-tos of the gateway are true: their files can be run, what they print is printed, and their Python passes."""

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tenfold
from tenfold._core.errors import MisuseError
from tenfold.cli.gateway import check
from tenfold.gateway import Gateway, GatewayConfigError, read_config
from tenfold.gateway.haproxy import HAProxyGateway, find_binary

httpx2 = pytest.importorskip("httpx2", reason="the blocks use it")
pytest.importorskip("httptools", reason="the gateway reads with it")

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("put-an-app-behind-the-gateway", "canary", "purge-by-tag", "move-to-haproxy")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = ("9001", "9002", "9003")
TOKEN = {"GATEWAY_TOKEN": "a secret of the how-to's"}


def blocks(page, kind):
    return [text for found, text in BLOCK.findall((DOCS / f"{page}.md").read_text("utf-8")) if found == kind]


def files():
    """The TOML of all pages by the name in its first line."""
    found = [text for page in PAGES for text in blocks(f"how-to/{page}", "toml")]
    return {text.partition("\n")[0].removeprefix("# "): text for text in found}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """All files of the how-tos, as they stand there."""
    for name, text in files().items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def servers():
    """Three applications that answer with their name, and with a product page that a shared cache may keep."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        wbufsize = -1  # head and body in one write, or each answer waits for a delayed acknowledgement

        def do_GET(self):
            body = self.server.body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if self.path.startswith("/products/"):
                self.send_header("Cache-Control", "public, max-age=0, s-maxage=3600")
                self.send_header("Surrogate-Key", f"product:{self.path.rpartition('/')[2]} catalog")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    running = []
    for number in range(1, 4):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.body = b"app %d" % number
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
    yield [server.server_address[1] for server in running]
    for server in running:
        server.shutdown()
        server.server_close()


def placed(text, ports):
    """The file with the ports of the servers that run here, and one of its own."""
    for shown, port in zip(SHOWN, ports, strict=True):
        text = text.replace(f":{shown}", f":{port}")
    return re.sub(r"127\.0\.0\.1:808\d", "127.0.0.1:0", text)


@pytest.mark.parametrize("name", [name for name in files() if name not in ("refused.toml", "haproxy.toml")])
def test_every_file_can_be_run(name):
    config = read_config(files()[name], name, environ=TOKEN)
    assert config.engine.name == "embedded"
    assert not config.warnings


def test_the_file_for_haproxy_is_without_a_warning():
    config = read_config(files()["haproxy.toml"], environ={})
    assert config.engine.name == "haproxy"
    assert not config.warnings


def test_what_the_check_for_haproxy_prints_is_what_the_page_shows(folder, capsys):
    shown = blocks("how-to/move-to-haproxy", "")
    assert check(Path("site.toml"), engine="haproxy") == 0
    cut = re.escape(shown[0]).replace("…", ".+")
    assert re.fullmatch(cut, capsys.readouterr().err)
    assert check(Path("refused.toml"), engine="haproxy") == 2
    assert capsys.readouterr().err == shown[1]
    assert check(Path("site.toml"), engine="embedded") == 0
    with pytest.raises(GatewayConfigError, match="circuit breaker"):
        read_config((folder / "refused.toml").read_text("utf-8"), engine="haproxy")


@pytest.mark.parametrize("name", ["site.toml", "haproxy.toml"])
async def test_the_files_of_the_move_are_served_by_haproxy(servers, name):
    try:
        find_binary()
    except MisuseError:
        pytest.skip("there is no HAProxy")
    config = read_config(placed(files()[name], servers), environ={}, engine="haproxy")
    async with HAProxyGateway(config) as gateway, httpx2.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            assert (await client.get(f"http://{gateway.addresses[0]}/")).status_code == 200


async def test_the_purges_of_the_page_are_taken(servers):
    shown = "".join(blocks("how-to/purge-by-tag", "sh"))
    asked = re.findall(r"curl -X POST http://127\.0\.0\.1:8081(\S+) .* -d '(.*)'", shown)
    assert len(asked) == 3
    async with Gateway(read_config(placed(files()["admin.toml"], servers), environ=TOKEN)) as gateway:
        headers = {"Authorization": f"Bearer {TOKEN['GATEWAY_TOKEN']}", "Host": "127.0.0.1"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            for path, body in asked:
                for _ in range(2):
                    page = await client.get(
                        f"http://{gateway.addresses[0]}/products/7", headers={"Host": "shop.example"}
                    )
                assert "hit" in page.headers["cache-status"]
                answer = await client.post(f"http://{gateway.admin}{path}", content=body, headers=headers)
                assert answer.status_code == 200
                assert answer.json()["purged"] == 1


def test_the_route_of_the_concept_page_keeps_pages():
    (route,) = blocks("concepts/edge", "toml")
    pool = '[gateway]\nlisten = "127.0.0.1:0"\n[[pool]]\nname = "app"\nendpoints = ["http://127.0.0.1:1"]\n'
    config = read_config(pool + route, environ={})
    assert config.routes[0].edge is not None


def test_every_block_of_python_passes(servers, tmp_path):
    tests = 0
    for page in PAGES:
        for number, block in enumerate(blocks(f"how-to/{page}", "python")):
            tests += len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE))
            name = f"test_{page.replace('-', '_')}_{number}.py"
            (tmp_path / name).write_text(block, "utf-8")
    for name, text in files().items():
        (tmp_path / name).write_text(placed(text, servers), "utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n",
        "utf-8",
    )
    assert tests >= 7
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
