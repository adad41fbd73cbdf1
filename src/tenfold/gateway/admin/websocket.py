"""As much of RFC 6455 as a server needs that only talks: the handshake, text out, and control frames in.

Theory. A library would do this too, and the gateway has no other use for one: it passes WebSockets through unread. What
is left out is what makes the protocol long: fragments and text from the client (both are refused, §7.4.1: 1003),
extensions (none is agreed on), and frames of more than `_MOST` bytes (1009). What is kept are the rules that guard a
server: frames of clients are masked (§5.1), control frames are short and whole (§5.5), reserved bits are 0 (§5.2).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_MOST: Final = 125
"""Bytes of a control frame (§5.5), and we take no others."""


def accept(key: bytes) -> bytes | None:
    """What answers a client's key (§4.2.2); None for one that is none."""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame of a server's, unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8) + payload


def text(message: str) -> bytes:
    """A message."""
    return frame(_TEXT, message.encode())


def close(code: int) -> bytes:
    """The end."""
    return frame(_CLOSE, code.to_bytes(2))


async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer pings until the client closes or breaks a rule; both are answered with a close."""
    while True:
        first, second = await reader.readexactly(2)
        opcode, size = first & 0x0F, second & 0x7F
        if first & 0x70 or not second & 0x80 or (opcode >= _CLOSE and (size > _MOST or not first & 0x80)):
            writer.write(close(1002))
            return
        if opcode not in (_CLOSE, _PING, _PONG):
            writer.write(close(1003 if size <= _MOST else 1009))
            return
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(size)
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
        if opcode == _CLOSE:
            writer.write(frame(_CLOSE, payload[:2]))
            return
        if opcode == _PING:
            writer.write(frame(_PONG, payload))
