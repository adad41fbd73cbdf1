"""One server of the cluster as one event loop sees it: a pool of connections, and whether it answered last
time.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final, cast

from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 8.0
_TURNS_TO_NOTICE: Final = 5


class Node:
    """A server, its engine and its health.

    A connection that the server closed while it lay in the pool is noticed at check-out, because the driver
    has seen the end of the stream: no ping, no round trip. A failure sets the node aside for a back-off that
    doubles from 0.5 to 8 seconds; a connection that comes about again ends it.
    """

    __slots__ = ("_backoff", "_down_until", "engine", "failures", "last_error", "name", "url")

    def __init__(self, name: str, url: URL, monotonic: Callable[[], float], **options: Any) -> None:
        self.name = name
        self.url = url
        self.engine: AsyncEngine = create_async_engine(url, **options)
        self.failures = 0
        self.last_error = ""
        self._down_until = 0.0
        self._backoff = FIRST_BACKOFF

        def forsake_dead(adapted: Any, record: object, proxy: object) -> None:
            if _is_dead(adapted.driver_connection):
                raise DisconnectionError("the server closed this connection while it lay in the pool")

        def note_failure(context: ExceptionContext) -> None:
            error = context.original_exception
            # A statement that took too long says nothing about the server, and TimeoutError is an OSError.
            if context.is_disconnect or (isinstance(error, OSError) and not isinstance(error, TimeoutError)):
                self.fail(error, monotonic())

        event.listen(self.engine.sync_engine, "checkout", forsake_dead)
        event.listen(self.engine.sync_engine, "handle_error", note_failure)

    @property
    def in_flight(self) -> int:
        """Connections in use now."""
        return cast("QueuePool", self.engine.sync_engine.pool).checkedout()

    def usable(self, now: float) -> bool:
        """Whether it may be tried at the monotonic time ``now``."""
        return now >= self._down_until

    def fail(self, error: BaseException, now: float) -> None:
        """It did not answer: set it aside."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self._down_until = now + self._backoff
        self._backoff = min(LONGEST_BACKOFF, self._backoff * 2)

    def reserve(self, now: float) -> None:
        """Whoever tries a node that failed before sets it aside for the others until the outcome is known."""
        if self._backoff > FIRST_BACKOFF:
            self._down_until = now + self._backoff

    def succeed(self) -> None:
        """It answers."""
        self._down_until, self._backoff = 0.0, FIRST_BACKOFF

    def __repr__(self) -> str:
        state = f", failed {self.failures} times, last: {self.last_error}" if self.failures else ""
        url = self.url.render_as_string(hide_password=True)
        return f"Node({self.name}, {url}, {self.in_flight} in use{state})"


def _is_dead(connection: Any) -> bool:
    """Whether the server has closed this idle connection.

    The driver knows once the loop has read the end of the stream. In a busy loop that may lie unread in the
    socket; so when something is there to read, the loop is given the few turns that it needs to take it in.
    """
    if connection.is_closed():
        return True
    socket = connection._transport.get_extra_info("socket")
    waiting = select.poll()
    waiting.register(socket.fileno(), select.POLLIN)
    if waiting.poll(0):
        for _ in range(_TURNS_TO_NOTICE):
            await_only(asyncio.sleep(0))
            if connection.is_closed():
                return True
    return False
