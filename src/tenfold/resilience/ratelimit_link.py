"""How a shared rate limit talks to its Valkey: one script, a short time-out, no retries.

Two links of the same face. `AsyncLink` belongs to one event loop and has one connection, over which the questions of
all tasks travel in packets: while one is under way, the next gathers. `SyncLink` is for threads and keeps as many
connections as threads ask at once. Neither decides anything: who asks gets an answer or `StoreDown`, within the
time-out, connecting included.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import format_duration
from tenfold.resilience.ratelimit_script import SCRIPT, SHA

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

Question = tuple[str, Sequence[str | int | float]]
"""The record's name, and the script's arguments."""

_PACKET: Final = 256
_WAITING: Final = 20_000
_LATE: Final = 3  # so often may this loop itself be late before it is the server's fault
_THREADS: Final = 64
_NEEDS: Final = "rate limit: store= needs the redis package; install it with `pip install 'tenfold[redis]'`"


class StoreDown(TenfoldError):
    """The store did not answer in time, or not with an answer. Never leaves this package."""


def _eval(question: Question) -> tuple[Any, ...]:
    return ("EVALSHA", SHA, 1, question[0], *question[1])


def _eval_whole(question: Question) -> tuple[Any, ...]:
    return ("EVAL", SCRIPT, 1, question[0], *question[1])


class AsyncLink:
    """The connection of one event loop. `ask` from any of its tasks; `aclose` at the end, or let the loop end."""

    def __init__(self, url: str, timeout: float) -> None:
        try:
            from redis.asyncio.connection import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import NoScriptError, RedisError, ResponseError
        except ImportError as error:
            raise MisuseError(_NEEDS) from error
        try:
            self._factory = ConnectionPool.from_url(url, protocol=2, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        except ValueError as error:
            raise MisuseError(f"rate limit: store {url!r} is no URL of a Valkey or Redis: {error}") from error
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, EOFError)
        self._refusal, self._unknown = ResponseError, NoScriptError
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._waiting: deque[tuple[Question, asyncio.Future[list[int]]]] = deque()
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def abandon(self) -> None:
        """Close it from outside of its loop, soon. For an owner that goes on with another store."""
        pump, self._pump = self._pump, None
        if pump is not None and not pump.done() and not pump.get_loop().is_closed():
            pump.get_loop().call_soon_threadsafe(pump.cancel)

    async def ask(self, question: Question) -> list[int]:
        """The script's answer. Raises `StoreDown`."""
        if len(self._waiting) >= _WAITING:
            raise StoreDown(f"{_WAITING} calls wait for the store already")
        loop = asyncio.get_running_loop()
        if self._pump is None or self._pump.done():
            # It lives as long as the loop: `asyncio.run` cancels it at its end, and it closes the connection.
            self._pump = loop.create_task(self._run(), name="tenfold rate limit")
        answer: asyncio.Future[list[int]] = loop.create_future()
        self._waiting.append((question, answer))
        self._wake.set()
        return await answer

    async def aclose(self) -> None:
        """Close the connection; who waits gets `StoreDown`."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.wait((pump,))

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    packet = [self._waiting.popleft() for _ in range(min(_PACKET, len(self._waiting)))]
                    await self._send([each for each in packet if not each[1].done()])
        finally:
            self._fail(self._waiting, "the connection was closed")
            await self._disconnect()

    async def _send(self, packet: Sequence[tuple[Question, asyncio.Future[list[int]]]]) -> None:
        if not packet:
            return
        trouble = "the connection was closed"
        talk = asyncio.get_running_loop().create_task(self._talk([question for question, _ in packet]))
        try:
            if await self._in_time(talk):
                for (_, answer), found in zip(packet, talk.result(), strict=True):
                    if not answer.done():
                        if isinstance(found, Exception):
                            answer.set_exception(StoreDown(str(found)))
                        else:
                            answer.set_result(found)
                return
            trouble = f"no answer within {format_duration(self._timeout)}"
        except self._failures as error:
            trouble = str(error) or type(error).__name__
        finally:
            if not talk.done():
                talk.cancel()
                await asyncio.wait((talk,))
            if not all(answer.done() for _, answer in packet):
                self._fail(packet, trouble)
                # They came while this packet was under way; to let each wait its own time-out would add up.
                self._fail(self._waiting, trouble)
                await self._disconnect()

    async def _in_time(self, talk: asyncio.Future[Any]) -> bool:
        """Whether it ended in time. A timer that comes late tells of this loop, not of the server."""
        loop = asyncio.get_running_loop()
        for _ in range(_LATE):
            due = loop.time() + self._timeout
            await asyncio.wait((talk,), timeout=self._timeout)
            if talk.done() or loop.time() - due < self._timeout / 2:
                break
        return talk.done()

    async def _talk(self, questions: Sequence[Question]) -> list[Any]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._factory.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()
        answers = await self._exchange(connection, [_eval(question) for question in questions])
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, self._unknown)]
        if unknown:
            again = await self._exchange(connection, [_eval_whole(questions[place]) for place in unknown])
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def _exchange(self, connection: AbstractConnection, commands: Sequence[Any]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except self._refusal as refusal:
                answers.append(refusal)
        return answers

    def _fail(self, those: Sequence[tuple[Question, asyncio.Future[list[int]]]], why: str) -> None:
        for _, answer in those:
            if not answer.done():
                answer.set_exception(StoreDown(why))
        if those is self._waiting:
            self._waiting.clear()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


class SyncLink:
    """Connections for threads. `ask` from any of them; `close` at the end."""

    def __init__(self, url: str, timeout: float) -> None:
        try:
            from redis.backoff import NoBackoff
            from redis.connection import ConnectionPool
            from redis.exceptions import NoScriptError, RedisError
            from redis.retry import Retry
        except ImportError as error:
            raise MisuseError(_NEEDS) from error
        try:
            self._factory = ConnectionPool.from_url(
                url, protocol=2, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise MisuseError(f"rate limit: store {url!r} is no URL of a Valkey or Redis: {error}") from error
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, EOFError)
        self._unknown = NoScriptError
        self._timeout = timeout
        self._idle: list[Any] = []  # redis-py's own types contradict each other
        self._room = threading.Semaphore(_THREADS)

    def ask(self, question: Question) -> list[int]:
        """The script's answer. Raises `StoreDown`."""
        if not self._room.acquire(timeout=self._timeout):
            raise StoreDown(f"{_THREADS} threads ask the store already")
        try:
            return self._ask(question)
        except self._failures as error:
            raise StoreDown(str(error) or type(error).__name__) from error
        finally:
            self._room.release()

    def close(self) -> None:
        """Close what is idle. A connection in use is closed by who uses it when it fails, or kept for the next."""
        while self._idle:
            self._idle.pop().disconnect()

    def _ask(self, question: Question) -> list[int]:
        connection: Any = self._take()
        healthy = False
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_command(*_eval(question)))
            try:
                answer: list[int] = connection.read_response()
            except self._unknown:
                connection.send_packed_command(connection.pack_command(*_eval_whole(question)))
                answer = connection.read_response()
            healthy = True
            return answer
        finally:
            if healthy:
                self._idle.append(connection)
            else:
                connection.disconnect()

    def _take(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            try:
                if not connection.can_read(0):
                    return connection
            except self._failures:
                pass  # the other side has closed it
            connection.disconnect()
        return self._factory.make_connection()
