"""A few connections to one Valkey, and one way to use them: write commands in one piece, read as many
answers.

Stands on redis-py's connection objects (URL, credentials, TLS, RESP parser by hiredis) without its pool,
retries and command objects, which cost several times the exchange itself. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from tenfold._core.errors import MisuseError
from tenfold.cache.errors import LevelTwoDown

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

Command = Sequence[str | bytes | int]

_CONNECT_TIMEOUT: Final = 1.0
_EXTENSIONS: Final = 3


class Link:
    """Connections to ``url``, made when needed, at most as many as exchanges are under way at once."""

    def __init__(self, url: str) -> None:
        try:
            from redis.asyncio.connection import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError, ResponseError
        except ImportError as error:
            raise MisuseError(
                "redis=: needs the redis package; install it with `pip install tenfold[redis]`"
            ) from error
        try:
            # RESP2: no pushes between the answers, and a subscribed connection answers with plain lists.
            self._factory = ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=_CONNECT_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise MisuseError(
                f"redis=: expected a URL such as redis://127.0.0.1:6379/0, got {url!r} ({error})"
            ) from error
        self._failures: tuple[type[Exception], ...] = (LevelTwoDown, RedisError, OSError, EOFError)
        self._refusal = ResponseError
        self._idle: list[AbstractConnection] = []
        self._closed = False
        self.connections = 0

    async def exchange(self, commands: Sequence[Command], patience: float) -> list[Any]:
        """The answers to ``commands``, an error answer as an exception object in its place.

        Raises `LevelTwoDown` after ``patience`` seconds or when the connection fails. When the timer itself
        comes late, it is this loop that was busy and not the server: then the answer gets the same time
        again, at most three times.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        due, expired, extensions = loop.time() + patience, False, 0
        timer: asyncio.TimerHandle

        def expire() -> None:
            nonlocal due, expired, extensions, timer
            now = loop.time()
            if now - due > patience / 4 and extensions < _EXTENSIONS:
                extensions += 1
                due = now + patience
                timer = loop.call_at(due, expire)
            else:
                expired = True
                task.cancel()

        timer = loop.call_at(due, expire)
        try:
            return await self._talk(commands)
        except asyncio.CancelledError:
            if expired and task.uncancel() == 0:
                raise LevelTwoDown(f"no answer within {patience * 1000:.0f} ms") from None
            raise
        except self._failures as error:
            raise LevelTwoDown(str(error)) from error
        finally:
            timer.cancel()

    async def dedicated(self) -> AbstractConnection:
        """A connection of the caller's own, connected. Raises `LevelTwoDown`."""
        connection = self._make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except self._failures as error:
            raise LevelTwoDown(str(error)) from error
        return connection

    async def drop_idle(self) -> None:
        """Close what is not in use: after a failure the others are suspect as well."""
        while self._idle:
            await self._close(self._idle.pop())

    async def aclose(self) -> None:
        """Close every connection. Those in use are closed by whoever uses them."""
        self._closed = True
        await self.drop_idle()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions by which a connection fails."""
        return self._failures

    async def _talk(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._take()
        healthy = False
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            answers: list[Any] = []
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except self._refusal as refusal:
                    answers.append(refusal)
            healthy = True
            return answers
        finally:
            if healthy and not self._closed:
                self._idle.append(connection)
            else:
                await self._close(connection)

    async def _take(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            try:
                if not await connection.can_read():
                    return connection
            except OSError:
                pass  # closed by the other side; the next one, or a new one, takes its place
            await self._close(connection)
        connection = self._make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self.connections += 1
        return connection

    def _make(self) -> AbstractConnection:
        return cast("AbstractConnection", self._factory.make_connection())  # type: ignore[no-untyped-call]

    async def _close(self, connection: AbstractConnection) -> None:
        self.connections -= 1
        await connection.disconnect(nowait=True)
