"""A primary, its replicas, shards and a Valkey, started together and steered through failures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration
from tenfold.servers import locate, replication
from tenfold.servers.errors import NotRunningError
from tenfold.servers.home import Home, open_home
from tenfold.servers.launch import finish, together
from tenfold.servers.postgres import Postgres
from tenfold.servers.run import Run
from tenfold.servers.server import Server, open_run
from tenfold.servers.valkey import Valkey

_MOST = 12


class Topology:
    """``async with Topology(replicas=2, shards=2, valkey=True) as t: t.primary.url, t.shards[1].url``

    ``replicas`` and ``shards``: 0 to 12 each, default 0. ``settings`` are PostgreSQL's and hold for all its
    servers, ``valkey_settings`` Valkey's. ``within`` is how long each server may take to start (default 30
    s). ``state`` overrides the state folder. Raises `ServersError` and its kind.
    """

    def __init__(
        self,
        *,
        replicas: int = 0,
        shards: int = 0,
        valkey: bool = False,
        settings: Mapping[str, str | int] | None = None,
        valkey_settings: Mapping[str, str | int] | None = None,
        max_connections: int = 200,
        within: Duration = "30s",
        state: Path | str | None = None,
    ) -> None:
        for name, count in (("replicas", replicas), ("shards", shards)):
            if not 0 <= count <= _MOST:
                raise MisuseError(f"{name}: expected 0 to {_MOST}, got {count}")
        self._wanted = (replicas, shards, valkey)
        self._options: dict[str, Any] = {
            "settings": settings,
            "max_connections": max_connections,
            "within": within,
        }
        self._valkey_options: dict[str, Any] = {"settings": valkey_settings, "within": within}
        self._state = state
        self._run: Run | None = None
        self._home: Home | None = None
        self._primary: Postgres | None = None
        self._valkey: Valkey | None = None
        self.replicas: list[Postgres] = []
        self.shards: list[Postgres] = []
        self.lost: list[Postgres] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Topology {' '.join(map(repr, self.servers)) or 'down'}>"

    @property
    def primary(self) -> Postgres:
        """The server that takes writes now."""
        if self._primary is None:
            raise NotRunningError(
                "the topology was expected to be started and is not: use `async with` or `await start()`"
            )
        return self._primary

    @property
    def valkey(self) -> Valkey:
        """Raises `NotRunningError` for a topology without one."""
        if self._valkey is None:
            raise NotRunningError("this topology has no Valkey: start it with valkey=True")
        return self._valkey

    @property
    def run(self) -> Run:
        if self._run is None:
            raise NotRunningError(
                "the topology was expected to be started and is not: use `async with` or `await start()`"
            )
        return self._run

    @property
    def home(self) -> Home:
        """The state folder and the account of the servers."""
        if self._home is None:
            self._home = open_home(self._state)
        return self._home

    @property
    def has_valkey(self) -> bool:
        return self._valkey is not None

    @property
    def servers(self) -> list[Server]:
        """All of them: primary, replicas, former primaries, shards, Valkey."""
        first: list[Server] = [] if self._primary is None else [self._primary]
        last: list[Server] = [] if self._valkey is None else [self._valkey]
        return [*first, *self.replicas, *self.lost, *self.shards, *last]

    async def start(self) -> None:
        """Start all and wait until all answer and every replica streams.

        On a failure nothing is left behind.
        """
        if self._run is not None:
            raise MisuseError("expected a topology that is down, it was started already")
        self._home = await asyncio.to_thread(open_home, self._state)
        self._run = await open_run(self._home)
        replicas, shards, valkey = self._wanted
        try:
            self._primary = self._postgres("primary", "primary")
            self.replicas = [self._postgres(f"replica{n}", "replica") for n in range(1, replicas + 1)]
            self.shards = [self._postgres(f"shard{n}", "shard") for n in range(1, shards + 1)]
            if valkey:
                self._valkey = Valkey(run=self._run, home=self._home, **self._valkey_options)
                self._valkey.role = "cache"
            await together(
                self._replicated(),
                *(shard.start() for shard in self.shards),
                *([self._valkey.start()] if self._valkey is not None else []),
            )
        except BaseException:
            await self.close()
            raise

    def attach(self, home: Home, run: Run) -> None:
        """Take over a run that another process has started and released."""
        self._home, self._run = home, run
        for name, facts in sorted(run.servers.items()):
            if facts["kind"] == Valkey.kind:
                self._valkey = Valkey(name=name, run=run, home=home, **self._valkey_options)
                self._valkey.adopt()
                continue
            server = self._postgres(name, facts["role"])
            server.adopt()
            if server.role == "primary":
                self._primary = server
            else:
                {"replica": self.replicas, "shard": self.shards}.get(server.role, self.lost).append(server)
        for replica in self.replicas:
            replica.upstream = self._primary

    async def revive(self) -> None:
        """Start every server that is down on the data it has; replicas after their primary."""
        rest: list[Server] = [*self.shards, *([self._valkey] if self._valkey is not None else [])]
        await together(*(server.start() for server in [self.primary, *rest] if not server.running))
        await together(*(replica.start() for replica in self.replicas if not replica.running))
        for former in [*self.lost]:
            await self.rejoin(former)

    async def close(self) -> None:
        """End all and remove all files. Shielded from cancellation. May be called twice."""
        run, self._run = self._run, None
        if run is None:
            return
        servers = self.servers
        self._primary = self._valkey = None
        self.replicas, self.shards, self.lost = [], [], []

        def end() -> None:
            run.close()
            for server in servers:
                server.reap()

        await finish(asyncio.to_thread(end))

    async def promote(self, replica: Postgres, within: Duration = "10s") -> None:
        """Make a replica the primary and let the others follow it.

        A primary that still runs is stopped first, so that there are never two; it hands over all it has
        written. The former primary goes to `lost` until `rejoin`. Returns when the new primary accepts
        writes.
        """
        self._must_hold(replica, self.replicas, "a replica")
        former = self.primary
        if former.running:
            await former.stop()
        await replication.promote(replica, within)
        self.replicas.remove(replica)
        self.lost.append(former)
        self._primary = replica
        former.role = "lost"
        self.run.record(former.name, role="lost")
        await together(*(replication.follow(other, replica) for other in self.replicas if other.running))

    async def rejoin(self, former: Postgres) -> None:
        """Bring a former primary, or a replica that was killed, back as a replica of the present primary."""
        if former in self.replicas and not former.running:
            former.upstream = self.primary
            await replication.ensure_slot(self.primary, former.name)
            await former.start()
            return
        self._must_hold(former, self.lost, "a former primary, or a replica that is down")
        binaries = await asyncio.to_thread(lambda: former.home.staged(locate.postgres()))
        await replication.rejoin(former, self.primary, binaries)
        self.lost.remove(former)
        self.replicas.append(former)

    def _postgres(self, name: str, role: str) -> Postgres:
        server = Postgres(name=name, run=self._run, home=self._home, **self._options)
        server.role = role
        return server

    async def _replicated(self) -> None:
        primary = self.primary
        await primary.start()
        binaries = await asyncio.to_thread(lambda: primary.home.staged(locate.postgres()))
        await together(*(replication.make_replica(primary, replica, binaries) for replica in self.replicas))

    def _must_hold(self, server: Postgres, servers: list[Postgres], what: str) -> None:
        if server not in servers:
            names = ", ".join(one.name for one in servers) or "there is none"
            raise MisuseError(f"expected {what} of this topology ({names}), got {server.name} ({server.role})")
