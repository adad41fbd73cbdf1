"""The servers of a cluster as each event loop has them: connections belong to the loop and process that made them.

A loop's nodes and their watch are made when it first asks. Those of a loop that was closed are forgotten; those that a
fork has copied are kept and never closed, which would end the connections of the parent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from typing import Final

from sqlalchemy.engine import Engine

from tenfold.db.node import Node
from tenfold.db.watch import Watch

_INHERITED: Final[list[object]] = []


class Servers:
    """The nodes of one event loop, and their watch."""

    __slots__ = ("nodes", "pid", "watch")

    def __init__(self, nodes: tuple[Node, ...], watch: Watch) -> None:
        self.nodes, self.watch, self.pid = nodes, watch, os.getpid()


class LoopServers:
    """What ``make`` makes for each event loop, and what is installed on all of their engines.

    ``forget`` is told of those of a loop that was closed without `close`: their connections end when nobody holds them
    any more, for nothing can be said over them without the loop.
    """

    __slots__ = ("_forget", "_installers", "_make", "_servers")

    def __init__(self, make: Callable[[], Servers], forget: Callable[[Servers], None] | None = None) -> None:
        self._make = make
        self._forget = forget or _nothing
        self._servers: dict[asyncio.AbstractEventLoop, Servers] = {}
        self._installers: dict[Hashable, Callable[[Engine], None]] = {}

    def here(self) -> Servers:
        """Those of the running loop; made, and watched, from the first time on."""
        loop = asyncio.get_running_loop()
        servers = self._servers.get(loop)
        if servers is None or servers.pid != os.getpid():
            for old, theirs in list(self._servers.items()):
                if theirs.pid != os.getpid():
                    _INHERITED.append(self._servers.pop(old))
                elif old.is_closed():
                    gone = self._servers.pop(old, None)  # another thread may see it too
                    if gone is not None:
                        self._forget(gone)
            servers = self._servers[loop] = self._made()
            servers.watch.start()
        return servers

    def all(self) -> list[Servers]:
        """Those of all loops of this process. May be called from any thread."""
        return [servers for _, servers in self._own()]

    def each_engine(self, install: Callable[[Engine], None], key: Hashable = None) -> None:
        """Call ``install`` with each engine there is and will be. With a ``key`` (``install`` itself) that was there
        before it takes that one's place; the same once more does nothing. Needs no running loop.
        """
        key = install if key is None else key
        if self._installers.get(key) == install:
            return
        for loop, servers in self._own():
            if not loop.is_closed():
                for node in servers.nodes:
                    _install(node, install)
        self._installers[key] = install

    async def close(self) -> None:
        """Close what the running loop has."""
        servers = self._servers.pop(asyncio.get_running_loop(), None)
        if servers is None:
            return
        if servers.pid != os.getpid():
            _INHERITED.append(servers)
            return
        try:
            await servers.watch.close()
        finally:
            await asyncio.gather(*[node.close() for node in servers.nodes])

    def _own(self) -> list[tuple[asyncio.AbstractEventLoop, Servers]]:
        pid = os.getpid()
        return [(loop, servers) for loop, servers in list(self._servers.items()) if servers.pid == pid]

    def _made(self) -> Servers:
        servers = self._make()
        for node in servers.nodes:
            for install in list(self._installers.values()):
                _install(node, install)
        return servers


def _nothing(servers: Servers) -> None:
    """Nobody keeps anything of them."""


def _install(node: Node, install: Callable[[Engine], None]) -> None:
    for engine in (node.engine, node.reads):
        install(engine.sync_engine)
