"""The PROXY protocol on real sockets: who is believed, in any pieces, before TLS too, and who is not."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme

from tenfold.gateway.framing import Limits, RequestReader

V2 = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 5555 443\r\n"


def version_2(address="203.0.113.9", *, command=0x21, more=b""):
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    ends = socket.inet_pton(kind, address) * 2 + struct.pack("!HH", 5555, 443) + more
    return V2 + struct.pack("!BBH", command, 0x21 if ":" in address else 0x11, len(ends)) + ends


GOOD = {
    "v1": (V1, "203.0.113.9"),
    "v1 of IPv6": (b"PROXY TCP6 2001:db8::9 2001:db8::1 5555 443\r\n", "2001:db8::9"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (version_2(), "203.0.113.9"),
    "v2 of IPv6 with a TLV": (version_2("2001:db8::9", more=b"\x04\x00\x02ab"), "2001:db8::9"),
    "v2 local": (version_2(command=0x20), "127.0.0.1"),
}


async def connect(run, *pieces):
    peer = await run.connect()
    for piece in pieces:
        peer.send(piece)
        await asyncio.sleep(0)
    return peer


@pytest.mark.parametrize("name", GOOD)
async def test_who_the_header_names_is_the_client(wire, name):
    header, client = GOOD[name]
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway="proxy_protocol = true")) as run:
        peer = await connect(run, header + wire.get())  # all in one packet
        assert (await peer.answer()).status == 200
        peer = await connect(run, *(bytes([each]) for each in header + wire.get()))  # and byte by byte
        assert (await peer.answer()).status == 200
        assert (await peer.ask(wire.get())).status == 200  # one header for each connection
        assert {each.get("x-forwarded-for") for each in backend.seen} == {client}
        assert run.counters["proxied"] == 2
        assert run.counters["proxied_failed"] == 0


async def test_trust_goes_by_whom_the_header_names(wire):
    gateway = 'proxy_protocol = true\ntrusted = "203.0.113.9"'
    claim = wire.get("/", "X-Forwarded-For: 198.51.100.7")
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        assert (await (await connect(run, V1 + claim)).answer()).status == 200
        assert (await (await connect(run, version_2("203.0.113.10") + claim)).answer()).status == 200
    believed, other = [each.get("x-forwarded-for") for each in backend.seen]
    assert (believed, other) == ("198.51.100.7, 203.0.113.9", "203.0.113.10")


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 5555\r\n",
        b"PROXY TCP4 999.0.113.9 192.0.2.1 5555 443\r\n",
        b"PROXY " + b"x" * 200,
        V2 + b"\x31\x11\x00\x0c" + b"\0" * 12,
        V2 + b"\x21\x11\xff\xff",
        b"",
    ],
)
async def test_without_a_good_header_the_connection_is_closed_and_counted(wire, noise, caplog):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway="proxy_protocol = true")) as run:
        peer = await connect(run, noise)
        if not noise:
            peer.writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert await peer.rest() == b""
        await run.until(lambda: run.counters["proxied_failed"] == 1)
        assert not run.gateway._site.arrivals
        assert not run.gateway._site.clients
        assert backend.seen == []
    assert caplog.records == []


async def test_a_slow_header_ends(wire):
    gateway = 'proxy_protocol = true\nheader_timeout = "200ms"'
    async with wire.running(wire.toml("http://127.0.0.1:9", gateway=gateway)) as run:
        peer = await connect(run, b"PROXY TCP4 ")
        with contextlib.suppress(ConnectionError):
            assert await peer.rest() == b""
        await run.until(lambda: run.counters["proxied_failed"] == 1)


async def test_the_header_comes_before_the_handshake(wire, tmp_path):
    ca = trustme.CA()
    cert = ca.issue_cert("shop.example")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    gateway = f"""proxy_protocol = true
tls = {{ certificate = "{tmp_path}/cert.pem", key = "{tmp_path}/key.pem" }}"""
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        for pieces in (1, 3):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="shop.example")
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            raw = version_2() + outgoing.read()  # the header and the client's first message in the same packets
            size = -(-len(raw) // pieces)
            peer = await connect(run, *(raw[at : at + size] for at in range(0, len(raw), size)))
            asked = False
            while True:
                try:
                    if not asked:
                        tls.do_handshake()
                        tls.write(wire.get())
                        asked = True
                    answer = tls.read(65536)
                    break
                except ssl.SSLWantReadError:
                    if data := outgoing.read():
                        peer.send(data)
                    incoming.write(await asyncio.wait_for(peer.reader.read(65536), 10))
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert [each.get("x-forwarded-for") for each in backend.seen] == ["203.0.113.9"] * 2
        assert backend.seen[0].get("x-forwarded-proto") == "https"
        assert (run.counters["proxied"], run.counters["handshakes"]) == (2, 2)
        peer = await connect(run, tls_without_a_header(context))
        with contextlib.suppress(ConnectionError):
            assert await peer.rest() == b""
        await run.until(lambda: run.counters["proxied_failed"] == 1)


def tls_without_a_header(context):
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="shop.example").do_handshake()
    return outgoing.read()


async def test_unix_sockets_are_exempt(wire, tmp_path):
    path = tmp_path / "s"
    async with wire.Backend() as backend:
        text = wire.toml(backend.url, gateway="proxy_protocol = true").replace("127.0.0.1:0", f"unix:{path}")
        async with wire.running(text):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(wire.get())
            assert (await wire.read(reader)).status == 200
            writer.close()


# -- whom to believe, and how the id is called -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hops", "client"), [(0, "127.0.0.1"), (1, "127.0.0.3"), (2, "127.0.0.2"), (3, "198.51.100.7"), (9, "198.51.100.7")]
)
async def test_no_more_trusted_proxies_are_believed_than_may_be(wire, hops, client):
    gateway = f'trusted = "127.0.0.0/8"\ntrusted_hops = {hops}'
    pool = 'pick = { name = "ring_hash", key = "client" }'
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url, gateway=gateway, pool=pool)) as run:
            peer = await run.connect()
            raw = wire.get("/", "X-Forwarded-For: 198.51.100.7, 127.0.0.2", "X-Forwarded-For: 127.0.0.3")
            assert (await peer.ask(raw)).status == 200
            (held,) = run.gateway._site.clients
            head = Believing(raw)
            assert held.believed(head) == client
            came = backend.seen[0].get("x-forwarded-for")
            assert came == ("127.0.0.1" if not hops else "198.51.100.7, 127.0.0.2, 127.0.0.3, 127.0.0.1")


class Believing:
    """A head with the claims of that request."""

    def __init__(self, raw):
        (head, *_) = RequestReader(Limits()).feed(raw)
        self.claims = head.claims


async def test_the_id_may_be_in_another_header(wire):
    gateway = 'request_id = "X-Trace-Id"\ntrusted = "127.0.0.1"'
    ours = wire.get("/", "X-Trace-Id: abc-1", "X-Request-Id: theirs", "X-Other: 1")
    async with wire.Backend() as backend:
        async with wire.running(wire.toml(backend.url, gateway=gateway)) as run:
            await run.ask(ours)
            await run.ask(wire.get("/"))
        async with wire.running(wire.toml(backend.url, gateway='request_id = "X-Trace-Id"')) as run:
            await run.ask(ours)
    kept, new, distrusted = backend.seen
    assert kept.fields[b"x-trace-id"] == [b"abc-1"]
    assert kept.get("x-request-id") == "theirs"  # a header like others
    assert kept.get("x-other") == "1"
    assert len(new.get("x-trace-id")) == 32
    assert new.get("traceparent").split("-")[1] == new.get("x-trace-id")
    assert new.get("x-request-id") is None
    (made,) = distrusted.fields[b"x-trace-id"]
    assert made != b"abc-1"
