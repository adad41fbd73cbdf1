"""The map's epoch in a causality token: whoever has written under a map is not answered under an older one.

A token holds positions of the shards' systems. That is enough while rows stay where they are: what was written on
shard A is waited for on A's replicas. It is not when buckets move, in two ways.

*To the new shard.* The writes of before the flip reached B through the copy, and the token has no position on B. None
is needed: the rows arrive on B in the transaction that raises B's epoch (`tenfold.db.reshard.switch`), each read
selects the epoch beside its rows, and a replica that shows an epoch below the reader's map is passed over (`execute`).
So a replica of B that answers shows the flip and all that came before it, to readers without a token too.

*On the old one.* A process that has not heard of the flip plans for A. A's primary would say that the epoch is another;
a replica of A that has not replayed the flip shows the old epoch and the old rows, and A's position in the token is one
of before. So what was written on B since is missed. Therefore a commit notes the epoch that it was made under, and a
process whose map is older than its reader's token reads the map anew before it plans. The epoch is a log like any
other: it only grows, and is published after every shard has it. It stands in the token as the position of a system of
its own, whose identifier is a digest of the home's system and database (SHA-256, 64 bits).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncEngine

from tenfold.db.causality import CAUSALITY
from tenfold.db.position import Position
from tenfold.db.route import AtLeast, asked_route
from tenfold.db.token import NOWHERE
from tenfold.db.wal import driver_of, identify


class MapMark:
    """``epoch`` tells that of this process's map. Does nothing before `identify_home`: where no shard has replicas."""

    __slots__ = ("_epoch", "system")

    def __init__(self, epoch: Callable[[], int]) -> None:
        self._epoch = epoch
        self.system: int | None = None
        """What stands for the map in a token."""

    async def identify_home(self, home: AsyncEngine) -> None:
        """Find out which map this is, in two round trips to the shard that keeps it."""
        async with home.connect() as connection:
            driver, info = driver_of(connection)
            who = await identify(driver, info)
            database = await driver.fetchval("SELECT current_database()")
        self.system = int.from_bytes(sha256(f"tenfold map {who.system} {database}".encode()).digest()[:8], "big")

    def committed(self) -> None:
        """Something was committed under the map: later reads of the present scope go by this map or a newer one."""
        scope = CAUSALITY.get()
        if scope is not None and self.system is not None:
            scope.committed_at(Position(self.system, 1, self._epoch()))

    def saw(self) -> None:
        """Something was read under the map, and reads are monotonic."""
        scope = CAUSALITY.get()
        if scope is not None and self.system is not None:
            scope.saw(Position(self.system, 1, self._epoch()))

    @property
    def position(self) -> Position | None:
        """Of this process's map; None where no shard has replicas."""
        return None if self.system is None else Position(self.system, 1, self._epoch())

    async def only_primaries(self, refresh: Callable[[], Awaitable[object]], statement: object = None) -> bool:
        """Whether a read of the present scope, or of ``statement`` where it asks for `AtLeast`, must not ask replicas,
        after the map was read anew if it had to be.

        A `Stale` one goes by the map that its scope wants: rows that have moved away are not old but missing.
        """
        if self.system is None:
            return False
        scope, route = CAUSALITY.get(), asked_route(statement)
        wanted = None if scope is None else scope.wanted_on(self.system)
        if isinstance(route, AtLeast):
            wanted = route.beside(wanted, self.system)
        if wanted is None or wanted is NOWHERE:
            return wanted is NOWHERE
        if wanted.lsn > self._epoch():
            await refresh()
        return wanted.lsn > self._epoch()
