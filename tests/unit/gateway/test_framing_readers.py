"""The readers from request to request: limits that fire, what is kept, ends that come early, upgrades, misuse."""

import httptools
import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.framing import (
    END,
    Limits,
    Reason,
    Refusal,
    RequestHead,
    RequestReader,
    ResponseHead,
    ResponseReader,
    Timeouts,
    chunk,
    last_chunk,
)
from tenfold.gateway.framing import request as request_module

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SMALL = Limits(head=200, line=60, fields=3, body=10, extension=8, trailer=20, interim=2)


def post(size, body=b""):
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


def refusal(raw, limits=SMALL):
    """The reason, the same whole and byte by byte."""
    found = []
    for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
        reader = RequestReader(limits)
        events = [event for piece in pieces for event in reader.feed(piece)]
        found.append(events[-1] if events and isinstance(events[-1], Refusal) else None)
    assert found[0] == found[1]
    return found[0] and (found[0].status, found[0].token)


def line_of(size):
    return b"GET /" + b"x" * (size - len("GET / HTTP/1.1")) + b" HTTP/1.1"


def head_of(size):
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (line_of(60) + b"\r\nHost: a\r\n\r\n", None),
        (line_of(61) + b"\r\nHost: a\r\n\r\n", (414, "line_too_long")),
        (line_of(5000), (414, "line_too_long")),
        (b"x" * 62, (414, "line_too_long")),
        (line_of(61) + b"\nHost: a\n\n", (400, "bare_lf")),
        (line_of(65) + b"\nHost: a\n\n", (414, "line_too_long")),
        (head_of(200), None),
        (head_of(201), (431, "head_too_large")),
        (head_of(200)[:-4] + b"x" * 9000, (431, "head_too_large")),
        (head_of(200)[:-4] + b"x" * 10 + b"\0", (431, "head_too_large")),
        (head_of(190)[:-4] + b"\0" + b"x" * 100, (400, "control")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", (431, "too_many_fields")),
        (post(10, b"x" * 10), None),
        (post(11), (413, "body_too_large")),
        (CHUNKED + chunk(b"x" * 10) + last_chunk(), None),
        (CHUNKED + chunk(b"x" * 6) + chunk(b"x" * 5), (413, "body_too_large")),
        (CHUNKED + b"ffffffffffffff\r\n", (413, "body_too_large")),
        (CHUNKED + b"1;aaaaaaa\r\nx\r\n0\r\n\r\n", None),
        (CHUNKED + b"1;aaaaaaaa\r\nx\r\n0\r\n\r\n", (400, "chunk_extension_too_long")),
        (CHUNKED + b"1;" + b"a" * 9000, (400, "chunk_extension_too_long")),
        (CHUNKED + b"1;aaaaaaa\0", (400, "chunk_extension")),
        (CHUNKED + b"0\r\nX: " + b"y" * 17 + b"\r\n\r\n", None),
        (CHUNKED + b"0\r\nX: " + b"y" * 18 + b"\r\n\r\n", (431, "trailer_too_large")),
        (CHUNKED + b"0\r\n" + b"y" * 9000, (431, "trailer_too_large")),
    ],
)
def test_each_limit_fires_one_byte_after_it_is_reached(raw, expected):
    assert refusal(raw) == expected


def test_the_default_limits_are_those_that_are_promised():
    assert refusal(head_of(32 * 1024), Limits()) is None
    assert refusal(head_of(32 * 1024 + 1), Limits()) == (431, "head_too_large")
    assert refusal(line_of(8 * 1024) + b"\r\nHost: a\r\n\r\n", Limits()) is None
    assert refusal(line_of(8 * 1024 + 1) + b"\r\nHost: a\r\n\r\n", Limits()) == (414, "line_too_long")
    fields = b"".join(b"X-%d: y\r\n" % n for n in range(99))
    assert refusal(GET[:-2] + fields + b"\r\n", Limits()) is None
    assert refusal(GET[:-2] + fields + b"Y: z\r\n\r\n", Limits()) == (431, "too_many_fields")


def test_the_next_request_waits_until_it_is_asked_for():
    reader = RequestReader(Limits())
    head, end = reader.feed(GET + post(3, b"abc") + GET[:5])
    assert (head.method, end) == (b"GET", END)
    assert reader.held == len(post(3, b"abc")) + 5
    assert reader.feed(GET[5:9]) == []
    head, body, end = reader.next()
    assert (head.method, body, end, reader.held) == (b"POST", b"abc", END, 9)
    assert reader.next() == []
    assert not reader.idle
    (head, end) = reader.feed(GET[9:])
    assert (head.target, end, reader.held) == (b"/", END, 0)
    assert reader.next() == []
    assert reader.idle
    assert repr(reader) == "<RequestReader head held=0>"


def test_next_before_the_end_is_a_mistake():
    reader = RequestReader(Limits())
    reader.feed(post(3, b"ab"))
    with pytest.raises(MisuseError, match="expected a request that has ended, got <RequestReader length"):
        reader.next()


def test_what_is_held_is_bounded():
    reader = RequestReader(Limits())
    reader.feed(GET)
    for _ in range(16):
        reader.feed(b"x" * 65536)
    assert reader.held == 1024 * 1024
    with pytest.raises(MisuseError, match="pause reading"):
        reader.feed(b"x")


def test_an_empty_line_between_requests_is_not_a_request():
    reader = RequestReader(Limits())
    assert reader.feed(b"\r") == []
    assert reader.idle
    assert reader.held == 0
    assert reader.feed(b"\n") == []
    assert reader.idle
    assert reader.eof() is None
    assert len(reader.feed(GET + b"\r\n" + GET)) == 2
    assert len(reader.next()) == 2


@pytest.mark.parametrize(
    ("raw", "refused"),
    [
        (b"", False),
        (b"G", True),
        (GET[:-1], True),
        (GET, False),
        (post(3, b"ab"), True),
        (post(3, b"abc"), False),
        (CHUNKED + b"1\r\nx\r\n0\r\n", True),
    ],
)
def test_the_end_of_the_connection_is_a_refusal_only_within_a_request(raw, refused):
    reader = RequestReader(Limits())
    reader.feed(raw)
    assert reader.eof() == (Refusal(400, Reason.PREMATURE_END) if refused else None)


def test_a_piece_of_a_body_is_passed_on_as_it_is_and_not_copied():
    reader = RequestReader(Limits())
    reader.feed(post(100))
    piece = bytes(bytearray(b"x" * 50))
    assert reader.feed(piece)[0] is piece
    reader = RequestReader(Limits())
    reader.feed(CHUNKED + b"64\r\n")
    assert reader.feed(piece)[0] is piece
    both = piece + b"\r\n0\r\n\r\n"
    assert reader.feed(both)[0] is both


def test_the_size_of_a_chunked_body_is_known_as_it_is_announced():
    reader = RequestReader(Limits())
    reader.feed(CHUNKED + b"5\r\nab")
    assert reader.size == 5
    reader.feed(b"cde\r\n10\r\n")
    assert reader.size == 21
    reader.feed(b"x" * 16 + b"\r\n0\r\n\r\n" + GET)
    assert (reader.ended, reader.size) == (True, 21)
    reader.next()
    assert reader.size == 0


def test_an_upgrade_keeps_what_the_client_sent_after_it():
    reader = RequestReader(Limits())
    head, end = reader.feed(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x05")
    assert (head.upgrade, end) == (b"websocket", END)
    assert reader.surplus() == b"\x81\x05"
    assert reader.surplus() == b""


@pytest.mark.parametrize("fields", [b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"])
def test_an_upgrade_takes_both_fields(fields):
    head, _ = RequestReader(Limits()).feed(GET[:-2] + fields + b"\r\n")
    assert head.upgrade is None


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", None, True),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive, Close", False),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"x", False),
    ],
)
def test_whether_the_client_would_send_another_request(version, connection, keeps):
    field = b"" if connection is None else b"Connection: " + connection + b"\r\n"
    head, _ = RequestReader(Limits()).feed(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + field + b"\r\n")
    assert isinstance(head, RequestHead)
    assert head.keep_alive is keeps


def test_fields_are_found_by_their_lower_case_names_in_their_order():
    head, _ = RequestReader(Limits()).feed(GET[:-2] + b"ACCEPT: a\r\nX-Forwarded-For: 1\r\naccept:  b \r\n\r\n")
    assert head.fields == {b"host": [b"a"], b"accept": [b"a", b"b"], b"x-forwarded-for": [b"1"]}
    assert head.get(b"accept") == b"a"
    assert head.get(b"cookie") is None


def test_what_only_the_second_parser_refuses_is_refused(monkeypatch):
    # A real parser that refuses every request: the one for responses.
    monkeypatch.setattr(request_module, "HttpRequestParser", httptools.HttpResponseParser)
    assert RequestReader(Limits()).feed(GET) == [Refusal(400, Reason.GATEKEEPER)]


def test_a_refusal_speaks_to_logs_and_to_people():
    (refused,) = RequestReader(Limits()).feed(GET.replace(b"Host", b"Host "))
    assert repr(refused) == "<Refusal 400 space_before_colon>"
    assert refused.sentence == "white space stands between a field's name and the colon"


def test_every_reason_has_a_sentence_of_its_own_and_a_status_that_means_an_error():
    assert len({reason.sentence for reason in Reason}) == len(Reason)
    assert all(400 <= reason.status < 600 for reason in Reason)


def asked(method=b"GET", **options):
    reader = ResponseReader(Limits(interim=2))
    reader.expect(method, **options)
    return reader


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def test_one_connection_serves_one_response_after_the_other():
    reader = asked()
    assert not reader.began
    assert not reader.reusable
    assert len(reader.feed(OK)) == 3
    assert reader.began
    assert reader.ended
    assert reader.reusable
    reader.expect(b"HEAD")
    assert not reader.began
    head, end = reader.feed(OK[:-2])
    assert (head.length, end, reader.reusable) == (0, END, True)
    assert repr(reader) == "<ResponseReader done reusable=True>"


def test_a_byte_that_nobody_asked_for_spoils_the_connection():
    fresh, used = ResponseReader(Limits()), asked()
    used.feed(OK)
    for reader in (fresh, used):
        assert reader.reusable
        assert reader.feed(b"H") == [Refusal(502, Reason.UNSOLICITED)]
        assert not reader.reusable
        with pytest.raises(MisuseError, match="expected a reusable connection"):
            reader.expect(b"GET")


def test_the_end_of_an_idle_connection_is_no_fault_but_an_end():
    fresh, used = ResponseReader(Limits()), asked()
    used.feed(OK)
    for reader in (fresh, used):
        assert reader.eof() == []
        assert not reader.reusable


def test_a_response_is_due_so_the_next_request_has_to_wait():
    with pytest.raises(MisuseError, match="ResponseReader head"):
        asked().expect(b"GET")


def test_interim_responses_are_counted():
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert [type(event) for event in asked().feed(early * 2 + OK)][:3] == [ResponseHead] * 3
    *_, last = asked().feed(early * 3)
    assert last == Refusal(502, Reason.INTERIM_FLOOD)


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"


def test_after_101_all_bytes_are_the_tunnels():
    reader = asked(upgrade=b"websocket")
    head, first = reader.feed(SWITCH + b"\x81HTTP/1.1 200")
    assert (head.status, first) == (101, b"\x81HTTP/1.1 200")
    assert not head.interim
    assert reader.feed(b"\0\r\n\r\n") == [b"\0\r\n\r\n"]
    assert not reader.reusable
    assert reader.eof() == [END]


@pytest.mark.parametrize("asked_for", [None, b"h2c"])
def test_a_switch_to_what_was_not_asked_for_is_refused(asked_for):
    assert asked(upgrade=asked_for).feed(SWITCH) == [Refusal(502, Reason.UPGRADE_UNASKED)]


def test_a_refused_upgrade_is_an_ordinary_response():
    reader = asked(upgrade=b"websocket")
    assert [type(event) for event in reader.feed(OK)] == [ResponseHead, bytes, type(END)]
    assert reader.reusable


def test_a_decoded_body_comes_without_its_chunks_and_with_its_trailers():
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    _, body, end = asked(decoded=True).feed(raw)
    assert (body, end.trailers) == (b"hi", (b"X-Sum: 7",))
    assert repr(end) == "<End trailers=1>"
    _, body, end = asked().feed(raw)
    assert body == b"2;a=b\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    assert chunk(b"hi") + last_chunk(end.trailers) == b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    assert chunk(b"") == b""
    assert last_chunk() == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"head": 10}, "limits head: expected 64 bytes or more, got 10"),
        ({"line": "64KiB"}, "limits line: expected at most head"),
        ({"fields": 0}, "limits fields"),
        ({"interim": True}, "limits interim"),
        ({"body": "big"}, "limits body: expected a size"),
        ({"proxy": 1}, "limits proxy"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options, match):
    with pytest.raises(MisuseError, match=match):
        Limits(**options)


def test_sizes_and_times_are_taken_as_people_write_them():
    assert Limits(head="16KiB", body="1MB").head == 16384
    assert Limits(body="1MB").body == 1_000_000
    times = Timeouts(connect="250ms", tunnel="2h")
    assert (times.connect, times.tunnel) == (0.25, 7200.0)
    assert (times.head, times.body, times.idle, times.first_byte) == (10.0, 30.0, 60.0, 30.0)
    with pytest.raises(MisuseError, match="timeouts idle: expected more than 0"):
        Timeouts(idle=0)
