"""What clients of an HAProxy that is driven can do: WebSocket, HTTP/2; whom it believes; what its logs say of them."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest
import trustme

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, with the answer to it


async def test_websocket_and_several_trusted_hops(wire, haproxy):
    async def echo(request, writer, reader):
        if request.get("upgrade") != "websocket":
            writer.write(wire.OK)
            return True
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        digest = hashlib.sha1((request.get("sec-websocket-key") + GUID).encode()).digest()
        writer.write(b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        return False

    async with wire.Backend(echo) as backend:
        gateway = 'trusted = ["127.0.0.0/8", "10.0.0.0/8"]\ntrusted_hops = 3\ntunnel_timeout = "5s"\n'
        gateway += 'idle_timeout = "300ms"\nbody_timeout = "300ms"\nwrite_timeout = "300ms"'
        route = 'rate_limit = { rate = "1/m", burst = 1 }\nlimit_by = "client"'
        text = wire.toml(backend.url, gateway=gateway, route=route)
        async with haproxy(text) as run:
            reader, writer = await run.connect()
            upgrade = ("Connection: Upgrade", "Upgrade: websocket", KEY, "Sec-WebSocket-Version: 13")
            writer.write(wire.get("/", *upgrade))
            answer = await asyncio.wait_for(wire.read(reader), 5)
            assert (answer.status, answer.get("sec-websocket-accept")) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            blob = bytes(range(256)) * 256
            for wait in (0, 0.5):  # longer than a request may be silent
                await asyncio.sleep(wait)
                writer.write(blob)
                assert await asyncio.wait_for(reader.readexactly(len(blob)), 5) == blob
            writer.transport.abort()

            # The client is behind as many trusted hops as there are, and never behind one that is not.
            several = ("203.0.113.1", "203.0.113.1, 10.0.0.1", "9.9.9.9, 203.0.113.1, 10.0.0.2, 10.0.0.1",
                       "203.0.113.2, 10.0.0.1", "203.0.113.1, 198.51.100.7")  # fmt: skip
            found = [(await run.ask(wire.get("/", f"X-Forwarded-For: {hops}"))).status for hops in several]
            assert found == [200, 429, 429, 200, 200]


@pytest.fixture
def curl():
    """A curl that speaks HTTP/2."""
    found = shutil.which("curl")
    if found is None or "HTTP2" not in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("there is no curl that speaks HTTP/2")
    return found


async def test_http2_requests_are_carried(wire, haproxy, curl, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("shop.example")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    tls = f'tls = {{ certificate = "{tmp_path}/own.pem", key = "{tmp_path}/own.key" }}\nhttp2 = true\n'

    async def upper(request, writer, reader):
        body = request.body.upper() or b"none"
        writer.write(b"HTTP/1.1 200 OK\r\nX-Own: yes\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with wire.Backend(upper) as backend:
        async with haproxy(wire.toml(backend.url, gateway=tls)) as run:
            port = run.gateway.addresses[0].port
            shared = [curl, "-sS", "--http2", "--cacert", f"{tmp_path}/ca.pem", "--max-time", "5", "-w",
                      "\n%{http_version} %{http_code}\n", "--resolve", f"shop.example:{port}:127.0.0.1"]  # fmt: skip
            urls = [f"https://shop.example:{port}/{name}" for name in ("a", "b")]
            for options, said in (
                (urls, "none\n2 200\n" * 2),
                (["-d", "x" * 40_000, urls[0]], "X" * 40_000 + "\n2 200\n"),
            ):
                process = await asyncio.create_subprocess_exec(
                    *shared, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
                out, error = await process.communicate()
                assert (process.returncode, out.decode()) == (0, said), error
        assert [each.start for each in backend.seen] == [
            b"GET /a HTTP/1.1", b"GET /b HTTP/1.1", b"POST /a HTTP/1.1"
        ]  # fmt: skip
        seen = backend.seen[-1]
        assert (seen.get("host"), seen.get("x-forwarded-proto")) == (f"shop.example:{port}", "https")


async def test_logs_in_text_and_of_a_share_of_the_requests(wire, haproxy, tmp_path):
    async def answers(request, writer, reader):
        bad = b" /bad" in request.start
        writer.write(b"HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n" if bad else wire.OK)

    async with wire.Backend(answers) as backend:
        text = f'access_log = {{ path = "{tmp_path}/text", format = "text" }}'
        async with haproxy(wire.toml(backend.url, gateway=text)) as run:
            await run.ask(wire.get("/a?b=1", 'User-Agent: "me"', "Referer: http://x/"))
        (line,) = (tmp_path / "text").read_text().splitlines()
        pattern = r'127\.0\.0\.1 - - \[.+\] "GET /a\?b=1 HTTP/1\.1" 200 \d+ "http://x/" ".*me.*"'
        assert re.fullmatch(pattern, line), line
        sampled = f'access_log = {{ path = "{tmp_path}/some", sample = 0.25 }}'
        async with haproxy(wire.toml(backend.url, gateway=sampled)) as run:
            reader, writer = await run.connect()
            for number in range(400):
                writer.write(wire.get("/bad" if number % 10 == 0 else "/good"))
                await wire.read(reader)
            writer.transport.abort()
        lines = [json.loads(line) for line in (tmp_path / "some").read_text().splitlines()]
        assert sum(line["status"] == 500 for line in lines) == 40
        assert 50 < sum(line["status"] == 200 for line in lines) < 130  # 90, and ±4.9 standard deviations
