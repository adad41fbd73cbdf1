"""A command to a Valkey and its answer, without a client library: to set clusters and Sentinels up."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tenfold.servers.errors import ServersError
from tenfold.servers.ports import HOST

_WITHIN: Final = 5.0


async def tell(port: int, *words: str | int | bytes) -> Any:
    """The answer: text, a number, a list or None. Raises `ServersError` for a refusal, `OSError` for no server."""
    async with asyncio.timeout(_WITHIN):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(one), one) for one in parts))
            return await _answer(reader, words)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader, words: tuple[str | int | bytes, ...]) -> Any:
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return rest.decode()
        case b":":
            return int(rest)
        case b"$":
            return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2].decode(errors="replace")
        case b"*":
            return None if rest == b"-1" else [await _answer(reader, words) for _ in range(int(rest))]
    raise ServersError(f"{' '.join(map(str, words[:3]))} was expected to be done and was refused: {rest.decode()}")
