"""What servers may send, and what must not hang or lie."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tenfold.load import Constant, RequestFailed, check, step

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def get(user: Any) -> None:
    with step("s"):
        answer = await user.get("/x")
        check(answer.body == b"hello", "body")


GOOD = {
    "plain": OK,
    "keep-alive field": b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
    "odd spacing": b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:5\r\n\r\nhello",
    "no reason": b"HTTP/1.1 200 \r\ncontent-length:  5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    "100 before": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "103 before": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_good_answers_whole_and_in_pieces(name: str, piece: int, serve: Any, drive: Any) -> None:
    raw = GOOD[name]

    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        size = piece or len(raw)
        for at in range(0, len(raw), size):
            writer.write(raw[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        return True

    server = await serve(handle)
    driven = await drive(get, server.url)
    assert driven.total.errors == {}
    assert driven.total.attempts == driven.engine.started == 5
    assert driven.health.requests == 5
    # Every one of them keeps its connection.
    assert server.connections == driven.health.connections_opened


async def test_an_answer_that_only_closing_ends(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await writer.drain()
        writer.write(b"lo")
        return False

    driven = await drive(get, (await serve(handle)).url)
    assert driven.total.errors == {}
    assert driven.total.attempts == 5


async def test_connection_close_is_honoured(serve: Any, drive: Any, raw: Any) -> None:
    server = await serve(raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"))
    driven = await drive(get, server.url)
    assert driven.total.errors == {}
    assert driven.health.connections_opened >= 5


@pytest.mark.parametrize("head", [b"204 No Content\r\n\r\n", b"304 Not Modified\r\nContent-Length: 9\r\n\r\n"])
async def test_answers_without_a_body(head: bytes, serve: Any, drive: Any, raw: Any) -> None:
    server = await serve(raw(b"HTTP/1.1 " + head))

    async def journey(user: Any) -> None:
        assert (await user.get("/")).body == b""

    driven = await drive(journey, server.url)
    assert driven.total.errors == {}
    assert driven.total.attempts == 5


async def test_head_announces_a_body_and_sends_none(serve: Any, drive: Any, raw: Any) -> None:
    server = await serve(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"))

    async def journey(user: Any) -> None:
        answer = await user.head("/x")
        check(answer.headers["content-length"] == "500" and answer.body == b"", "head")

    driven = await drive(journey, server.url)
    assert driven.total.errors == {}
    assert {step.name for step in driven.result.steps} == {"HEAD /x"}
    assert server.connections == driven.health.connections_opened


BAD = {
    "garbage": (b"SMTP ready\r\n\r\n", "protocol"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "protocol"),
    "bad length": (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello", "protocol"),
    "bad chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
    "huge head": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "too large"),
    "503": (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
    "404": (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status 404"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_answers_are_errors_by_kind(name: str, serve: Any, drive: Any, raw: Any) -> None:
    bytes_, kind = BAD[name]

    async def journey(user: Any) -> None:
        with step("s"):
            await user.get("/")

    driven = await drive(journey, (await serve(raw(bytes_))).url)
    assert driven.total.errors == {kind: 5}
    assert driven.total.failed.count == 5
    assert driven.total.corrected.count == 0


async def test_a_byte_too_many_closes_the_connection_and_not_the_answer(serve: Any, drive: Any, raw: Any) -> None:
    server = await serve(raw(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    driven = await drive(get, server.url)
    assert driven.total.errors == {}
    assert driven.health.connections_opened >= 5


async def test_never_answering_times_out(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> bool:
        await reader.read()
        return False

    driven = await drive(get, (await serve(handle)).url, timeout=0.2)
    assert driven.total.errors == {"timeout": 5}
    assert 200_000 <= driven.total.failed.min < 2_000_000  # a sweep late by far is a busy machine, not a fault


async def test_reset_in_the_body(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK[:-2])
        await writer.drain()
        writer.transport.abort()
        return False

    driven = await drive(get, (await serve(handle)).url)
    assert sum(driven.total.errors.values()) == 5
    assert set(driven.total.errors) <= {"reset", "closed"}


async def test_refused_in_the_middle_of_a_run_counts_and_ends(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, __: asyncio.StreamReader, ___: asyncio.StreamWriter) -> bool:
        return False

    port = 0

    async def journey(user: Any) -> None:
        with step("s"):
            await user.get(f"http://127.0.0.1:{port}/")

    server = await serve(handle)
    lonely = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = lonely.sockets[0].getsockname()[1]
    lonely.close()
    await lonely.wait_closed()
    driven = await drive(journey, server.url)
    assert driven.total.errors == {"connect refused": 5}


async def test_a_stale_idle_connection_is_retried_for_get_and_not_for_post(serve: Any, drive: Any) -> None:
    # The server answers once and closes when the second request comes, before any byte of an answer.
    async def handle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        return False

    async def journey(user: Any) -> None:
        with step("first"):
            await user.get("/")
        with step("second"):
            await user.request(method, "/")

    method = "GET"
    driven = await drive(journey, (await serve(handle)).url, Constant(10, 0.05))
    assert driven.total.errors == {}
    assert driven.engine.retries == 1
    method = "POST"
    driven = await drive(journey, (await serve(handle)).url, Constant(10, 0.05))
    assert driven.result.named("second").errors in ({"closed": 1}, {"reset": 1})
    assert driven.engine.retries == 0


async def test_a_failed_request_raises_into_the_journey(serve: Any, drive: Any, raw: Any) -> None:
    seen: list[str] = []

    async def journey(user: Any) -> None:
        with step("s"):
            try:
                await user.get("/")
            except RequestFailed as error:
                seen.append(error.kind)

    driven = await drive(journey, (await serve(raw(b"nonsense\r\n\r\n"))).url)
    assert seen == ["protocol"] * 5
    assert driven.total.errors == {"protocol": 5}


async def test_connections_are_bounded_and_waiting_counts(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.05)
        writer.write(OK)
        return True

    server = await serve(handle)
    driven = await drive(get, server.url, Constant(200, 0.05), max_connections=2)
    assert driven.total.errors == {}
    assert driven.total.attempts == 10
    assert server.connections == 2
    # Ten requests of 50 ms over two connections: the last waits four rounds, and that counts in corrected
    # time only.
    assert driven.total.corrected.max > 190_000
    assert driven.total.uncorrected.max < 150_000
