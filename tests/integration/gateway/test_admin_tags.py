"""An app in a process of its own invalidates a tag of its cache; the edge of a gateway in another process forgets."""

import asyncio
import contextlib
import re
import sys
import time
from pathlib import Path

import pytest

from tenfold.gateway.config import GatewayConfigError, read_config
from tenfold.servers import Valkey
from tenfold.testing import FaultProxy

SRC = str(Path(__file__).parents[3] / "src")
WITHIN = 1.0
"""Seconds that an invalidation may take to the edge."""

APP = """
import asyncio, sys
from tenfold.cache import Cache

served = 0

async def serve(reader, writer):
    global served
    try:
        while True:
            path = (await reader.readuntil(b"\\r\\n\\r\\n")).split()[1].decode().strip("/")
            served += 1
            tag = f"Surrogate-Key: {path} catalog\\r\\n" if path != "untagged" else ""
            body = f"{path} {served}"
            head = f"HTTP/1.1 200 OK\\r\\nCache-Control: max-age=600\\r\\n{tag}Content-Length: {len(body)}\\r\\n\\r\\n"
            writer.write((head + body).encode())
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with Cache("shop", redis=sys.argv[1], timeout="2s") as cache:
        print(server.sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        while tag := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            print(await cache.invalidate_tags(tag), flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def process(environment, *args):
    child = await asyncio.create_subprocess_exec(
        sys.executable, *args, env={**environment, "PYTHONPATH": SRC},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(child.stdout.readline(), 20)).decode()
        yield child, int(re.search(r"(\d+)(?=[;\s]|$)", line.partition("127.0.0.1:")[2] or line)[1])
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        child._transport.close()


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the gateway is in a process of its own
async def test_a_tag_that_an_app_invalidates_is_purged_within_a_second(wire, tmp_path, marked):
    environment, living = marked
    async with (
        Valkey() as valkey,
        FaultProxy(valkey.url) as proxy,
        process(environment, "-c", APP, valkey.url) as (app, backend),
    ):
        path = tmp_path / "gateway.toml"
        edge = f'[edge]\ninvalidate_from = "{proxy.url}"\ncache = "shop"\n'
        path.write_text(wire.toml(f"http://127.0.0.1:{backend}", route="edge = true", more=edge))
        async with process(environment, "-m", "tenfold", "gateway", "run", str(path)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def body(name):
                writer.write(wire.get(f"/{name}"))
                return (await asyncio.wait_for(wire.read(reader), 10)).body.decode()

            async def invalidate(tag):
                app.stdin.write(f"{tag}\n".encode())
                assert (await asyncio.wait_for(app.stdout.readline(), 10)).strip() == b"True"
                return time.monotonic()

            async def gone(name, was, began, within):
                while await body(name) == was:
                    assert time.monotonic() - began < within, f"{name} was still served after {within} s"
                    await asyncio.sleep(0.005)

            names = ("product:1", "product:2", "untagged")
            one, two, none = [await body(name) for name in names]
            assert [await body(name) for name in names] == [one, two, none]
            await gone("product:1", one, await invalidate("product:1"), WITHIN)
            assert (await body("product:2"), await body("untagged")) == (two, none)
            one = await body("product:1")
            assert await body("product:1") == one  # stored again
            began = await invalidate("catalog")
            await gone("product:1", one, began, WITHIN)
            await gone("product:2", two, began, WITHIN)
            assert await body("untagged") == none

            # The connection is cut, and what is invalidated meanwhile is lost: all that has a tag goes when it is back.
            one, two = await body("product:1"), await body("product:2")
            proxy.refuse()
            proxy.close_connections()
            await invalidate("product:1")
            proxy.accept()
            proxy.heal()
            began = time.monotonic()
            await gone("product:1", one, began, 5.0)
            await gone("product:2", two, began, 5.0)
            assert await body("untagged") == none
            one = await body("product:1")  # and it hears again
            await gone("product:1", one, await invalidate("product:1"), WITHIN)
            writer.close()
    assert living() == []


@pytest.mark.parametrize("line", ['invalidate_from = "http://x"', 'cache = "a b"', "invalidate_from = 5"])
def test_what_makes_no_sense(wire, line):
    with pytest.raises(GatewayConfigError):
        read_config(wire.toml("http://127.0.0.1:9", route="edge = true", more=f"[edge]\n{line}\n"), environ={})


def test_haproxy_cannot_and_the_password_is_nowhere(wire):
    more = '[edge]\ninvalidate_from = "redis://user:sesame@127.0.0.1:6379/0"\n'
    text = wire.toml("http://127.0.0.1:9", route="edge = true", more=more)
    config = read_config(text, environ={})
    assert "sesame" not in f"{config!r} {config.edge!r} {config.document()} {config.routes}"
    with pytest.raises(GatewayConfigError, match="invalidate_from: the engine haproxy has no such setting"):
        read_config(text, environ={}, engine="haproxy")
