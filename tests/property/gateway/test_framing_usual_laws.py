"""What is passed on in one step is what would have been passed on step by step."""

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenfold.gateway.framing import END, Forwarder, Forwarding, Limits, RequestReader, ResponseReader
from tenfold.gateway.framing.fields import FORWARDED, KINDS
from tenfold.gateway.framing.head import parse_response
from tenfold.gateway.framing.usual import usual_response

LIMITS = Limits()
SMALL = Limits(head=150, line=80, fields=4)
NAMES = [
    "Server", "Date", "Content-Type", "Content-Language", "Content-Location", "Cache-Control", "ETag", "Expires",
    "Vary", "Set-Cookie", "X-Frame-Options", "X-Runtime", "X-Powered-By", "Permissions-Policy", "Pragma", "Via",
    "Trailer", *(name.decode() for name in KINDS), "content_length", "X", "X-", "Connectio", "Connections",
    "Content-Lengths", "",
]  # fmt: skip
LINES = [
    b"Connection: keep-alive", b"connection: Keep-Alive", b"Connection: close", b"Connection: keep-alive, X-Mine",
    b"Keep-Alive: timeout=5", b"Content-Length: 5", b"content-length: 5", b"Content-Length: 0", b"Content-Length: 05",
    b"Content-Length:5", b"Content-Length: 5 ", b"Content-Length: +5", b"Content-length: 5", b"X-Mine: 1", b" folded",
    b"Server : x", b"Server: a\rb", b"Server: a\nb", b"Server: \x00", b"Server:\xe9\t", b"Transfer-Encoding: chunked",
]  # fmt: skip
STARTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 503 Busy\t\xe9", b"HTTP/1.1 101 Switching", b"HTTP/1.1 100 Go on",
    b"HTTP/1.1 600 What", b"http/1.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 199 OK",
]  # fmt: skip


@st.composite
def spelled(draw):
    name = draw(st.sampled_from(NAMES))
    ups = draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    name = "".join(char.upper() if up else char.lower() for char, up in zip(name, ups, strict=True))
    return name.encode() + b":" + draw(st.sampled_from([b" a", b"", b" close", b" chunked", b" 5", b"a:b"]))


HARMLESS = [
    b"Server: a",
    b"date: b",
    b"ETag: c",
    b"Set-Cookie: d=e",
    b"x-request-id: f",
    b"X-R:\xe9\t",
    b"A:",
    b"Vary: *",
]


@st.composite
def responses(draw):
    """A head as most are, mostly with one or two lines that make it another one, and what came of its body."""
    body = draw(st.binary(max_size=8))
    lines = draw(st.lists(st.sampled_from(HARMLESS), max_size=5))
    said = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    lines.insert(draw(st.integers(0, len(lines))), b"%s: %d" % (draw(st.sampled_from(LENGTHS)), said))
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(LINES[:2])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 1))] = [draw(st.one_of(st.sampled_from(LINES), spelled()))]
    start = draw(st.sampled_from([*STARTS[:1] * 8, *STARTS]))
    return b"\r\n".join([start, *lines, b"", b""]), body


LENGTHS = [b"Content-Length", b"content-length", b"Content-length"]
FULL = b"HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 1500 + b"Content-Length: 0\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nA: " + b"x" * 9000 + b"\r\nContent-Length: 0\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\nConnection: keep-alive\r\n\r\n"


@settings(max_examples=400)
@given(response=responses(), small=st.booleans())
@example(response=(b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 5\r\n\r\n", b""), small=False)
@example(response=(b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", b""), small=False)
@example(response=(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b""), small=False)
@example(response=(b"HTTP/1.1 200 OK\r\nContent-Length: 007\r\n\r\n", b"x" * 7), small=False)
@example(response=(b"HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 4 + b"Content-Length: 0\r\n\r\n", b""), small=True)
@example(response=(LONG, b""), small=True)
@example(response=(FULL, b""), small=False)
@example(response=(LARGE, b"x" * 8999), small=False)
def test_a_usual_response_is_what_the_reader_and_the_writer_make_of_it(response, small) -> None:
    head, body = response
    limits = SMALL if small else LIMITS
    found = usual_response(head + body, limits)
    if found is None:
        return
    status, sent, left = found
    read = parse_response(head[:-4], limits, b"GET")  # raises where it is refused
    assert len(head) <= limits.head
    assert (read.status, read.keep_alive, read.upgrade, read.interim) == (status, True, None, False)
    assert left == read.length - len(body) >= 0
    written = Forwarder(Forwarding()).link("192.0.2.1", "http").response(read, close=False)
    assert sent == written + body


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 503 Busy\t\xe9"])
@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n", b"connection: Keep-Alive\r\nKeep-Alive: 5\r\n"])
@pytest.mark.parametrize("at", range(len(HARMLESS) + 1))
def test_what_is_usual(start: bytes, keep: bytes, at: int) -> None:
    lines = [line + b"\r\n" for line in HARMLESS]
    for keeps, length in ((at, 0), (0, at), (at, len(lines)), (len(lines), at)):
        these = [*lines]
        these.insert(length, b"content-length: 2\r\n")
        plain = start + b"\r\n" + b"".join(these) + b"\r\nok"
        these.insert(keeps, keep)
        assert usual_response(start + b"\r\n" + b"".join(these) + b"\r\nok", LIMITS) == (int(start[9:12]), plain, 0)


@given(
    lines=st.lists(st.sampled_from(LINES), max_size=5), name=st.sampled_from(sorted(KINDS)), value=st.binary(max_size=5)
)
def test_a_field_that_frames_or_is_for_this_hop_is_not_usual(lines, name, value) -> None:
    if KINDS[name] >= FORWARDED or name in (b"content-length", b"connection", b"keep-alive"):
        return
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, name.title() + b":" + value, b"Content-Length: 0", b"", b""])
    assert usual_response(raw, LIMITS) is None


@given(
    lines=st.lists(st.sampled_from([b"Server: a", b"ETag: b", b"Vary: c", b"Connection: keep-alive"]), max_size=4),
    body=st.binary(max_size=30),
    places=st.lists(st.integers(0, 120), max_size=4),
)
def test_what_comes_after_it_is_read_as_ever(lines, body, places) -> None:
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length: %d" % len(body), b"", b""]) + body
    plain = b"".join(raw.split(b"Connection: keep-alive\r\n"))
    for at in sorted({place % (len(raw) + 1) for place in places} | {len(raw)}):
        reader = ResponseReader(LIMITS)
        reader.expect(b"GET")
        found = reader.usual(raw[:at])
        events = []
        if found is None:
            assert raw.find(b"\r\n\r\n") + 4 > at or raw.count(b"Connection") > 1
            continue
        reader.passed(found[2])
        events = reader.feed(raw[at:])
        assert reader.free
        assert events[-1:] == ([END] if at < len(raw) else [])
        assert found[1] + b"".join(event for event in events if event is not END) == plain
        reader.expect(b"HEAD")
        assert reader.usual(raw) is None


REQUEST_FIELDS = [
    [b"Host: a.example"],
    [b"Host: a.example", b"Cookie: a=b", b"User-Agent: c", b"Connection: keep-alive"],
    [b"Host: b.example:80", b"X-Forwarded-For: 1.2.3.4", b"X-Request-Id: mine"],
    [b"Host: a.example", b"Content-Length: 0"],
    [b"Host: a.example", b"Content-Length: 2"],
    [b"Host: a.example", b"Connection: Upgrade", b"Upgrade: websocket"],
    [b"Host: a.example", b"Transfer-Encoding: chunked"],
    [b"Host: a.example", b"Connection: close"],
]
REQUEST_LINES = [
    b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"HEAD /c HTTP/1.1", b"POST /d HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET http://a.example/e HTTP/1.1", b"GET / HTTP/1.0", b"BREW / HTTP/1.1", b"GET /" + b"f" * 70 + b" HTTP/1.1",
    b"\r\nGET / HTTP/1.1", b"GET / HTTP/1.1\r\nX-Other: 1",
]  # fmt: skip
BODIES = {2: b"ok", -1: b"2\r\nok\r\n0\r\n\r\n"}
requests = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, *range(len(REQUEST_FIELDS))]), st.sampled_from(REQUEST_LINES), st.booleans()),
    max_size=8,
)


@example(asked=[(0, REQUEST_LINES[0], False)] * 3 + [(0, REQUEST_LINES[8], False)], repeats=1, small=True)
@example(
    asked=[(1, REQUEST_LINES[0], False)] * 3 + [(1, b"GET /" + b"f" * 65 + b" HTTP/1.1", False)], repeats=1, small=True
)
@example(asked=[(1, REQUEST_LINES[0], False)] * 3 + [(1, REQUEST_LINES[7], False)], repeats=1, small=False)
@given(asked=requests, repeats=st.integers(1, 4), small=st.booleans())
def test_a_request_read_whole_is_the_one_that_is_read_in_pieces(asked, repeats, small) -> None:
    limits = SMALL if small else LIMITS
    one, other = RequestReader(limits), RequestReader(limits)
    told = []
    for reader in (one, other):
        found = []
        for fields, line, more in [each for each in asked for _ in range(repeats)]:
            raw = b"\r\n".join([line, *REQUEST_FIELDS[fields], b"", b""])
            if more and line[:3] == b"GET" and fields < 4:
                raw += raw  # pipelined
            head = reader.whole(raw) if reader is one else None
            events = [head, END] if head is not None else reader.feed(raw)
            while events:
                for event in events:
                    names = ("method", "target", "host", "length", "plain", "claims", "keep_alive", "upgrade", "fields")
                    if hasattr(event, "target"):
                        found.append([getattr(event, name) for name in names])
                        events = [*events, *reader.feed(BODIES.get(event.length, b""))]
                    elif not isinstance(event, bytes):
                        found.append(repr(event))
                found.append((reader.idle, reader.ended, reader.held))
                events = reader.next() if reader.ended else []
        told.append(found)
    assert told[0] == told[1]


@example(
    asked=[(0, 1, b"1.1.1.1:80")] * 4 + [(0, 1, b"1.1.1.2:80")] + [(1, 1, b"1.1.1.1:80")] * 4,
    host="endpoint",
    trusted=False,
    change=0,
)
@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from([1, 1, 1, 1, 0, 2, 5]), st.sampled_from([b"1.1.1.1:80", b"1.1.1.2:80"])
        ),
        max_size=20,
    ),
    host=st.sampled_from(["client", "endpoint", "c.example"]),
    trusted=st.booleans(),
    change=st.integers(0, 3),
)
def test_a_link_that_knows_the_fields_writes_what_a_fresh_one_writes(asked, host, trusted, change) -> None:
    """Two clients, whose requests with the same fields must differ in who asks, and in nothing else."""
    options = Forwarding(host=host, trusted=["192.0.2.0/30"] if trusted else [], via="edge", forwarded=True)
    peers = ("192.0.2.1", "198.51.100.7")
    forwarder, fresh = Forwarder(options), Forwarder(options)
    links = [forwarder.link(peer, "http") for peer in peers]
    readers = [RequestReader(LIMITS), RequestReader(LIMITS)]
    one, other = random.Random(1), random.Random(1)
    ids = set()
    for number, (who, fields, authority) in enumerate(asked):
        (head, *_) = readers[who].feed(b"\r\n".join([b"GET /%d HTTP/1.1" % number, *REQUEST_FIELDS[fields], b"", b""]))
        readers[who].next()
        if change == 1:
            head.plain = [*head.plain, b"X-Added: %d" % number]
        elif change == 2 and number % 2:
            head.host = b"changed.example"
        elif change == 3 and number % 3 == 0:
            head.plain = head.plain[:-1]
        identity = links[who].identify(head, one.getrandbits)
        sent = links[who].request(head, identity, authority)
        link = fresh.link(peers[who], "http")
        assert link.identify(head, other.getrandbits) == identity
        assert link.request(head, identity, authority) == sent
        assert peers[who].encode() in sent
        assert peers[1 - who].encode() not in sent
        ids |= set(re.findall(rb"traceparent: (\S+)", sent))
    assert len(ids) == len(asked)
