"""The heads that are passed on: what is taken out, what is added, and whom it believes."""

import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.framing import UNIX, Forwarder, Forwarding, Limits, RequestReader, ResponseReader

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def request(*lines, start=b"GET /x HTTP/1.1", host=b"Host: shop"):
    raw = b"\r\n".join([start, *([host] if host else []), *lines]) + b"\r\n\r\n"
    return RequestReader(Limits()).feed(raw)[0]


def response(*lines, start=b"HTTP/1.1 200 OK", method=b"GET", upgrade=None):
    reader = ResponseReader(Limits())
    reader.expect(method, upgrade=upgrade)
    return reader.feed(b"\r\n".join([start, *lines]) + b"\r\n\r\n")[0]


def sent(head, peer="192.0.2.1", scheme="http", authority=b"10.0.0.1:9000", seed=1, **options):
    """The lines of the head that goes upstream."""
    link = Forwarder(Forwarding(**{"request_id": "off", "trace": "off", **options})).link(peer, scheme)
    raw = link.request(head, link.identify(head, random.Random(seed).getrandbits), authority)
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
    return raw[:-4].split(b"\r\n")


def answered(head, *, options=None, **how):
    raw = Forwarder(options or Forwarding()).link("192.0.2.1", "http").response(head, **{"close": False, **how})
    assert raw.endswith(b"\r\n\r\n")
    return raw[:-4].split(b"\r\n")


def test_a_plain_request():
    assert sent(request(b"Accept: */*", b"Cookie: a=b")) == [
        b"GET /x HTTP/1.1",
        b"Accept: */*",
        b"Cookie: a=b",
        b"Host: shop",
        b"X-Forwarded-For: 192.0.2.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: shop",
    ]


def test_what_is_for_the_next_hop_ends_here():
    head = request(
        b"Connection: X-Secret, close, x-forwarded-for, Foo", b"X-Secret: 1", b"FOO: 2", b"Foo-Bar: 3", b"TE: trailers",
        b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic eA==",
        b"HTTP2-Settings: x", b"Upgrade: h2c",
    )  # fmt: skip
    assert sent(head, x_forwarded=False) == [b"GET /x HTTP/1.1", b"Foo-Bar: 3", b"Host: shop"]


def test_the_framing_is_written_anew():
    head = request(b"transfer-encoding:chunked", start=b"POST / HTTP/1.1")
    assert sent(head, x_forwarded=False)[1:] == [b"Host: shop", b"Transfer-Encoding: chunked"]
    head = request(b"content-length: \t 5", start=b"POST / HTTP/1.1")
    assert sent(head, x_forwarded=False)[1:] == [b"Content-Length: 5", b"Host: shop"]


def test_http_1_0_becomes_http_1_1_and_gets_a_host():
    head = request(b"Expect: 100-continue", start=b"GET / HTTP/1.0", host=None)
    assert sent(head, via="gw") == [
        b"GET / HTTP/1.1",
        b"Host: 10.0.0.1:9000",
        b"X-Forwarded-For: 192.0.2.1",
        b"X-Forwarded-Proto: http",
        b"Via: 1.0 gw",
    ]


@pytest.mark.parametrize(
    ("policy", "host"), [("client", b"shop"), ("endpoint", b"10.0.0.1:9000"), ("app.internal", b"app.internal")]
)
def test_the_host_is_the_clients_the_endpoints_or_a_name(policy, host):
    lines = sent(request(), host=policy)
    assert lines[1] == b"Host: " + host
    assert lines[-1] == b"X-Forwarded-Host: shop"


CLAIMS = (
    b"X-Forwarded-For: 198.51.100.7", b"X-Forwarded-For: 10.1.1.1", b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: www", b"X-Forwarded-Port: 443", b"X-Real-IP: 198.51.100.7", b"Forwarded: for=198.51.100.7",
)  # fmt: skip


def test_a_stranger_is_not_believed():
    assert sent(request(*CLAIMS), peer="192.0.2.1", trusted=["10.0.0.0/8"]) == sent(request())
    lines = sent(request(*CLAIMS), x_forwarded=False)
    assert lines == [b"GET /x HTTP/1.1", b"Host: shop"]


def test_a_trusted_hop_is_believed_and_added():
    assert sent(request(*CLAIMS), peer="10.9.9.9", trusted=["10.0.0.0/8"], forwarded=True) == [
        b"GET /x HTTP/1.1",
        b"Host: shop",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: www",
        b"X-Forwarded-Port: 443",
        b"X-Real-IP: 198.51.100.7",
        b"X-Forwarded-For: 198.51.100.7, 10.1.1.1, 10.9.9.9",
        b'Forwarded: for=198.51.100.7, for=10.9.9.9;proto=http;host="shop"',
    ]


def test_a_trusted_hop_that_says_nothing():
    assert sent(request(), peer="10.9.9.9", trusted=["10.0.0.0/8"])[2:] == [
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: shop",
        b"X-Forwarded-For: 10.9.9.9",
    ]


def test_forwarded_quotes_an_ipv6_address_and_hides_a_unix_socket():
    assert sent(request(), peer="2001:db8::1", scheme="https", x_forwarded=False, forwarded=True)[2:] == [
        b'Forwarded: for="[2001:db8::1]";proto=https;host="shop"'
    ]
    assert sent(request(), peer=UNIX, forwarded=True)[2:] == [
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: shop",
        b'Forwarded: for=unknown;proto=http;host="shop"',
    ]


def test_one_connection_may_ask_for_several_hosts():
    link = Forwarder(Forwarding(request_id="off", trace="off")).link("192.0.2.1", "http")
    for host in (b"a", b"b", b"a"):
        head = request(host=b"Host: " + host)
        assert b"X-Forwarded-Host: " + host + b"\r\n" in link.request(head, link.identify(head, lambda bits: 0))


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("192.0.2.1", b"198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", b"6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", b"6.6.6.6, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("::ffff:10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        (UNIX, b"2001:DB8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_hop(peer, chain, client):
    link = Forwarder(Forwarding(trusted=["10.0.0.0/8", "unix"])).link(peer, "http")
    assert link.client(request(b"X-Forwarded-For: " + chain)) == client


def identity(*lines, **options):
    link = Forwarder(Forwarding(**options)).link("192.0.2.1", "http")
    found = link.identify(request(*lines), random.Random(1).getrandbits)
    return found.request_id, [line for line in found.lines.split(b"\r\n") if line]


def test_a_request_without_names_gets_both_from_one_draw():
    name, lines = identity()
    assert len(name) == 32
    span = b"%016x" % (random.Random(1).getrandbits(192) & (1 << 64) - 1 | 1)
    assert lines == [b"traceparent: 00-" + name + b"-" + span + b"-01", b"X-Request-Id: " + name]


def test_good_names_are_passed_on_with_their_state():
    name, lines = identity(b"X-Request-Id: abc-1", b"traceparent: " + TRACE, b"tracestate: a=1")
    assert name == b"abc-1"
    assert sorted(lines) == [b"X-Request-Id: abc-1", b"traceparent: " + TRACE, b"tracestate: a=1"]


@pytest.mark.parametrize(
    "bad",
    [
        b"00-0af7", TRACE.upper(), TRACE.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32),
        TRACE.replace(b"b7ad6b7169203331", b"0" * 16), b"ff" + TRACE[2:], TRACE + b"-x",
    ],
)  # fmt: skip
def test_a_bad_trace_is_replaced_and_its_state_dropped(bad):
    _, lines = identity(b"traceparent: " + bad, b"tracestate: a=1")
    assert [line.partition(b":")[0] for line in lines] == [b"traceparent", b"X-Request-Id"]
    assert bad not in lines[0]


@pytest.mark.parametrize("bad", [b"a b", b"x" * 129, b'"', b"a,b", b"\xe9", b""])
def test_a_bad_id_is_replaced(bad):
    name, lines = identity(b"X-Request-Id: " + bad)
    assert len(name) == 32
    assert len(lines) == 2


def test_two_ids_are_none():
    name, lines = identity(b"X-Request-Id: a", b"X-Request-Id: b")
    assert len(name) == 32
    assert lines[1:] == [b"X-Request-Id: " + name]


def test_names_may_be_always_new_or_none_of_our_business():
    came = (b"X-Request-Id: abc", b"traceparent: " + TRACE, b"tracestate: a=1")
    name, lines = identity(*came, request_id="new", trace="new")
    assert name != b"abc"
    assert len(lines) == 2
    assert TRACE not in lines[0]
    assert identity(request_id="off", trace="off") == (b"", [])
    name, lines = identity(*came, request_id="off", trace="off")
    assert (name, sorted(lines)) == (b"abc", sorted(came))
    name, lines = identity(request_id="pass", trace="off")
    assert (len(name), lines) == (32, [b"X-Request-Id: " + name])


def test_a_websocket_is_passed_on_and_another_protocol_is_not():
    head = request(b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Version: 13")
    lines = sent(head, x_forwarded=False)
    assert lines[1:] == [
        b"Sec-WebSocket-Version: 13", b"Host: shop", b"Connection: Upgrade", b"Upgrade: websocket",
    ]  # fmt: skip
    link = Forwarder(Forwarding()).link("192.0.2.1", "http")
    assert link.upgrade(head) == b"websocket"
    assert Forwarder(Forwarding(upgrades=[])).link("192.0.2.1", "http").upgrade(head) is None
    assert link.upgrade(request(b"Connection: Upgrade", b"Upgrade: h2c")) is None
    assert link.upgrade(request(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 1")) is None
    assert link.upgrade(request()) is None


def test_an_expectation_is_passed_on():
    head = request(b"Expect: 100-Continue", b"Content-Length: 5", start=b"POST / HTTP/1.1")
    assert head.expects_continue
    assert sent(head, x_forwarded=False)[-1] == b"Expect: 100-continue"


def test_a_plain_response():
    lines = [b"HTTP/1.1 404 Not Here", b"Server: x", b"Content-Length: 0"]
    assert answered(response(*lines[1:], start=lines[0])) == lines
    assert answered(response(*lines[1:], start=lines[0]), close=True) == [*lines, b"Connection: close"]
    assert answered(response(*lines[1:], start=lines[0]), http10=True) == [*lines, b"Connection: keep-alive"]
    assert answered(response(*lines[1:], start=lines[0]), extra=[b"Age: 1"]) == [*lines, b"Age: 1"]


def test_what_the_upstream_says_of_its_connection_ends_here():
    head = response(b"Connection: close, X-Hop", b"Keep-Alive: timeout=5", b"X-Hop: 1", b"Content-Length: 0")
    assert answered(head) == [b"HTTP/1.1 200 OK", b"Content-Length: 0"]


def test_a_response_of_http_1_0_or_without_a_phrase_gets_a_whole_status_line():
    assert answered(response(b"Content-Length: 0", start=b"HTTP/1.0 200 Fine"))[0] == b"HTTP/1.1 200 Fine"
    assert answered(response(b"Content-Length: 0", start=b"HTTP/1.1 200"))[0] == b"HTTP/1.1 200 "


def test_chunks_are_announced_as_they_are_sent():
    head = response(b"Transfer-Encoding: Chunked")
    assert answered(head)[-1] == b"Transfer-Encoding: chunked"
    assert answered(head, chunked=False, close=True, http10=True) == [b"HTTP/1.1 200 OK", b"Connection: close"]
    until_close = response(b"Server: x")
    assert answered(until_close, close=True)[1:] == [b"Server: x", b"Connection: close"]
    assert answered(until_close, chunked=True)[1:] == [b"Server: x", b"Transfer-Encoding: chunked"]


def test_204_and_interim_responses_lose_a_length_and_304_and_head_keep_it():
    assert answered(response(b"content-length: 0", start=b"HTTP/1.1 204 X")) == [b"HTTP/1.1 204 X"]
    assert answered(response(b"Content-Length: 3", start=b"HTTP/1.1 103 X")) == [b"HTTP/1.1 103 X"]
    assert answered(response(b"Content-Length: 3", start=b"HTTP/1.1 304 X"))[1:] == [b"Content-Length: 3"]
    assert answered(response(b"Content-Length: 3", method=b"HEAD"))[1:] == [b"Content-Length: 3"]


def test_a_switch_of_protocols_is_passed_on():
    head = response(
        b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: x", start=b"HTTP/1.1 101 S",
        upgrade=b"websocket",
    )  # fmt: skip
    assert answered(head)[1:] == [b"Sec-WebSocket-Accept: x", b"Upgrade: websocket", b"Connection: Upgrade"]
    head = response(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 0", start=b"HTTP/1.1 426 U")
    assert answered(head, close=True)[2:] == [b"Upgrade: h2c", b"Connection: Upgrade, close"]


def test_via_is_added_last_both_ways():
    assert sent(request(b"Via: 1.1 before"), via="gw-1")[1] == b"Via: 1.1 before"
    assert sent(request(b"Via: 1.1 before"), via="gw-1")[-1] == b"Via: 1.1 gw-1"
    head = response(b"Content-Length: 0", start=b"HTTP/1.0 200 OK")
    assert answered(head, options=Forwarding(via="gw"))[-1] == b"Via: 1.0 gw"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trusted": "10.0.0.0/8"}, "expected a list of strings"),
        ({"trusted": ["10.0.0.1/8"]}, 'expected networks such as "10.0.0.0/8"'),
        ({"trusted": ["localhost"]}, "forwarding trusted"),
        ({"via": "a b"}, "forwarding via"),
        ({"request_id": "maybe"}, 'forwarding request_id: expected "pass", "new" or "off"'),
        ({"trace": ""}, "forwarding trace"),
        ({"host": "a b"}, "forwarding host"),
        ({"host": "é"}, "forwarding host"),
        ({"upgrades": ["web socket"]}, "forwarding upgrades"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(MisuseError, match=match):
        Forwarding(**options)


def test_a_link_tells_who_is_at_the_other_end():
    forwarder = Forwarder(Forwarding(trusted=["10.0.0.0/8"]))
    assert repr(forwarder.link("10.0.0.1", "https")) == "<Link 10.0.0.1 https trusted>"
    assert repr(forwarder.link("not an address", "http")) == "<Link not an address http not trusted>"
