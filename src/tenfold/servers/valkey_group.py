"""What a cluster and a master with Sentinels have in common: several Valkeys of one run, started and ended together."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.servers.errors import NotRunningError, ServersTimeoutError
from tenfold.servers.home import Home, open_home
from tenfold.servers.launch import finish, together
from tenfold.servers.run import Run
from tenfold.servers.server import open_run
from tenfold.servers.valkey import Valkey

_LOOK: Final = 0.05


class ValkeyGroup(ABC):
    """An ``async with`` block, or `start` and `close`; ``within`` is how long the start may take."""

    def __init__(self, *, within: Duration, state: Path | str | None) -> None:
        self.within = duration(within, "within")
        self._state = state
        self._run: Run | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(map(repr, self.servers)) or 'down'}>"

    @property
    def run(self) -> Run:
        if self._run is None:
            raise NotRunningError(
                f"{type(self).__name__} was expected to be started and is not: use `async with` or `await start()`"
            )
        return self._run

    async def start(self) -> None:
        """Start all and wait until they know one another. On a failure nothing is left behind."""
        if self._run is not None:
            raise MisuseError(f"expected a {type(self).__name__} that is down, it was started already")
        home = await asyncio.to_thread(open_home, self._state)
        self._run = await open_run(home)
        try:
            await self._start(home, self._run)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all and remove their files. May be called twice."""
        if self._run is not None:
            run, self._run = self._run, None
            await finish(asyncio.to_thread(run.close))
            for server in self.servers:
                server.reap()

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def servers(self) -> Sequence[Valkey]: ...

    @abstractmethod
    async def _start(self, home: Home, run: Run) -> None: ...

    async def _all(self, servers: Sequence[Valkey]) -> None:
        await together(*(server.start() for server in servers))

    async def _until(self, what: str, done: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + self.within
        while not await done():
            if time.monotonic() > deadline:
                raise ServersTimeoutError(f"expected {what} within {format_duration(self.within)}, it did not happen")
            await asyncio.sleep(_LOOK)
