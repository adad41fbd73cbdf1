"""The connections to one Valkey: two lanes that everybody shares, and one for the subscription.

redis-py sets a connection up (URL, credentials or a credentials provider, TLS, database); a `Lane` then takes over its
transport, because pool, streams, retries and command objects cost several times the exchange itself. Reads, leases and
stores take the first lane; invalidations, which have more patience, take a lane of their own, so that a look-up's
time-out never breaks one off. Belongs to one event loop.

Setting up has its own time-out (1 s): who waits for it may go away earlier, the next one finds it further on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from tenfold._core.errors import MisuseError
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.lane import Answered, Command, Lane

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["FAST", "SURE", "Command", "Link"]

CONNECT_PATIENCE: Final = 1.0
FAST: Final = 0
SURE: Final = 1


class Link:
    """Connections to ``url``, made when needed."""

    def __init__(self, url: str, *, credentials: Any = None) -> None:
        try:
            import hiredis
            from redis.asyncio.connection import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError as error:
            raise MisuseError(
                "redis=: needs the redis and hiredis packages; install them with `pip install tenfold[redis]`"
            ) from error
        del hiredis
        extra = {} if credentials is None else {"credential_provider": credentials}
        if extra and (not hasattr(credentials, "get_credentials") or "@" in url):
            raise MisuseError(
                f"credentials: expected a redis-py CredentialProvider and no user in the URL, got {credentials!r}"
            )
        try:
            # RESP2: no pushes between the answers, and a subscribed connection answers with plain lists.
            self._factory = ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=CONNECT_PATIENCE,
                retry=Retry(NoBackoff(), 0),
                **extra,
            )
        except ValueError as error:
            raise MisuseError(
                f"redis=: expected a URL such as redis://127.0.0.1:6379/0, got {url!r} ({error})"
            ) from error
        self._failures: tuple[type[Exception], ...] = (
            LevelTwoDown,
            RedisError,
            OSError,
            EOFError,
            ValueError,  # how redis-py reads garbage
        )
        self._lanes: list[Lane | None] = [None, None]
        self._owners: dict[Lane, AbstractConnection] = {}
        self._setups: dict[int, asyncio.Task[Lane]] = {}
        self._closed = False
        self.connections = 0

    def lane(self, which: int = FAST) -> Lane | None:
        """The lane, if it is open now."""
        lane = self._lanes[which]
        return None if lane is None or lane.lost else lane

    async def opened(self, patience: float, which: int = FAST) -> Lane:
        """The lane, set up if need be. Raises `LevelTwoDown` after ``patience`` seconds; the set-up then goes on."""
        lane = self.lane(which)
        if lane is not None:
            return lane
        if self._closed:
            raise LevelTwoDown("the cache is closed")
        setup = self._setups.get(which)
        if setup is None:
            setup = self._setups[which] = asyncio.get_running_loop().create_task(self._set_up(which))
            setup.add_done_callback(lambda task: self._settled(which, task))
        done, _ = await asyncio.wait((setup,), timeout=patience)
        if not done:
            raise LevelTwoDown(f"no connection within {patience * 1000:.0f} ms")
        try:
            return setup.result()
        except asyncio.CancelledError:
            raise LevelTwoDown("the cache is closed") from None

    async def exchange(self, commands: Sequence[Command], patience: float, which: int = FAST) -> list[Any]:
        """The answers to ``commands``, an error answer as an exception object in its place.

        Raises `LevelTwoDown` when there is no connection or no answer within ``patience`` seconds each.
        """
        lane = await self.opened(patience, which)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        lane.send(commands, patience, into(answer))
        return await answer

    async def dedicated(self) -> AbstractConnection:
        """A connection of the caller's own, connected. Raises `LevelTwoDown`."""
        connection = cast("AbstractConnection", self._factory.make_connection())  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, Exception):  # whatever it is, a credentials provider's own errors too
                raise LevelTwoDown(f"no connection: {type(error).__qualname__}: {error}") from error
            raise
        return connection

    async def drop(self, *which_ones: int) -> None:
        """Close these lanes."""
        for which in which_ones:
            lane = self._lanes[which]
            self._lanes[which] = None
            if lane is not None:
                await self._close(lane)

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        setups = list(self._setups.values())
        for setup in setups:
            setup.cancel()
        if setups:
            await asyncio.wait(setups, timeout=CONNECT_PATIENCE)
        await self.drop(FAST, SURE)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions by which a connection fails."""
        return self._failures

    async def _set_up(self, which: int) -> Lane:
        old = self._lanes[which]
        if old is not None:
            await self._close(old)
        connection = await self.dedicated()
        lane = Lane()
        # redis-py has no public way to its transport; tests/integration/cache/test_lanes.py would notice a change.
        writer = cast("asyncio.StreamWriter", connection._writer)
        self._owners[lane] = connection
        self.connections += 1
        self._lanes[which] = lane
        lane.take_over(writer.transport)
        return lane

    def _settled(self, which: int, task: asyncio.Task[Lane]) -> None:
        self._setups.pop(which, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; if nobody does any more, the next one tries again

    async def _close(self, lane: Lane) -> None:
        lane.give_up("the connection is being closed")
        connection = self._owners.pop(lane, None)
        if connection is not None:
            self.connections -= 1
            await connection.disconnect(nowait=True)


def into(answer: asyncio.Future[list[Any]]) -> Answered:
    """Hands a packet's answers to a future, unless its owner has gone."""

    def answered(answers: list[Any] | LevelTwoDown) -> None:
        if answer.done():
            return
        if isinstance(answers, LevelTwoDown):
            answer.set_exception(answers)
        else:
            answer.set_result(answers)

    return answered
