"""A Core connection for a reader: the best server that takes it and, within `causality`, shows what the scope wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold.db.causal_cluster import ClusterCausality
from tenfold.db.choose import Choice, Want
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.node import Node
from tenfold.db.pool import release
from tenfold.db.refusals import NOT_THERE
from tenfold.db.route import AtLeast, Needs, Stale, most_lag
from tenfold.db.watch import Watch
from tenfold.resilience import BreakerOpen


class Host(Protocol):
    """What is needed of the cluster."""

    @property
    def causal(self) -> ClusterCausality: ...

    @property
    def watch(self) -> Watch: ...

    @property
    def system(self) -> int | None: ...

    def choices(self, want: Want) -> list[Choice[Node]]: ...

    def has_room(self, choice: Choice[Node], want: Want) -> bool: ...


@asynccontextmanager
async def reader(host: Host, within: float, needs: Needs | None = None) -> AsyncIterator[AsyncConnection]:
    """A connection in autocommit that refuses to write, given back within ``within`` seconds. ``needs``: which state,
    beside what the scope wants or instead. Where reads are monotonic later ones show what this one has shown, unless
    it ended with an exception.
    """
    watch = host.watch
    if not watch.settled:
        await watch.settle()
    wanted = None if isinstance(needs, Stale) else await host.causal.wanted()
    if isinstance(needs, AtLeast):
        wanted = needs.beside(wanted, host.system)
    connection, choice = await _connect(host, Want(after=wanted, max_lag=most_lag(needs)))
    try:
        yield connection
        if choice.rank == "spill":
            host.causal.saw_primary()
        elif not connection.closed:
            try:
                await host.causal.note(connection)
            except NOT_THERE as error:
                reason = f"{choice.node.name} did not say what it had shown"
                raise ReadsRefused(f"{reason}, so nobody may rely on it. Read again", (reason,)) from error
    finally:
        await release(connection, within)


async def _connect(host: Host, want: Want) -> tuple[AsyncConnection, Choice[Node]]:
    wanted = want.after
    choices = host.choices(want)
    patient = True
    lost: BaseException | None = None
    for choice in choices:
        if choice.ok and host.has_room(choice, want):
            node = choice.node
            try:
                with node.trial():
                    connection = await node.reads.connect()
            except BreakerOpen:
                continue
            except NOT_THERE as error:
                lost = error
                continue
            if wanted is None or choice.rank == "spill":
                return connection, choice
            there = False
            try:
                there = await host.causal.reach(connection, node, wanted, patient)
            finally:
                if not there:
                    await connection.close()
            if there:
                return connection, choice
            patient = False
    await asyncio.sleep(0)  # whoever tries again at once must not keep the watch from its turn
    raise refused(host.choices(want)) from lost


def refused(choices: Sequence[Choice[Node]]) -> ReadsRefused:
    """Why nobody serves a reader: the reason of each server, with the error where it does not answer."""
    now = time.monotonic()
    failing = [one for one in choices if one.node.last_error and not one.node.usable(now)]
    silent = [one for one in choices if one.node.last_error and one.node.seen.role == "unknown"]
    reasons = tuple(f"{one}, {_first_line(one)}" if one in silent or one in failing else str(one) for one in choices)
    if len(silent) == len(choices):
        advice = "None answers: look at the servers and at their URLs"
    else:
        advice = "Try again, accept more lag (max_lag), or raise spill: how many readers the primary takes over"
    return ReadsRefused(f"no server may serve this reader now: {'; '.join(reasons)}. {advice}", reasons)


def _first_line(choice: Choice[Node]) -> str:
    return choice.node.last_error.partition("\n")[0].strip(": ")  # SQLAlchemy's further ones lead to its documentation
