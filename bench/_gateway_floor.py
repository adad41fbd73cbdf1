"""The least that Python on uvloop can do: ``python _gateway_floor.py PORT splice BACKEND`` or ``... PORT fixed``.

``splice`` passes bytes between a client and a connection of its own to the backend, looks at none of them and keeps no
account of anything: what remains is the loop, the kernel and two calls into Python for each request. ``fixed`` answers
whatever comes with the same bytes, as long as a stored 1 KiB with its head: the loop, the kernel and one call.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Cache-Control: max-age=3600\r\nContent-Length: 1024\r\nAge: 10\r\nCache-Status: tenfold; hit; ttl=3590\r\n\r\n"
)
_ANSWER = _HEAD + b"x" * 1024


class Fixed(asyncio.Protocol):
    """Always the same answer."""

    __slots__ = ("transport",)
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(_ANSWER)


class Side(asyncio.Protocol):
    """One side of a spliced pair; ``other`` is the other side's transport."""

    __slots__ = ("backend", "early", "other", "transport")
    transport: asyncio.Transport

    def __init__(self, backend: int = 0, other: asyncio.Transport | None = None) -> None:
        self.backend = backend
        self.other = other
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.other is None:
            task = asyncio.ensure_future(self._open())
            task.add_done_callback(lambda done: done.exception() and transport.close())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        there, _ = await loop.create_connection(lambda: Side(0, self.transport), "127.0.0.1", self.backend)
        self.other = there
        if self.early:
            there.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def main() -> None:
    """Serve until the process is ended."""
    port, what = int(sys.argv[1]), sys.argv[2]
    backend = int(sys.argv[3]) if what == "splice" else 0
    server = await asyncio.get_running_loop().create_server(
        Fixed if what == "fixed" else lambda: Side(backend), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
