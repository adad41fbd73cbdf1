"""A reader that knows the fields of its last request reads the next one as a reader does that knows nothing."""

from __future__ import annotations

import pytest
from httptools import HttpRequestParser

from tenfold.gateway.engine.sticky import take
from tenfold.gateway.framing import END, Limits, Refusal, RequestHead, RequestReader
from tenfold.gateway.framing.head import parse_request
from tenfold.gateway.framing.start_line import METHODS, usual_line

FIELDS = [
    b"Host: a.example\r\n\r\n",
    b"Host: a.example:8080\r\nAccept: */*\r\nCookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: one\r\n\r\n",
    b"Host: a.example\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n\r\n",
    b"Host: a.example\r\nContent-Length: 0\r\n\r\n",
    b"Host: a.example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    b"Host: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"Host: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
LINES = [
    b"GET / HTTP/1.1\r\n",
    b"HEAD /other?a=b HTTP/1.1\r\n",
    b"POST /x HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://a.example/absolute HTTP/1.1\r\n",
    b"GET http://b.example/absolute HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET /fra#gment HTTP/1.1\r\n",
    b"BREW / HTTP/1.1\r\n",
    b"get / HTTP/1.1\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET /" + b"x" * 8200 + b" HTTP/1.1\r\n",
]
BODIES = {3: b"abc", -1: b"3\r\nabc\r\n0\r\n\r\n"}


def told(events):
    """What a reader has said, as values that can be compared."""
    found = []
    for event in events:
        if isinstance(event, RequestHead):
            names = ("method", "target", "host", "length", "http10", "keep_alive", "upgrade", "expects_continue")
            found.append([getattr(event, name) for name in names])
            found.append([event.plain, event.claims, event.fields])
        else:
            found.append(repr(event))
    return found


def warm(fields, times):
    """A reader that has read these fields so many times."""
    reader = RequestReader(Limits())
    for _ in range(times):
        (head, *_) = reader.feed(b"GET /before HTTP/1.1\r\n" + fields)
        if head.length:
            reader.feed(BODIES[head.length])
        reader.next()
    return reader


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("fields", FIELDS)
def test_what_is_known_of_the_fields_changes_nothing(fields: bytes, line: bytes, times: int) -> None:
    fresh = RequestReader(Limits())
    expected = told(fresh.feed(line + fields))
    assert told(warm(fields, times).feed(line + fields)) == expected


@pytest.mark.parametrize("before", FIELDS)
@pytest.mark.parametrize("after", FIELDS)
def test_other_fields_are_read_anew(before: bytes, after: bytes) -> None:
    expected = told(RequestReader(Limits()).feed(LINES[0] + after))
    assert told(warm(before, 3).feed(LINES[0] + after)) == expected


@pytest.mark.parametrize("cut", [1, 10, 17, 30, 40])
def test_a_head_that_comes_in_pieces_is_read_the_same(cut: int) -> None:
    raw = LINES[1] + FIELDS[1]
    reader = warm(FIELDS[1], 3)
    events = [*reader.feed(raw[:cut]), *reader.feed(raw[cut:])]
    assert told(events) == told(RequestReader(Limits()).feed(raw))


def test_what_is_done_to_one_head_is_not_done_to_the_next() -> None:
    raw = LINES[0] + FIELDS[1]
    expected = told(RequestReader(Limits()).feed(raw))
    reader = RequestReader(Limits())
    for _ in range(5):
        events = reader.feed(raw)
        assert told(events) == expected
        head = events[0]
        head.plain = []
        head.claims = []
        head.target = b"/changed"
        head.host = b"changed"
        reader.next()


def test_a_refusal_ends_it_as_ever() -> None:
    reader = warm(FIELDS[0], 3)
    (refusal,) = reader.feed(b"GET / HTTP/9.9\r\n" + FIELDS[0])
    assert isinstance(refusal, Refusal)
    assert reader.feed(LINES[0] + FIELDS[0]) == []


def test_pipelined_requests_with_the_same_fields_are_all_read() -> None:
    reader = RequestReader(Limits())
    events = reader.feed((LINES[0] + FIELDS[0]) * 5)
    targets = []
    while events:
        assert events[-1] is END
        targets.append(events[0].target)
        events = reader.next()
    assert targets == [b"/"] * 5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_llhttp_accepts_every_usual_request_line(method: bytes) -> None:
    """Which is why it need not see one whose fields it has seen."""
    for byte in range(256):
        line = b"%b /a%cb?%c HTTP/1.1" % (method, byte, byte)
        if usual_line(line):
            HttpRequestParser(object()).feed_data(line + b"\r\nHost: shop.example\r\n\r\n")  # raises if not


def test_what_is_taken_out_of_one_request_is_in_the_next():
    model = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: mine=1; theirs=2", Limits())
    for target in (b"/one", b"/two"):
        head = model.again(b"GET", target)
        assert head.fields[b"cookie"] == [b"mine=1; theirs=2"]
        assert take(head, frozenset({b"mine"})) == {"mine": "1"}
        assert head.fields == {b"host": [b"a"], b"cookie": [b"theirs=2"]}
