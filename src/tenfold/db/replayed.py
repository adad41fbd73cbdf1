"""Has this replica replayed that position? Mostly answered from memory; else asked, for a short while, before the read.

A replica's replayed position only grows, so what was seen once holds for ever: while the server runs. A standby that
is killed starts again from its last restart point and may then show *less* than it did before; and behind one address
there may be another server tomorrow. So what is remembered belongs to one start of one server, and it is trusted on a
connection only if that connection was known to be open, to that start, before the position was seen: if the statement
that follows gets an answer, nothing was restarted in between (`Replayed.covers`). Where that holds, a read costs no
round trip at all.

Where it does not, the position is asked for on the very connection that will read, in an earlier statement than the
data: a position selected together with the data proves nothing, because the snapshot comes first. While it is not
there yet, the connection asks again after growing pauses, up to ``within``. A server-side loop would need one
statement, whose snapshot could hold up the very replay that it waits for. PostgreSQL 19 waits by itself (``WAIT FOR
LSN``, which knows no timelines: so the position is asked for once more afterwards).
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import asyncpg

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold.db.lineage import History, covers
from tenfold.db.position import Position, format_lsn
from tenfold.db.wal import Identity, Info, identify, read_history, replayed_position

FIRST_PAUSE: Final = 0.0005
LONGEST_PAUSE: Final = 0.004
WAIT_FOR_SINCE: Final = 19
"""The first major version of PostgreSQL with ``WAIT FOR LSN``."""


class Reach(Enum):
    """What became of waiting for a position."""

    AT_ONCE = "at once"
    """Known from memory; nothing was asked."""
    THERE = "there"
    """The replica says so, perhaps after a wait."""
    BEHIND = "behind"
    """Not within the time."""
    UNKNOWN = "unknown"
    """The position's timeline is none that this replica's continues, as far as it can tell; or it is no replica."""
    FOREIGN = "foreign"
    """The position is of another system."""

    @property
    def there(self) -> bool:
        """Whether the connection may read."""
        return self in (Reach.AT_ONCE, Reach.THERE)


class Replayed:
    """The last position seen of one node. Counters: ``asked`` (round trips for a position), ``waits`` (pauses)."""

    __slots__ = ("_at", "_histories", "_started", "asked", "late_until", "position", "wait_for", "waits")

    def __init__(self) -> None:
        self.position: Position | None = None
        self.wait_for: bool | None = None
        """Whether the server knows ``WAIT FOR LSN``; None: not known yet."""
        self.asked = self.waits = 0
        self.late_until = 0.0
        """Until when nobody should wait for this node if there is another: it kept somebody waiting in vain."""
        self._started = 0
        self._at = 0.0
        self._histories: dict[int, History] = {}

    def note(self, who: Identity, position: Position, at: float) -> None:
        """``who`` had replayed ``position`` at the monotonic time ``at``: when it was asked, not when it answered."""
        if at >= self._at or who.started != self._started:
            if who.started != self._started:
                self._histories.clear()
            self._started, self._at, self.position = who.started, at, position

    def covers(self, who: Identity, wanted: Position) -> bool:
        """Whether a connection known to be ``who``'s shows ``wanted``, by what is remembered."""
        seen = self.position
        if seen is None or self._started != who.started or self._at < who.at:
            return False
        return covers(seen, wanted, self._histories.get(seen.timeline)) is True

    async def history_for(self, driver: Any, info: Info, seen: Position, wanted: Position) -> History | None:
        """The history that is needed to compare the two, read once for each timeline; None where none is needed."""
        if seen.system != wanted.system or seen.timeline <= wanted.timeline:
            return None
        found = self._histories.get(seen.timeline)
        if found is None:
            found = await read_history(driver, info, seen.timeline)
            if found is not None:
                self._histories[seen.timeline] = found
        return found

    def __repr__(self) -> str:
        return f"<Replayed {self.position or 'nothing seen'} asked={self.asked} waits={self.waits}>"


async def reach(
    driver: Any,
    info: Info,
    wanted: Position,
    replayed: Replayed,
    *,
    within: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Reach:
    """Wait up to ``within`` seconds until this connection to a replica shows ``wanted``; 0 asks once.

    The statement in flight when the time is over may take a little longer: whoever has a deadline puts it around this,
    and drops the connection when it strikes. Raises what the driver raises, and `MisuseError` inside of a transaction,
    whose snapshot may be older than the answer.
    """
    if driver.is_in_transaction():
        raise MisuseError("reach: expected a connection outside of a transaction; wait first, then begin")
    until = clock.monotonic() + within
    who = await identify(driver, info, clock=clock)
    if who.system != wanted.system:
        return Reach.FOREIGN
    if replayed.covers(who, wanted):
        return Reach.AT_ONCE
    pause = FIRST_PAUSE
    while True:
        at = clock.monotonic()
        replayed.asked += 1
        seen = await replayed_position(driver, info)
        if seen is None:
            return Reach.UNKNOWN
        replayed.note(who, seen, at)
        verdict = covers(seen, wanted, await replayed.history_for(driver, info, seen, wanted))
        if verdict is not False:
            return Reach.THERE if verdict else Reach.UNKNOWN
        left = until - clock.monotonic()
        if left <= 0:
            return Reach.BEHIND
        replayed.waits += 1
        if not await _waited_there(driver, wanted, replayed, left):
            await clock.sleep(min(pause, left))
            pause = min(LONGEST_PAUSE, pause * 2)


async def _waited_there(driver: Any, wanted: Position, replayed: Replayed, left: float) -> bool:
    """Let the server wait, if it can. False: it cannot."""
    if replayed.wait_for is None:
        replayed.wait_for = driver.get_server_version().major >= WAIT_FOR_SINCE
    if not replayed.wait_for:
        return False
    try:
        await driver.fetchval(
            f"WAIT FOR LSN '{format_lsn(wanted.lsn)}' WITH (TIMEOUT '{max(1, int(left * 1000))}ms', NO_THROW)"
        )
    except asyncpg.PostgresSyntaxError:
        replayed.wait_for = False
        return False
    return True
