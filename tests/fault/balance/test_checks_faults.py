"""Checks of real servers over a network that fails on command."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from tenfold.balance.checker import Checker
from tenfold.balance.checks import HttpCheck, TcpCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.health import Health
from tenfold.testing import FaultProxy, free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTenfold-Load: 0.7\r\n\r\nok"


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens outside of this process's control
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(answer=OK, *, tls=None, path=None, keep=False):
    """A server that gives the same bytes to every request; its address and what it was asked."""
    asked = []
    open_now = {}

    async def handle(reader, writer):
        open_now[writer] = asyncio.current_task()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
                if keep:
                    await reader.read()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            del open_now[writer]

    if path is not None:
        server = await asyncio.start_unix_server(handle, path)
        where = f"unix:{path}"
    else:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        where = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield where, asked, open_now
    finally:
        server.close()
        for task in open_now.values():
            task.cancel()
        await until(lambda: not open_now)


def at(url):
    return Endpoint("a", url)


async def ask(url, path="/health", **options):
    return await HttpCheck(path, timeout="2s", **options).probe(at(url))


async def test_asks_by_a_get_and_reads_status_and_load():
    async with serving() as (url, asked, _):
        verdict = await ask(url)
    assert verdict.ok
    assert verdict.why.startswith("HTTP 200 in ")
    assert verdict.load == 0.7
    host = url.removeprefix("http://").encode()
    assert asked[0].startswith(b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n")
    assert b"\r\nConnection: close\r\n" in asked[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nTenfold-Load: 1\r\n\r\n", "HTTP 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"\x16\x03\x01 garbage \r\n\r\n", "not an HTTP answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/2 200\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not an HTTP header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "after 5 of 9 bytes of the body"),
        (b"HTTP/1.1 200 OK\r\nConte", "the connection ended after 22 bytes of an answer"),
        (b"", "the connection ended before any answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "no end of the headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "interim answers"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched protocols"),
    ],
)
async def test_every_bad_answer_is_a_no_with_a_sentence(answer, why):
    async with serving(answer) as (url, _, _):
        verdict = await ask(url)
    assert not verdict.ok
    assert why in verdict.why


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        b"HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
    ],
)
async def test_answers_that_are_unusual_but_good(answer):
    async with serving(answer) as (url, _, _):
        assert (await ask(url)).ok


async def test_a_server_that_keeps_the_connection_open_is_not_waited_for():
    async with serving(keep=True) as (url, _, open_now):
        assert (await ask(url)).ok
        await until(lambda: not open_now)  # the check has closed its end, so the server sees it


async def test_expected_statuses_host_and_no_load():
    async with serving(b"HTTP/1.1 503 Busy\r\nTenfold-Load: much\r\n\r\n") as (url, asked, _):
        verdict = await ask(url, expect={503}, host="shop.example:8080")
        assert (verdict.ok, verdict.load) == (True, None)
        assert b"\r\nHost: shop.example:8080\r\n" in asked[0]


async def test_a_unix_socket(tmp_path):
    async with serving(path=str(tmp_path / "s")) as (url, asked, _):
        assert (await TcpCheck().probe(at(url))).ok
        assert (await ask(url)).ok
        assert b"\r\nHost: localhost\r\n" in asked[0]
    assert not (await ask(f"unix:{tmp_path}/none")).ok


async def test_nobody_listens():
    port = free_port()
    for check in (HttpCheck("/"), TcpCheck()):
        verdict = await check.probe(at(f"http://127.0.0.1:{port}"))
        assert not verdict.ok
        assert "ConnectionRefusedError" in verdict.why
    verdict = await TcpCheck().probe(at("tcp://127.0.0.1"))
    assert (verdict.ok, "names no host and port" in verdict.why) == (False, True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=shop", "-addext", "subjectAltName=DNS:shop.example,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return cert, key


async def test_tls_is_verified_against_the_right_name(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    async with serving(tls=context) as (url, _, _):
        assert (await ask(url, tls=trusting)).ok
        assert (await ask(url, tls=trusting, host="shop.example:443")).ok
        assert (await TcpCheck(tls=trusting).probe(at(url))).ok
        wrong_name = await ask(url, tls=trusting, host="other.example")
        unknown = await ask(url)
    assert "SSLCertVerificationError" in wrong_name.why
    assert "SSLCertVerificationError" in unknown.why
    async with serving(b"plain") as (url, _, _):
        silent = HttpCheck("/", tls=trusting, timeout="200ms")
        assert not (await silent.probe(at(url.replace("http:", "https:")))).ok


async def test_frozen_cut_slow_and_corrupted():
    async with serving() as (url, _, _), FaultProxy(url) as proxy:
        check = HttpCheck("/health", timeout="250ms")
        assert (await check.probe(at(proxy.url))).ok

        proxy.freeze()
        verdict = await check.probe(at(proxy.url))
        assert (verdict.ok, verdict.why) == (False, "no answer within 250 ms")
        assert (await TcpCheck().probe(at(proxy.url))).ok  # what a TCP check cannot see
        proxy.heal()
        assert (await check.probe(at(proxy.url))).ok

        proxy.cut_after(20, direction="downstream")
        assert not (await check.probe(at(proxy.url))).ok
        proxy.heal()

        proxy.throttle(20, direction="downstream")
        assert not (await check.probe(at(proxy.url))).ok
        proxy.heal()

        proxy.corrupt(1.0, direction="downstream")
        assert not (await check.probe(at(proxy.url))).ok
        proxy.heal()

        proxy.refuse()
        assert "ConnectionRefusedError" in (await check.probe(at(proxy.url))).why
        proxy.heal()
        assert (await check.probe(at(proxy.url))).ok


async def test_cancelled_in_the_middle_leaves_no_connection():
    async with serving() as (url, _, _), FaultProxy(url) as proxy:
        proxy.freeze()
        verdicts = []
        checker = Checker(
            HttpCheck("/", interval="10ms", timeout="10s"),
            lambda *verdict: verdicts.append(verdict),
            random=lambda: 0.0,
        )
        for number in range(20):
            checker.watch(Endpoint(f"e{number}", proxy.url))
        await until(lambda: proxy.stats().active == 20)
        await checker.aclose()
        assert verdicts == []
        proxy.thaw()
        await until(lambda: proxy.stats().active == 0)


async def test_a_server_that_freezes_goes_down_and_comes_back():
    async with serving() as (url, _, _), FaultProxy(url) as proxy:
        check = HttpCheck("/", interval="30ms", timeout="300ms", rise=2, fall=2, backoff="60ms")
        health = Health(check.rise, check.fall, check.initial)
        changed = asyncio.Queue()

        def seen(id, verdict, now):
            if health.observe(verdict.ok, now):
                changed.put_nowait((health.up, verdict.why))

        checker = Checker(check, seen)
        checker.watch(at(proxy.url))
        async with asyncio.timeout(30):
            proxy.freeze()
            assert await changed.get() == (False, "no answer within 300 ms")
            proxy.heal()
            up, why = await changed.get()
        assert up
        assert why.startswith("HTTP 200")
        await checker.aclose()
