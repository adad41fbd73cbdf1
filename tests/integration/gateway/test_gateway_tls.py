"""TLS on real sockets, on both loops: to clients by name and to endpoints, what goes wrong there, and how it ends."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import contextlib
import datetime
import socket
import ssl

import pytest
import trustme

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS
from tenfold.gateway.config import read_config
from tenfold.gateway.engine import Gateway
from tenfold.gateway.engine.certificates import CertificatesRejected, CertificatesReloaded

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(ca, tmp_path_factory):
    """PEM files by name: of the authority, and of a certificate and key each for these names."""
    at = tmp_path_factory.mktemp("tls")
    ca.cert_pem.write_to_path(at / "ca.pem")
    for name, hosts in {"shop": ["shop.example", "127.0.0.1"], "wild": ["*.wild.example"], "ip": ["127.0.0.1"]}.items():
        write(ca.issue_cert(*hosts), at, name)
    return at


def write(cert, at, name):
    for part, suffix in ((cert.private_key_pem, "key"), (cert.cert_chain_pems[0], "pem")):
        part.write_to_path(str(at / f"{name}.{suffix}"))


def pair(folder, name, names=""):
    extra = f", names = [{names}]" if names else ""
    return f'{{ certificate = "{folder}/{name}.pem", key = "{folder}/{name}.key"{extra} }}'


def client_context(ca, *, alpn=("http/1.1",)):
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.set_alpn_protocols(list(alpn))
    return context


def server_context(cert, ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    if ca is not None:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Secure:
    """A client by TLS whose ends can be told apart, which asyncio's transports do not do."""

    def __init__(self, ca, reader, writer, name, context=None):
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or client_context(ca)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    @classmethod
    async def connect(cls, ca, run, name="shop.example", before=b"", context=None):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)  # so that who does not read is noticed soon
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", run.gateway.addresses[0].port))
        reader, writer = await asyncio.open_connection(sock=made)
        run._peers.append(SimplePeer(writer))
        made = cls(ca, reader, writer, name, context)
        writer.write(before)
        await made._do(made.tls.do_handshake)
        return made

    async def _do(self, work, *args):
        while True:
            try:
                return work(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = await asyncio.wait_for(self.reader.read(65536), 10)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self.flush()

    def flush(self):
        if data := self.outgoing.read():
            self.writer.write(data)

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def half_close(self):
        """Say that no more comes, by a close_notify and a FIN."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()
        self.writer.write_eof()

    async def read_some(self):
        try:
            return await self._do(self.tls.read, 65536)
        except ssl.SSLZeroReturnError:  # both have said their end
            return b""

    async def rest(self):
        """All until the gateway's close_notify; raises `ssl.SSLEOFError` where there is none."""
        found = b""
        while data := await self.read_some():
            found += data
        return found

    async def ask(self, raw):
        """An answer with a Content-Length, as status, head and body."""
        self.send(raw)
        return await self.answer()

    async def answer(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self.read_some()
        head, _, data = data.partition(b"\r\n\r\n")
        body = bytearray(data)
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < size:
            body += await self.read_some()
        return int(head.split(b" ")[1]), head, bytes(body)


class SimplePeer:
    def __init__(self, writer):
        self.writer = writer

    def abort(self):
        self.writer.transport.abort()


def names_of(peer):
    return [name for kind, name in peer.tls.getpeercert()["subjectAltName"] if kind == "DNS"]


async def test_clients_are_shown_the_certificate_of_the_name_they_ask_for(wire, ca, folder):
    tls = f"tls = [{pair(folder, 'shop')}, {pair(folder, 'wild')}]"
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=tls)) as run:
        for name, shown in {"shop.example": ["shop.example"], "a.wild.example": ["*.wild.example"]}.items():
            peer = await Secure.connect(ca, run, name)
            assert names_of(peer) == shown
            assert peer.tls.selected_alpn_protocol() == "http/1.1"
            assert (await peer.ask(wire.get()))[0] == 200
            assert (await peer.ask(wire.post(b"again")))[0] == 200
        assert names_of(await Secure.connect(ca, run, "127.0.0.1")) == ["shop.example"]  # sends no name: the first
        context = client_context(ca, alpn=("h2",))
        context.check_hostname = False
        peer = await Secure.connect(ca, run, "b.a.wild.example", context=context)  # a wildcard is one label
        assert names_of(peer) == ["shop.example"]
        assert peer.tls.selected_alpn_protocol() is None
        assert backend.seen[0].get("x-forwarded-proto") == "https"
        assert "proto=https" in backend.seen[0].get("forwarded")
        assert backend.seen[0].get("x-forwarded-for") == "127.0.0.1"
        await run.until(lambda: run.counters["handshakes"] == 4)
        assert run.counters["handshakes_failed"] == 0


async def test_the_edge_keeps_what_came_by_tls_apart(wire, ca, folder, tmp_path):
    async def answer(request, writer, reader):
        body = request.get("x-forwarded-proto").encode()
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    path = tmp_path / "s"
    more = f"tls = {pair(folder, 'shop')}"
    async with wire.Backend(answer) as backend:
        text = wire.toml(backend.url, gateway=more, route="edge = true")
        text = text.replace('listen = "127.0.0.1:0"', f'listen = ["127.0.0.1:0", "unix:{path}"]')
        async with wire.running(text) as run:
            peer = await Secure.connect(ca, run)
            assert (await peer.ask(wire.get()))[2] == (await peer.ask(wire.get()))[2] == b"https"
            reader, writer = await asyncio.open_unix_connection(path)  # unix sockets speak plain HTTP
            writer.write(wire.get())
            assert (await wire.read(reader)).body == b"http"
            writer.close()
            assert len(backend.seen) == 2


@pytest.mark.parametrize(("least", "version"), [("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)])
async def test_big_bodies_go_both_ways_and_wait_for_who_is_slow(wire, ca, folder, least, version):
    body = bytes(range(256)) * (2 * MIB // 256)

    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5 * len(request.body)))
        writer.write(request.body * 5)
        await writer.drain()

    gateway = f'tls = {pair(folder, "shop")}\ntls_least = "{least}"'
    context = client_context(ca)
    context.maximum_version = version
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        peer = await Secure.connect(ca, run, context=context)
        assert peer.tls.version() == f"TLSv{least}"
        peer.send(wire.get("/", f"Content-Length: {len(body)}", method="POST"))
        for at in range(0, len(body), 65536):
            peer.send(body[at : at + 65536])
            await peer.writer.drain()
        await run.until(lambda: any(client.full for client in run.gateway._site.clients))  # it is not read yet
        assert (await peer.answer())[2] == body * 5
        await run.at_rest()


async def test_an_older_version_is_refused(wire, ca, folder):
    gateway = f'tls = {pair(folder, "shop")}\ntls_least = "1.3"'
    context = client_context(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await Secure.connect(ca, run, context=context)
        await run.until(lambda: run.counters["handshakes_failed"] == 1)


async def test_a_half_close_is_no_abort_and_the_end_is_said(wire, ca, folder):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        return False

    gateway = f"tls = {pair(folder, 'shop')}"
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        peer = await Secure.connect(ca, run)
        peer.send(wire.get())
        peer.half_close()
        await backend.arrived.wait()
        await run.until(lambda: any(client.eof for client in run.gateway._site.clients))
        go.set()
        reading = await peer._do(peer.tls.read, 10)
        assert reading.startswith(b"HTTP/1.1 2")
        rest = await peer.rest()
        assert rest.endswith(b"until the end\r\n0\r\n\r\n")
        await run.until(lambda: not run.gateway._site.clients)


async def test_who_is_still_sending_when_refused_gets_the_answer(wire, ca, folder):
    gateway = f'tls = {pair(folder, "shop")}\nbody_max = "1KiB"'
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        peer = await Secure.connect(ca, run)
        peer.send(wire.get("/", "Content-Length: 300000", method="POST"))
        await run.until(lambda: run.counters["answered_4xx"] == 1)
        for _ in range(10):
            peer.send(b"x" * 30000)
        await peer.writer.drain()
        assert (await peer.answer())[0] == 413
        assert await peer.rest() == b""  # a close_notify, and not a cable that was cut
        peer.writer.close()
        await run.until(lambda: not run.gateway._site.clients)


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\x02\xff\xff", b"\x00" * 64, b"SSH-2.0-x\r\n", b""])
async def test_what_is_no_handshake_is_counted_and_leaves_nothing(wire, folder, caplog, noise):
    gateway = f"tls = {pair(folder, 'shop')}"
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            peer = await run.connect()
            peer.send(noise)
            peer.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await peer.rest()
            peer.close()
        await run.until(lambda: run.counters["handshakes_failed"] == 20)
        assert not run.gateway._site.arrivals
        assert not run.gateway._site.clients
        await run.until(lambda: len(asyncio.all_tasks()) == tasks)
    assert caplog.records == []


async def test_plain_http_on_a_port_of_tls_is_told_so(wire, folder):
    gateway = f"tls = {pair(folder, 'shop')}"
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        got = await run.ask(wire.get())
        assert (got.status, got.get("connection")) == (400, "close")
        assert b'"plain_http"' in got.body
        assert run.counters["handshakes_failed"] == 1


async def test_a_slow_handshake_ends_and_counts_as_a_client_until_then(wire, ca, folder):
    gateway = f'tls = {pair(folder, "shop")}\ntls_timeout = "300ms"\nconnections = 1'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        slow = await run.connect()
        slow.send(b"\x16\x03\x01")
        await run.until(lambda: run.gateway._site.arrivals)
        waiting = asyncio.create_task(Secure.connect(ca, run))
        with contextlib.suppress(ConnectionError):
            assert await slow.rest() == b""
        assert run.counters["handshakes_failed"] == 1
        assert (await (await waiting).ask(wire.get()))[0] == 200


async def test_leaving_the_block_leaves_no_connection_in_its_handshake(wire, folder):
    gateway = f"tls = {pair(folder, 'shop')}"
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        peer = await run.connect()
        await run.until(lambda: run.gateway._site.arrivals)
        assert await run.gateway.drain("200ms") is True
        with contextlib.suppress(ConnectionError):
            assert await peer.rest() == b""
        await run.until(lambda: not run.gateway._site.arrivals)


async def test_certificates_are_read_anew_and_bad_ones_change_nothing(wire, ca, tmp_path, caplog):
    write(ca.issue_cert("shop.example", "old.example"), tmp_path, "a")
    told = []
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url, gateway=f"tls = {pair(tmp_path, 'a')}")) as run:
            with (
                EVENTS.subscribe(CertificatesReloaded, told.append),
                EVENTS.subscribe(CertificatesRejected, told.append),
            ):
                ring = run.gateway._site.keyring
                kept = await Secure.connect(ca, run)
                assert names_of(kept) == ["shop.example", "old.example"]
                await asyncio.to_thread((tmp_path / "a.pem").write_text, "nonsense")
                await ring.renew()
                assert "a.pem" in told[0].problem
                assert run.counters["certificates_rejected"] == 1
                other = wire.toml(backend.url, gateway=f"tls = {pair(tmp_path, 'a')}", route="body_max = 9")
                await run.gateway.reload(read_config(other, environ={}))  # other changes are made all the same
                assert names_of(await Secure.connect(ca, run)) == ["shop.example", "old.example"]
                write(ca.issue_cert("shop.example", "new.example"), tmp_path, "a")
                await run.until(lambda: run.counters["certificates_reloaded"] == 1)  # seen by the watch itself
                assert told[1:] == [CertificatesReloaded(("shop.example", "new.example"))]
                assert names_of(await Secure.connect(ca, run)) == ["shop.example", "new.example"]
                assert (await kept.ask(wire.get()))[0] == 200
    assert len(caplog.records) == 1


async def test_a_reload_puts_other_certificates_into_force_or_is_refused(wire, ca, folder):
    text = wire.toml("http://127.0.0.1:9", gateway=f"tls = {pair(folder, 'shop')}", route="body_max = 1")
    async with wire.running(text) as run:
        with pytest.raises(MisuseError, match=r"gateway\.tls: expected files that can be read"):
            await run.gateway.reload(read_config(text.replace("shop.pem", "none.pem"), environ={}))
        with pytest.raises(MisuseError, match=r"the key .* is not that of"):
            await run.gateway.reload(read_config(text.replace("shop.pem", "wild.pem"), environ={}))
        assert names_of(await Secure.connect(ca, run)) == ["shop.example"]
        await run.gateway.reload(read_config(text.replace("shop.", "wild."), environ={}))
        assert names_of(await Secure.connect(ca, run, "a.wild.example")) == ["*.wild.example"]
        await run.gateway.reload(read_config(wire.toml("http://127.0.0.1:9"), environ={}))
        assert (await run.ask(wire.get())).status == 502


async def test_a_certificate_that_cannot_be_read_is_told_before_anything_starts(wire, folder):
    text = wire.toml("http://127.0.0.1:9", gateway=f"tls = {pair(folder, 'none')}")
    with pytest.raises(MisuseError, match=r"gateway\.tls: expected files"):
        async with Gateway(read_config(text, environ={})):
            pass
    text = wire.toml("https://127.0.0.1:9", pool=f'tls = {{ ca = "{folder}/none.pem" }}')
    with pytest.raises(MisuseError, match="pool app tls: expected a file that can be read"):
        async with Gateway(read_config(text, environ={})):
            pass


# -- to endpoints ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def secure_backend(wire, context, answer=None):
    """A backend that speaks TLS."""
    backend = wire.Backend(answer or wire.OK)
    backend.server = await asyncio.start_server(backend._serve, "127.0.0.1", 0, ssl=context)
    backend.port = backend.server.sockets[0].getsockname()[1]
    backend.url = f"https://127.0.0.1:{backend.port}"
    try:
        yield backend
    finally:
        await backend.__aexit__()


async def test_endpoints_are_spoken_to_by_tls_and_connections_kept(wire, ca, folder):
    context = server_context(ca.issue_cert("127.0.0.1"))
    names = []
    context.sni_callback = lambda made, name, _: names.append(name)
    async with secure_backend(wire, context) as backend:
        pool = (
            f'tls = {{ ca = "{folder}/ca.pem" }}\npreserve_host = false\ncheck = {{ path = "/ok", interval = "50ms" }}'
        )
        async with wire.running(wire.toml(backend.url, pool=pool)) as run:
            peer = await run.connect()
            for raw in (wire.get(), wire.post(b"x" * 100_000), wire.get()):
                assert (await peer.ask(raw)).status == 200
            await run.until(lambda: any(b"/ok" in each.start for each in backend.seen))  # the check trusts it too
            asked = [each for each in backend.seen if b"/ok" not in each.start]
            assert asked[0].get("host") == f"127.0.0.1:{backend.port}"
            assert asked[0].get("x-forwarded-proto") == "http"
            assert asked[1].body == b"x" * 100_000
            assert run.counters["connects"] == 1
            assert set(names) == {None}  # an address is no server name


async def test_the_name_and_the_certificate_of_the_pool_are_shown(wire, ca, folder):
    context = server_context(ca.issue_cert("app.internal"), ca)
    names = []
    context.sni_callback = lambda made, name, _: names.append(name)
    async with secure_backend(wire, context) as backend:
        mutual = f'certificate = "{folder}/shop.pem", key = "{folder}/shop.key"'
        pool = f'tls = {{ ca = "{folder}/ca.pem", name = "app.internal", {mutual} }}'
        async with wire.running(wire.toml(backend.url, pool=pool)) as run:
            assert (await run.ask(wire.get())).status == 200
            assert names == ["app.internal"]
        none = f'tls = {{ ca = "{folder}/ca.pem", name = "app.internal" }}'
        async with wire.running(wire.toml(backend.url, pool=none)) as run:
            assert (await run.ask(wire.get())).status == 502  # shows none, and is refused


async def test_endpoints_of_https_that_discovery_finds_are_served(wire, ca, folder, tmp_path):
    async with secure_backend(wire, server_context(ca.issue_cert("127.0.0.1"))) as backend:
        found = tmp_path / "found.json"
        found.write_text(f'{{"endpoints": ["{backend.url}"]}}')
        text = wire.toml("http://x", pool=f'discovery = {{ file = "{found}" }}\ntls = {{ ca = "{folder}/ca.pem" }}')
        async with wire.running(text.replace('endpoints = ["http://x"]\n', "")) as run:
            assert (await run.ask(wire.get())).status == 200


CASES = ["expired", "name", "self", "authority", "plain", "off"]


@pytest.mark.parametrize("case", CASES)
async def test_why_a_handshake_with_an_endpoint_failed_is_told(wire, ca, folder, tmp_path, case):
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    pool = f'tls = {{ ca = "{folder}/ca.pem" }}'
    cert, reason, words = ca.issue_cert("127.0.0.1"), "", ""
    if case == "expired":
        cert, reason, words = ca.issue_cert("127.0.0.1", not_after=past), "tls_certificate_expired", "has expired"
    elif case == "name":
        cert, reason, words = ca.issue_cert("other.example"), "tls_wrong_name", "is for another"
    elif case == "self":
        pool, reason, words = "tls = true", "tls_self_signed", "signed by itself"
    elif case == "authority":
        cert, reason, words = trustme.CA().issue_cert("127.0.0.1"), "tls_unknown_authority", "not trusted"
    elif case == "off":
        cert, pool = trustme.CA().issue_cert("other.example"), "tls = { verify = false }"
    context = None if case == "plain" else server_context(cert)
    if case == "self":
        ca.private_key_pem.write_to_path(tmp_path / "ca.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.pem", tmp_path / "ca.key")
    if case == "plain":
        reason, words = "tls_handshake", "no TLS"

    async def answer(request, writer, reader):
        writer.write(wire.OK)

    async with secure_backend(wire, context, answer) as backend:
        async with wire.running(wire.toml(backend.url, pool=pool)) as run:
            if case == "plain":
                backend.server.close()
                backend.server = await asyncio.start_server(_talker, "127.0.0.1", backend.port)
            got = await run.ask(wire.post(b"once"))
            if case == "off":
                assert got.status == 200
                return
            assert (got.status, got.get("content-type")) == (502, "application/problem+json")
            assert reason.encode() in got.body
            assert words.encode() in got.body
            assert run.counters["connects_failed"] == 1
            assert backend.seen == []
            await run.at_rest()


async def _talker(reader, writer):
    writer.write(b"220 mail.example ready\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read(-1)
    writer.close()


async def test_a_handshake_that_fails_is_safe_to_retry_elsewhere(wire, ca, folder):
    bad = server_context(trustme.CA().issue_cert("127.0.0.1"))
    async with (
        secure_backend(wire, bad) as one,
        secure_backend(wire, server_context(ca.issue_cert("127.0.0.1"))) as two,
    ):
        pool = f'tls = {{ ca = "{folder}/ca.pem" }}\npick = "round_robin"'
        async with wire.running(wire.toml(one.url, two.url, pool=pool, route="retries = 2")) as run:
            for _ in range(4):
                assert (await run.ask(wire.post(b"once"))).status == 200
            assert run.counters["failovers"] >= 1
            assert len(two.seen) == 4


async def test_a_handshake_that_stalls_meets_the_connect_timeout(wire, folder):
    async def silent(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with wire.running(wire.toml(url, pool='connect_timeout = "200ms"')) as run:
            got = await run.ask(wire.get())
            assert got.status == 504
            assert b"connect_timeout" in got.body
            assert run.gateway.state()["counters"]["upstreams"] == 0


@pytest.mark.parametrize("end", ["said", "cut"])
async def test_an_answer_until_the_end_is_whole_only_if_the_end_is_said(wire, ca, folder, end):
    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npart of it")
        await writer.drain()
        if end == "cut":
            await asyncio.sleep(0.05)
            writer.transport.abort()
        return False

    async with secure_backend(wire, server_context(ca.issue_cert("127.0.0.1")), answer) as backend:
        pool = f'tls = {{ ca = "{folder}/ca.pem" }}'
        async with wire.running(wire.toml(backend.url, pool=pool)) as run:
            peer = await run.connect()
            if end == "said":
                assert (await peer.ask(wire.get())).body == b"part of it"
            else:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await peer.ask(wire.get())
            assert run.counters["cut"] == (end == "cut")


async def test_a_tunnel_goes_through_tls_on_both_sides(wire, ca, folder):
    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        return False

    gateway = f"tls = {pair(folder, 'shop')}"
    pool = f'tls = {{ ca = "{folder}/ca.pem" }}'
    async with secure_backend(wire, server_context(ca.issue_cert("127.0.0.1")), answer) as backend:
        async with wire.running(wire.toml(backend.url, gateway=gateway, pool=pool)) as run:
            peer = await Secure.connect(ca, run)
            peer.send(wire.get("/", "Connection: Upgrade", "Upgrade: websocket"))
            assert b" 101 " in await peer.read_some()
            peer.send(b"echo")
            assert await peer.read_some() == b"echo"
            peer.half_close()
            assert await peer.rest() == b""
            await run.at_rest()
