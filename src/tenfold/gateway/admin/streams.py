"""The live stream on its two ways out: server-sent events (WHATWG HTML §9.2) and WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tenfold.gateway.admin import websocket
from tenfold.gateway.admin.http import Request, Response, problem

if TYPE_CHECKING:
    from tenfold.gateway.admin.live import Live, Looker

STALL: Final = 30.0
"""Seconds for which a looker may take nothing before it is cut."""


async def _pump(looker: Looker, writer: asyncio.StreamWriter, *, sse: bool) -> None:
    while not writer.transport.is_closing():
        kind, data = await looker.queue.get()
        if sse:
            writer.write(f"event: {kind}\ndata: {data}\n\n".encode())
        else:
            writer.write(websocket.text(f'{{"type": "{kind}", "data": {data}}}'))
        async with asyncio.timeout(STALL):
            await writer.drain()


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass  # a reader of events has nothing to say


async def _first(*works: asyncio.Task[None]) -> None:
    """Wait until one of them ends, and end the others."""
    try:
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in works:
            each.cancel()
        for each in works:
            with suppress(asyncio.CancelledError, OSError, TimeoutError, asyncio.IncompleteReadError):
                await each


def events(live: Live) -> Response:
    """The stream as server-sent events."""
    if live.full:
        return problem(503, "as many as may are looking on already")
    response = Response(200, b"text/event-stream")
    response.extra = b"Connection: close\r\n"

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with live.looking() as looker:
            await _first(asyncio.create_task(_pump(looker, writer, sse=True)), asyncio.create_task(_until_gone(reader)))

    response.stream = stream
    return response


def live_socket(live: Live, request: Request) -> Response:
    """The stream over a WebSocket: ``{"type": …, "data": …}`` a message."""
    head = request.head
    if head.upgrade != b"websocket" or head.get(b"sec-websocket-version") != b"13":
        return problem(426, "expected a WebSocket (RFC 6455)", b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
    accept = websocket.accept(head.get(b"sec-websocket-key") or b"")
    if accept is None:
        return problem(400, "Sec-WebSocket-Key: expected 16 bytes in base64")
    if live.full:
        return problem(503, "as many as may are looking on already")
    response = Response(101, b"")
    response.extra = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n" % accept

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with live.looking() as looker:
            await _first(
                asyncio.create_task(_pump(looker, writer, sse=False)),
                asyncio.create_task(websocket.listen(reader, writer)),
            )

    response.stream = stream
    return response
