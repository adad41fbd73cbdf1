"""A set in a file that is watched."""

from __future__ import annotations

import asyncio
import json
import os
import random as _random
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration
from tenfold.balance.discovery.base import LookFailed, Polled, positive
from tenfold.balance.discovery.declared import read_endpoints
from tenfold.balance.endpoint import Endpoint

_SETTLE: Final = 0.1
_LIMIT: Final = 4 * 1024 * 1024


class FromFile(Polled):
    """The endpoints of a TOML or JSON file, by its suffix, looked at every ``every`` (1 s)::

        endpoints = ["http://10.0.0.1:8000", { url = "http://10.0.0.2:8000", weight = 2, zone = "eu-1" }]

    (in JSON ``{"endpoints": [...]}``; see `read_endpoints`). A file that is gone, cannot be parsed, or declares what
    makes no sense, nothing at all included, changes nothing and is told by `DiscoveryFailed`.

    A change is recognised by what the file holds, read whole at each look: it costs microseconds, and modification
    times miss a second edit within a clock tick, a swapped symbolic link (Kubernetes mounts its ConfigMaps so) and
    a file moved into place with its old time stamp. It counts once the file has looked the same twice, 0.1 s apart,
    or a file caught while it is written would pass for a shorter list.

    Raises `MisuseError` for another suffix.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: Duration = 1.0,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
        events: Hub = EVENTS,
    ) -> None:
        self._every = positive(every, "file every")
        self.path: Final = Path(path)
        super().__init__(
            f"file {self.path}", pause=self._every, pause_max=self._every, clock=clock, random=random, events=events
        )
        if self.path.suffix not in (".toml", ".json"):
            raise MisuseError(f'file: expected a path that ends in ".toml" or ".json", got {str(path)!r}')
        self._taken: bytes | None = None

    async def _look(self) -> tuple[Sequence[Endpoint] | None, float]:
        data = await asyncio.to_thread(self._read)
        if data == self._taken:
            return None, self._every
        if self._taken is not None:
            await self._clock.sleep(min(_SETTLE, self._every))
            if data != await asyncio.to_thread(self._read):
                return None, min(_SETTLE, self._every)
        found = self._parse(data)
        self._taken = data
        return found, self._every

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = file.read(_LIMIT + 1)
        except OSError as error:
            raise LookFailed(f"cannot read {self.path}: {error.strerror or error}") from None
        if len(data) > _LIMIT:
            raise LookFailed(f"{self.path} is larger than {_LIMIT} bytes; a list of endpoints is not")
        return data

    def _parse(self, data: bytes) -> tuple[Endpoint, ...]:
        try:
            text = data.decode("utf-8")
            held: Any = tomllib.loads(text) if self.path.suffix == ".toml" else json.loads(text)
        except (ValueError, RecursionError) as error:  # of decoding, of TOML and of JSON: all of them are ValueErrors
            raise LookFailed(f"{self.path} is not {self.path.suffix[1:].upper()}: {error}") from None
        if isinstance(held, dict):
            if "endpoints" not in held:
                raise LookFailed(f'{self.path}: expected a list "endpoints", got {", ".join(held) or "nothing"}')
            held = held["endpoints"]
        try:
            return read_endpoints(held, str(self.path))
        except MisuseError as error:
            raise LookFailed(str(error)) from None
