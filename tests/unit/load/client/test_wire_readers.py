"""The fast reader never says anything that the strict one would not."""

from __future__ import annotations

import random

import pytest

from tenfold.load.answer import Headers
from tenfold.load.wire import Reader, read_whole

WHOLE = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"


def test_the_usual_answer_is_read_at_once() -> None:
    answer = read_whole(WHOLE)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers.get("SERVER") == "x"
    assert "server" in answer.headers
    assert repr(answer) == "Answer(status=200, 5 bytes)"


@pytest.mark.parametrize(
    "raw",
    [
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE.replace(b"1.1", b"1.0"),
        WHOLE.replace(b"200", b"100"),
        WHOLE.replace(b"200", b"204"),
        WHOLE.replace(b"200", b"304"),
        WHOLE.replace(b"200", b"2x0"),
        WHOLE.replace(b"keep-alive", b"close"),
        WHOLE.replace(b"keep-alive", b"keep-alive, close"),
        WHOLE.replace(b"keep-alive", b"keep-alive\r\nConnection: close"),
        WHOLE.replace(b"Server: x", b"Transfer-Encoding: chunked"),
        WHOLE.replace(b"Server: x", b"Content-Length: 5"),
        WHOLE.replace(b": 5", b": +5"),
        WHOLE.replace(b": 5", b": 5, 5"),
        WHOLE.replace(b"\r\n\r\n", b"\n\n"),
        WHOLE.replace(b"Server: x", b"Server: x\r\n folded"),
        WHOLE.replace(b"Server: x", b"no colon here"),
        WHOLE.replace(b"Server: x", b"bad name: x"),
        WHOLE.replace(b"Server: x", b"Upgrade: h2c"),
    ],
)
def test_where_it_is_not_certain_it_leaves_it_to_the_strict_reader(raw: bytes) -> None:
    fast = read_whole(raw)
    if fast is None:
        return
    strict = Reader()
    assert strict.feed(raw)
    assert strict.answer is not None
    assert (fast.status, fast.body) == (strict.answer.status, strict.answer.body)
    assert strict.keep


def test_both_readers_agree_on_random_damage() -> None:
    rng = random.Random(7)
    agreed = 0
    for _ in range(4000):
        raw = bytearray(WHOLE)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            raw[at] = rng.choice(b" \r\n:;0159HTPclose-\x00\xffxyz")
        fast = read_whole(bytes(raw))
        if fast is None:
            continue
        strict = Reader()
        done = strict.feed(bytes(raw))
        assert done, bytes(raw)
        assert strict.failure is None, bytes(raw)
        assert strict.answer is not None
        assert (fast.status, fast.body, strict.keep) == (strict.answer.status, strict.answer.body, True), bytes(raw)
        agreed += 1
    assert agreed > 500


def test_the_strict_reader_takes_one_byte_at_a_time() -> None:
    raw = (
        b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n"
    )
    reader = Reader()
    ends = [reader.feed(raw[at : at + 1]) for at in range(len(raw))]
    assert ends == [False] * (len(raw) - 1) + [True]
    assert reader.answer is not None
    assert (reader.answer.status, reader.answer.body, reader.keep) == (200, b"abc", True)
    assert reader.answer.headers.get("link") is None


def test_headers_keep_order_and_repeats() -> None:
    headers = Headers(b"HTTP/1.1 200 OK\r\nA: 1\r\nB:2\r\na:  3 ")
    assert headers.items() == [("A", "1"), ("B", "2"), ("a", "3")]
    assert headers.get_all("A") == ["1", "3"]
    assert headers["b"] == "2"
    with pytest.raises(KeyError):
        headers["c"]
