"""A throwaway Valkey master with replicas, and the Sentinels that watch them and promote a replica when it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration
from tenfold.servers.errors import ServersError
from tenfold.servers.home import Home
from tenfold.servers.locate import Binaries
from tenfold.servers.ports import HOST
from tenfold.servers.run import Run
from tenfold.servers.talk import tell
from tenfold.servers.valkey import Valkey
from tenfold.servers.valkey_group import ValkeyGroup

MASTER: Final = "mymaster"
_MOST: Final = 7


class ValkeySentinel(ValkeyGroup):
    """``async with ValkeySentinel() as s: s.url; await s.servers[0].kill()``

    A master and ``replicas`` (1 to 7, default 1) of it, watched by ``sentinels`` (1 to 7, default 3). ``down_after`` is
    after how many seconds of silence the master counts as gone (default 0.5 s). Raises `ServersError` and its kind.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        down_after: float = 0.5,
        within: Duration = "30s",
        state: Path | str | None = None,
    ) -> None:
        if not 1 <= replicas <= _MOST or not 1 <= sentinels <= _MOST:
            raise MisuseError(f"replicas, sentinels: expected 1 to {_MOST} of each, got {replicas} and {sentinels}")
        super().__init__(within=within, state=state)
        self._wanted = (replicas, sentinels)
        self._down_after = round(down_after * 1000)
        self.data: list[Valkey] = []
        self.sentinels: list[Valkey] = []

    @property
    def url(self) -> str:
        """``redis+sentinel://127.0.0.1:PORT,…/mymaster`` with all Sentinels."""
        return "redis+sentinel://" + ",".join(f"{HOST}:{one.port}" for one in self.sentinels) + f"/{MASTER}"

    @property
    def servers(self) -> list[Valkey]:
        """The master of the start, its replicas, the Sentinels."""
        return [*self.data, *self.sentinels]

    async def master(self) -> Valkey:
        """The master in the Sentinels' opinion. Raises `ServersError` if no Sentinel runs."""
        for sentinel in self.sentinels:
            if sentinel.running:
                _, port = await tell(sentinel.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
                return next(one for one in self.data if one.port == int(port))
        raise ServersError("expected a Sentinel that runs, there is none")

    async def _start(self, home: Home, run: Run) -> None:
        replicas, sentinels = self._wanted
        master = Valkey(name="data0", within=self.within, run=run, home=home)
        master.role = "master"
        self.data = [master]
        await master.start()
        for n in range(1, replicas + 1):
            one = Valkey(
                name=f"data{n}",
                within=self.within,
                run=run,
                home=home,
                settings={"replicaof": f"{HOST} {master.port}"},
            )
            one.role = "replica"
            self.data.append(one)
        await self._all(self.data[1:])
        await self._until("replicas that follow", self._replicated)
        self.sentinels = [
            Sentinel(
                master.port,
                quorum=sentinels // 2 + 1,
                down_after=self._down_after,
                name=f"sentinel{n}",
                within=self.within,
                run=run,
                home=home,
            )
            for n in range(sentinels)
        ]
        await self._all(self.sentinels)
        await self._until("Sentinels that know one another and the replicas", self._watched)

    async def _replicated(self) -> bool:
        states = await asyncio.gather(*(tell(one.port, "INFO", "replication") for one in self.data[1:]))
        return all("master_link_status:up" in text for text in states)

    async def _watched(self) -> bool:
        replicas, sentinels = self._wanted
        wanted = {"num-slaves": str(replicas), "num-other-sentinels": str(sentinels - 1), "flags": "master"}
        for sentinel in self.sentinels:
            (master,) = _facts(await tell(sentinel.port, "SENTINEL", "MASTERS"))
            followers = _facts(await tell(sentinel.port, "SENTINEL", "REPLICAS", MASTER))
            if any(master[key] != value for key, value in wanted.items()):
                return False
            # Before it has looked at a replica itself it would not promote it.
            if any(one["flags"] != "slave" or one["master-link-status"] != "ok" for one in followers):
                return False
        return True


def _facts(answer: list[list[str]]) -> list[dict[str, str]]:
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in answer]


class Sentinel(Valkey):
    """The same program in its other role. Its state is a file that it writes itself."""

    kind = "sentinel"

    def __init__(
        self, master_port: int, *, quorum: int, down_after: int, name: str, within: Duration, run: Run, home: Home
    ) -> None:
        super().__init__(name=name, within=within, run=run, home=home)
        self.role = "sentinel"
        self._lines = [
            f"bind {HOST}",
            f"sentinel monitor {MASTER} {HOST} {master_port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER} {down_after}",
            f"sentinel failover-timeout {MASTER} {max(2000, 4 * down_after)}",
        ]

    def _configure(self, port: int) -> None:
        file = self.folder / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join([*self._lines, f"port {port}", f"dir {self.folder}", ""]))
            self.home.give(file)

    def _command(self, binaries: Binaries, port: int) -> list[str | Path]:
        del port
        return [binaries.program, self.folder / "sentinel.conf", "--sentinel", "--set-proc-title", "no"]
