"""A route to the server that has certain names: two lanes, opened when needed and dropped when they fail.

Reads, leases and stores take the first lane; invalidations, which have more patience, take a lane of their own, so
that a look-up's time-out never breaks one off. Belongs to one event loop.

Setting up has its own time-out (1 s): who waits for it may go away earlier, the next one finds it further on.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.lane import Answered, Command, Lane

CONNECT_PATIENCE: Final = 1.0
FAST: Final = 0
SURE: Final = 1


class Route(ABC):
    """What `batch` and `redis` see of connections."""

    def __init__(self) -> None:
        self._lanes: list[Lane | None] = [None, None]
        self._setups: dict[int, asyncio.Task[Lane]] = {}
        self._closed = False

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
        return await ask(await self.opened(patience, which), commands, patience)

    def displaced(self, answer: object) -> bool:
        """Whether this answer means that the names are to be looked for elsewhere."""
        del answer
        return False

    @abstractmethod
    async def drop(self, *which_ones: int) -> None:
        """These lanes are not to be used again."""

    @abstractmethod
    async def _set_up(self, which: int) -> Lane: ...

    async def aclose(self) -> None:
        """Nothing is set up any more."""
        self._closed = True
        setups = list(self._setups.values())
        for setup in setups:
            setup.cancel()
        if setups:
            await asyncio.wait(setups, timeout=CONNECT_PATIENCE)
        await self.drop(FAST, SURE)

    def _settled(self, which: int, task: asyncio.Task[Lane]) -> None:
        self._setups.pop(which, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; if nobody does any more, the next one tries again


async def ask(lane: Lane, commands: Sequence[Command], patience: float) -> list[Any]:
    """The answers on this very lane. Raises `LevelTwoDown`."""
    answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    lane.send(commands, patience, into(answer))
    return await answer


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
