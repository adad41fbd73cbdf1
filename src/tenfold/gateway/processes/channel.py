"""The private line between a supervisor and one of its workers: calls and answers over a socket pair.

A frame is four bytes of length (network order) and that many bytes of JSON. A call is ``{"id", "method", "params",
"timeout"}``; its answer ``{"id", "result"}`` or ``{"id", "error", "kind"}``. Calls may overlap, and answers come in the
order in which they are ready. Every call has a deadline, which the worker keeps too, so that what nobody waits for any
more is not carried on with.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.tasks import Tasks

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a frame at most."""
_AT_ONCE: Final = 64
_LENGTH: Final = struct.Struct("!I")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

Answer = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class WorkerError(TenfoldError):
    """A worker could not do what it was asked to. ``kind`` is the name of what it raised."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind: Final = kind


class WorkerGoneError(TenfoldError):
    """The worker ended before it answered."""


class WorkerTimeoutError(TenfoldError, TimeoutError):
    """The worker did not answer in time."""


class Writer(Protocol):
    """What of `asyncio.StreamWriter` is used."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


async def _read(reader: asyncio.StreamReader) -> Any:
    """The next frame. Raises `IncompleteReadError` at the end."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > LARGEST:
        raise MisuseError(f"worker channel: expected a frame of {LARGEST} bytes at most, got {length}")
    return _decode(await reader.readexactly(length))


def _frame(value: dict[str, Any]) -> bytes:
    data = _encode(value)
    if len(data) > LARGEST:
        raise MisuseError(f"worker channel: expected {LARGEST} bytes at most, got {len(data)}")
    return _LENGTH.pack(len(data)) + data


class Channel:
    """The supervisor's end. `listen` must run for as long as calls are made."""

    __slots__ = ("_next", "_reader", "_waiting", "_writer", "gone", "name")

    def __init__(self, reader: asyncio.StreamReader, writer: Writer, name: str) -> None:
        self.name = name
        self.gone = False
        """Whether the other end has closed."""
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next = 0

    async def listen(self) -> None:
        """Take answers until the worker's end closes."""
        try:
            while True:
                frame = await _read(self._reader)
                waiting = self._waiting.get(frame["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.gone = True
            for each in self._waiting.values():
                if not each.done():
                    each.set_exception(WorkerGoneError(f"{self.name}: it ended before it answered"))

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """What the worker answers.

        Raises `MisuseError` where the worker did, `WorkerError` for all else it raised, `WorkerTimeoutError` after
        ``timeout`` seconds and `WorkerGoneError` where it ended.
        """
        if self.gone:
            raise WorkerGoneError(f"{self.name}: it has ended")
        self._next += 1
        id = self._next
        waiting = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(_frame({"id": id, "method": method, "params": params, "timeout": timeout}))
                await self._writer.drain()
                frame = await waiting
        except TimeoutError:
            raise WorkerTimeoutError(f"{self.name}: no answer to {method!r} within {timeout:g} s") from None
        except ConnectionError:
            raise WorkerGoneError(f"{self.name}: it ended before it was asked") from None
        finally:
            del self._waiting[id]
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # seen, whoever was cancelled meanwhile
        if "error" not in frame:
            result: dict[str, Any] = frame["result"]
            return result
        if frame["kind"] == "MisuseError":
            raise MisuseError(frame["error"])
        raise WorkerError(f"{self.name}: {frame['error']}", frame["kind"])

    def __repr__(self) -> str:
        return f"<Channel {self.name}{' gone' if self.gone else ''} waiting={len(self._waiting)}>"


async def answer(reader: asyncio.StreamReader, writer: Writer, method: Answer) -> None:
    """The worker's end: answer calls by ``method`` until the supervisor's end closes."""

    async def one(frame: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"id": frame["id"]}
        try:
            async with asyncio.timeout(frame["timeout"]):
                reply["result"] = await method(frame["method"], frame["params"])
            data = _frame(reply)
        except Exception as error:  # noqa: BLE001 - the caller, another process, raises it
            data = _frame({"id": frame["id"], "error": str(error) or repr(error), "kind": type(error).__name__})
        writer.write(data)
        await writer.drain()

    async with Tasks("worker channel", limit=_AT_ONCE) as tasks:
        try:
            while True:
                frame = await _read(reader)
                tasks.spawn(one(frame), name=frame["method"])
        except (asyncio.IncompleteReadError, ConnectionError):
            return
