"""One GET over one connection, for health checks and nothing else.

A check must not depend on the client library that is being balanced, must not pool, and reads an answer only as far as
it must: a status line, the headers (16 KiB at most) and, where the length is given, the body (64 KiB of it at most),
so that a server which stalls or is cut in the middle of its answer does not pass for well. What is not HTTP/1.1
(RFC 9112) is a no with a sentence.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError, TenfoldError

_HEAD_LIMIT: Final = 16 * 1024
_BODY_LIMIT: Final = 64 * 1024
_INTERIM: Final = 5
"""How many 1xx answers may come before the final one."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_FIELDS: Final = "User-Agent: tenfold-check\r\nAccept: */*\r\nConnection: close\r\n"
_PORTS: Final = {"http": 80, "https": 443}


class NoAnswer(TenfoldError):
    """What came back is no answer that counts; the message says what it was."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers; names are in lower case, and of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]


def check_path(path: object) -> None:
    """Raises `MisuseError` for what cannot stand in a request line."""
    if not isinstance(path, str) or re.fullmatch(r"/[!-~]*", path) is None:
        raise MisuseError(f'check path: expected a path such as "/health", in ASCII and without spaces, got {path!r}')


@functools.cache
def _system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads the authorities from disk: once, not at every probe


async def connect(
    url: str, *, host: str = "", tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection to an endpoint's url, with the handshake where the scheme is ``https``.

    Raises `OSError` (which `ssl.SSLError` is) and `NoAnswer`.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path, limit=_HEAD_LIMIT)
    try:
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise NoAnswer(f"{url}: {error}") from None
    if parts.hostname is None or port is None:
        raise NoAnswer(f"{url} names no host and port to connect to")
    context = None if parts.scheme != "https" else _system_tls() if tls is None else tls
    name = None if context is None else re.sub(r":\d+$", "", host) or parts.hostname
    try:
        return await asyncio.open_connection(parts.hostname, port, limit=_HEAD_LIMIT, ssl=context, server_hostname=name)
    except UnicodeError as error:  # a name that no DNS could hold
        raise NoAnswer(f"{url}: {error}") from None


async def get(url: str, path: str, *, host: str = "", tls: ssl.SSLContext | None = None) -> Answer:
    """``GET path`` from the server at ``url``. The caller sets the deadline.

    Raises `OSError` and `NoAnswer`.
    """
    reader, writer = await connect(url, host=host, tls=tls)
    try:
        name = host or urlsplit(url).netloc.rpartition("@")[2] or "localhost"
        if not name.isascii():
            raise NoAnswer(f"the host name {name!r} is not ASCII; give the check the name to ask for as its host")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n{_FIELDS}\r\n".encode("ascii"))
        await writer.drain()
        return await _answer(reader)
    finally:
        writer.transport.abort()  # nothing is left to send, and a peer that hangs must not hold up the close


async def _answer(reader: asyncio.StreamReader) -> Answer:
    for _ in range(_INTERIM + 1):
        answer = _parse(await _head(reader))
        if answer.status >= 200:
            await _body(reader, answer)
            return answer
        if answer.status == 101:
            raise NoAnswer("the server switched protocols, which nobody asked for")
    raise NoAnswer(f"more than {_INTERIM} interim answers and no final one")


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        what = f"{len(error.partial)} bytes of an answer" if error.partial else "any answer"
        raise NoAnswer(f"the connection ended {'after' if error.partial else 'before'} {what}") from None
    except asyncio.LimitOverrunError:
        raise NoAnswer(f"no end of the headers within {_HEAD_LIMIT} bytes") from None


def _parse(head: bytes) -> Answer:
    first, *lines = head[:-4].split(b"\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise NoAnswer(f"not an HTTP answer: it begins with {first[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise NoAnswer(f"not an HTTP header: {line[:40]!r}")
        headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()
    return Answer(int(match[1]), headers)


async def _body(reader: asyncio.StreamReader, answer: Answer) -> None:
    length = answer.headers.get("content-length", "")
    if answer.status in (204, 304) or not (length.isascii() and length.isdigit()):
        return
    try:
        await reader.readexactly(min(int(length[:12]), _BODY_LIMIT))
    except asyncio.IncompleteReadError as error:
        raise NoAnswer(f"the connection ended after {len(error.partial)} of {length} bytes of the body") from None
