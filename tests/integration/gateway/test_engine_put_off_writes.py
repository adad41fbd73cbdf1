"""Answers whose writing is put off (`engine.outbox`): a client that does not take them is not answered on and on."""

from __future__ import annotations

BODY = b"x" * 8000
STORED = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8000\r\n\r\n" + BODY
MANY = 1500
"""12 MB of answers: more than the sockets between them hold."""


async def test_a_client_that_asks_and_does_not_read_is_held_back_and_gets_all_of_it_later(wire) -> None:
    async with wire.Backend(STORED) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        peer = await run.connect()
        await peer.ask(wire.get("/a"))
        (client,) = run.gateway.site.clients
        peer.writer.transport.pause_reading()
        for _ in range(MANY):
            peer.send(wire.get("/a"))
        await run.until(lambda: client.full)
        assert client.transport.get_write_buffer_size() < 1_000_000
        assert run.counters["requests"] < MANY
        peer.writer.transport.resume_reading()
        for _ in range(MANY):
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, BODY)
        await run.at_rest()
        assert (run.counters["requests"], run.counters["answered_2xx"]) == (MANY + 1, MANY + 1)


async def test_an_answer_that_closes_is_complete(wire) -> None:
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        for lines in (("Connection: close",), ("Content-Length: 3", "Content-Length: 4")):
            peer = await run.connect()
            answer = await peer.ask(wire.get("/", *lines))
            assert answer.status == (200 if len(lines) == 1 else 400)
            assert await peer.rest() == b""
        await run.at_rest()
