"""What became of a COMMIT whose answer was lost.

Theory. The transaction may have happened, and to run it again may make it happen twice (the two generals' problem).
Therefore the transaction's id is read before COMMIT, and when the answer is lost, the primary is asked for its
``pg_xact_status``. Its word counts for less than it seems: ids are given out anew by a server that was promoted, or
that crashed before it wrote the last ones down, so "committed" may be said of somebody else's transaction. It is
believed only from the same server, on the same timeline, whose watch connection has stayed up from before COMMIT until
after the answer (a crash would have cut it). "Aborted", and an id that has not been given out yet, are true of ours in
any case: had ours been committed there, the server would say so. Whatever is left is "unknown", for the caller to
settle, best by an idempotency key (`tenfold.db.idempotency`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tenfold.db.cluster_errors import NoPrimary
from tenfold.db.node import Node
from tenfold.db.refusals import NOT_THERE, sqlstate

Outcome = Literal["committed", "aborted", "unknown"]

XID: Final = text("SELECT pg_current_xact_id_if_assigned()::text")
"""The id to note in `Attempt.xid` before COMMIT."""
_FUTURE: Final = "22023"
_LOOK: Final = 0.05


class Host(Protocol):
    """What is needed of the cluster."""

    async def writer(self, wait: float | None = None) -> Node: ...


@dataclass(slots=True)
class Attempt:
    """What is known of one attempt when it fails."""

    node: Node | None = None
    branch: tuple[int, int] | None = None
    epoch: int = 0
    xid: int | None = None
    committing: bool = False
    asked: bool = False

    def on(self, node: Node) -> None:
        """It runs there."""
        self.node, self.branch, self.epoch = node, _branch(node), node.epoch

    def is_still(self, node: Node) -> bool:
        """Whether ``node`` is the server that it ran on, and has not restarted since."""
        # Behind a pooler the watch's connection outlives a restart of the server, and `epoch` says nothing.
        same = node is self.node and _branch(node) == self.branch and node.epoch == self.epoch
        return same and not node.pooled


async def fate(host: Host, attempt: Attempt, within: float) -> tuple[Outcome, str]:
    """What became of a transaction whose COMMIT was not answered, and in words; looked for ``within`` seconds."""
    if attempt.asked and attempt.xid is None:
        return "aborted", "it had written nothing"  # so nothing is lost by running it again
    if attempt.xid is None:
        return "unknown", "its id is not known"
    until = time.monotonic() + within
    said = "no primary answered"
    while time.monotonic() < until:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + (until - time.monotonic())):
                node = await host.writer(until - time.monotonic())
                status = await _status(node, attempt.xid)
        except (NoPrimary, *NOT_THERE):
            status = ""
        if status in ("aborted", "future"):
            return "aborted", status
        if status == "committed":
            if attempt.is_still(node):
                return "committed", status
            return "unknown", "the primary says committed, but it may have given the id to another transaction"
        said = status or said
        await asyncio.sleep(_LOOK)
    return "unknown", said


def is_ambiguous(error: BaseException) -> bool:
    """Whether an error at COMMIT leaves open what happened: everything but an answer of the server.

    The server's own answer to COMMIT is final, except that it is shutting down, which it may also say to somebody who
    waits for a synchronous replica with the commit done.
    """
    state = sqlstate(error)
    return not state or state.startswith(("08", "57"))


def _branch(node: Node) -> tuple[int, int] | None:
    position = node.seen.position
    return None if position is None else (position.system, position.timeline)


async def _status(node: Node, xid: int) -> str:
    async with node.reads.connect() as connection:
        try:
            found = await connection.scalar(text(f"SELECT pg_xact_status('{xid:d}'::xid8)"))
        except DBAPIError as error:
            if sqlstate(error) == _FUTURE:
                return "future"
            raise
        return "too long ago to tell" if found is None else str(found)
