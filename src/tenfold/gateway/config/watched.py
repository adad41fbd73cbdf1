"""A configuration file that is watched: changes that make sense are put into force, others are told and change nothing.

The rules are those of policies in a file (`tenfold.resilience.config_watch`): what counts is what the file holds,
once it has looked the same twice; a bad file is judged as a whole, and what was valid stays in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import Tasks
from tenfold._core.units import Duration, duration
from tenfold.gateway.config.config import Config
from tenfold.gateway.config.diff import Changes, diff
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.read import EngineName, load_config
from tenfold.gateway.config.rule import Route
from tenfold.resilience.config_read import ConfigError
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded, watch

Take = Callable[[Config, Changes], Awaitable[None]]
"""Puts a configuration into force. An exception leaves the old one in force and is told as a rejection."""


class ConfigFile:
    """The configuration of one file, as it is in force. Belongs to one event loop.

    Raises `GatewayConfigError` when made of a file that is wrong.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        engine: EngineName | None = None,
        clock: Clock = SYSTEM_CLOCK,
        hub: Hub = EVENTS,
    ) -> None:
        self.path: Final = Path(path)
        self.reloads = 0
        """How often a changed file came into force."""
        self.rejections = 0
        """How often a changed file was wrong."""
        self.problems: tuple[str, ...] = ()
        """What is wrong with the file as it is now; empty where nothing is."""
        self._environ = environ
        self._engine: Final = engine
        self._clock: Final = clock
        self._hub: Final = hub
        self._lock = asyncio.Lock()
        self._seen = self._look()
        self.config = self._load()

    def _load(self) -> Config:
        return load_config(self.path, environ=self._environ, engine=self._engine)

    def _look(self) -> str:
        """A digest of what the file holds."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as exc:
            return f"{exc.strerror or exc}"

    async def reload(self, take: Take) -> Changes:
        """Read the file now and hand what it says, and what is new in it, to ``take``; nothing where nothing is new.

        Raises `GatewayConfigError` for a file that is wrong, and what ``take`` raises; both change nothing, and are
        counted and told (`ConfigRejected`).
        """
        async with self._lock:
            self._seen = await asyncio.to_thread(self._look)
            try:
                config = await asyncio.to_thread(self._load)
                changes = diff(self.config, config)
                if changes:
                    await take(config, changes)
            except Exception as exc:
                problems = exc.problems if isinstance(exc, ConfigError) else (f"{self.path}: {exc}",)
                self.rejections += 1
                self.problems = problems
                self._hub.emit(ConfigRejected(str(self.path), problems))
                raise
            news = bool(changes or self.problems)
            self.config, self.problems = config, ()
        if news:
            self.reloads += 1
            added = _names(changes.pools_added, changes.routes_added)
            removed = _names(changes.pools_removed, changes.routes_removed)
            event = ConfigReloaded(str(self.path), added, removed, tuple(changes.lines()))
            self._hub.emit(event)
        return changes

    @asynccontextmanager
    async def watching(self, take: Take, interval: Duration = 1.0) -> AsyncIterator[ConfigFile]:
        """Look at the file every ``interval`` (default 1 s) while in the block, and hand what changed to ``take``.

        Raises `MisuseError` for an interval of zero.
        """
        seconds = duration(interval, "interval")
        if seconds == 0:
            raise MisuseError('interval: expected a duration longer than zero, such as "1s", got 0')

        async def put_into_force() -> None:
            with suppress(Exception):  # `reload` has counted and told it, and the watch goes on
                await self.reload(take)

        async with Tasks(f"configuration {self.path.name}", limit=1) as tasks:
            tasks.spawn(watch(self._look, lambda: self._seen, put_into_force, seconds, self._clock), name="watch")
            yield self

    def state(self) -> dict[str, object]:
        """What is in force and what is wrong with the file; ready for JSON, without secrets."""
        return {
            "path": str(self.path),
            "reloads": self.reloads,
            "rejections": self.rejections,
            "problems": list(self.problems),
            "warnings": [str(each) for each in self.config.warnings],
            "config": self.config.document(),
        }

    def __repr__(self) -> str:
        wrong = f" problems={len(self.problems)}" if self.problems else ""
        return f"<ConfigFile {str(self.path)!r} reloads={self.reloads} rejections={self.rejections}{wrong}>"


def _names(pools: tuple[Pool, ...], routes: tuple[Route, ...]) -> tuple[str, ...]:
    return (*(f"pool {each.name}" for each in pools), *(f"route {each.name}" for each in routes))
