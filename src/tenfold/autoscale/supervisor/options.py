"""What a fleet is to run, and how long it may take."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import Duration, Size, duration, size, whole_number

Server = Literal["granian", "uvicorn"]
_APP: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class FleetError(TenfoldError):
    """No worker came to serve. ``last_words`` is what the last one that failed wrote before it ended."""

    def __init__(self, message: str, last_words: str = "") -> None:
        super().__init__(f"{message}; it said:\n{last_words}" if last_words else message)
        self.last_words: Final = last_words


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """Which app, in which server, and the limits of its workers.

    ``app`` is ``"module:attribute"`` of an ASGI 3 application; with ``factory`` the attribute is called without
    arguments and returns it. ``server`` is what serves it: one process for each worker with one event loop, on uvloop
    where that is installed, without an access log. ``app_dir`` (".") is put first on the workers' ``sys.path``.
    ``directory`` is where their unix sockets go (default: a private temporary directory, removed at the end); where
    their paths would be too long for the system, workers listen on free ports of 127.0.0.1 instead. A worker believes
    what the requests' ``X-Forwarded-*`` headers say of the client, because only the front is to reach it.

    ``ready_timeout`` (30 s) is how long a worker may take to listen, ``drain_timeout`` (30 s) how long the requests
    under way in one that leaves may take. ``hung_after`` (10 s; None: never) is after how long without a sign of life
    from its event loop a worker is killed and replaced, three times as long if it uses the processor meanwhile; it has
    to be longer than the longest time for which the app blocks its loop to wait for something.

    ``memory_limit`` (None) is the resident memory above which a worker is replaced; it is read from ``/proc`` once a
    second. ``max_requests`` (None) is after how many requests a worker is replaced, up to a quarter more, so that they
    do not go together; the front counts them (`Member.requests`). Such replacements go one at a time: the new one is
    ready before the old one leaves.

    ``backoff_first`` (250 ms) is the pause after a worker that died early, doubled at each further one up to
    ``backoff_cap`` (30 s). ``env`` is added to the workers' environment.

    Raises `MisuseError` for what makes no sense.
    """

    app: str
    factory: bool = False
    server: Server = "uvicorn"
    app_dir: str = "."
    directory: Path | None = None
    ready_timeout: Duration = "30s"
    drain_timeout: Duration = "30s"
    hung_after: Duration | None = "10s"
    memory_limit: Size | None = None
    max_requests: int | None = None
    backoff_first: Duration = "250ms"
    backoff_cap: Duration = "30s"
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __post_init__(self) -> None:
        if type(self.app) is not str or _APP.fullmatch(self.app) is None:
            raise MisuseError(f'app: expected "module:attribute" such as "shop.main:app", got {self.app!r}')
        if self.server not in get_args(Server):
            raise MisuseError(f"server: expected granian or uvicorn, got {self.server!r}")
        put: Any = object.__setattr__
        for name in ("ready_timeout", "drain_timeout", "backoff_first", "backoff_cap"):
            put(self, name, duration(getattr(self, name), name))
        if self.hung_after is not None:
            put(self, "hung_after", duration(self.hung_after, "hung_after"))
        if not self.seconds("ready_timeout"):
            raise MisuseError("ready_timeout: expected more than 0 s, for no worker is ready at once")
        if self.hung_after is not None and self.seconds("hung_after") < 1:
            raise MisuseError(
                f"hung_after: expected 1 s or more, because a busy worker is late too, got {self.hung_after!r}"
            )
        if not 0 < self.seconds("backoff_first") <= self.seconds("backoff_cap"):
            raise MisuseError(
                f"backoff: expected a first pause above 0 s and at most the cap ({self.backoff_cap!r} s), "
                f"got {self.backoff_first!r} s"
            )
        if self.memory_limit is not None:
            put(self, "memory_limit", size(self.memory_limit, "memory_limit"))
            if not sys.platform.startswith("linux"):
                raise MisuseError("memory_limit: expected a system with /proc, which this one lacks; leave it out")
        if self.max_requests is not None:
            whole_number(self.max_requests, "max_requests", least=1)
        if self.directory is not None:
            put(self, "directory", Path(self.directory))
        put(self, "env", MappingProxyType(dict(self.env)))

    def seconds(self, name: str) -> float:
        """The duration of that name, which is a number of seconds since the check; infinity for None."""
        value = getattr(self, name)
        return float("inf") if value is None else float(value)
