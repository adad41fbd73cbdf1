"""`AsyncCluster.run`: a function as a transaction, run again where that is safe, and never where it may not be.

Theory. A transaction that fails with 40001 (serialization) or 40P01 (deadlock) must be run again *from its first
statement*, because what it read is no longer true (PostgreSQL documentation, "Serialization Failure Handling"). So the
unit of retry is the caller's function, in a fresh session. The same holds before COMMIT was sent for a lost connection,
a server that shuts down, and 25006 from a primary that was demoted: nothing of it can have lasted.

COMMIT is another matter: when the answer to it is lost, the transaction may have happened. What became of it is looked
for (`tenfold.db.fate`), and what nobody can tell is `CommitUnknown`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, Literal, Protocol, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.cluster_errors import CommitUnknown, NoPrimary, RetriesExhausted
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.fate import XID, Attempt, fate, is_ambiguous
from tenfold.db.node import Node
from tenfold.db.pool import release
from tenfold.db.refusals import OF_THE_DRIVER, is_stale, of_the_driver, sqlstate
from tenfold.db.taps import refuse_aborted
from tenfold.resilience import Budget, Deadline, DeadlineExceeded
from tenfold.resilience.backoff import pause
from tenfold.resilience.budget import Purse

T = TypeVar("T")
Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

_AGAIN: Final = frozenset({"40001", "40P01", "25006", "57P01", "57P02", "57P03"})


class _CommittedLate(Exception):
    """It was committed, and whoever waited was cancelled meanwhile: by our deadline, or by somebody else."""

    def __init__(self, result: Any, cancelled: BaseException) -> None:
        super().__init__("committed, and cancelled meanwhile")
        self.result, self.cancelled = result, cancelled


class Host(Protocol):
    """What `Runner` needs of the cluster."""

    @property
    def options(self) -> ClusterOptions: ...

    async def opened(self, isolation: Isolation | None) -> tuple[AsyncConnection, AsyncSession]: ...

    async def writer(self, wait: float | None = None) -> Node: ...

    def nodes(self) -> tuple[Node, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How `AsyncCluster.run` tries again.

    ``attempts`` (6) at most, with pauses of ``base`` (10 ms), doubled each time, ``cap`` (1 s) at most, fully jittered.
    ``resolve`` (2 s): how long the fate of a commit is looked for. ``track`` (True): read the transaction's id before
    COMMIT, one round trip; without it a lost answer is always `CommitUnknown`.
    """

    attempts: int = 6
    base: Duration = 0.01
    cap: Duration = 1.0
    resolve: Duration = 2.0
    track: bool = True

    def __post_init__(self) -> None:
        whole_number(self.attempts, "run attempts", least=1)
        for name in ("base", "cap", "resolve"):
            object.__setattr__(self, name, duration(getattr(self, name), f"run {name}"))


_DEFAULT: Final = RunOptions()


@dataclass(slots=True)
class Runner:
    """Runs functions as transactions; its budget is shared by all of them."""

    host: Host
    random: Random
    purse: Purse = field(default_factory=lambda: Purse(Budget(share=0.5, floor=10.0, burst=50)))
    runs: int = 0
    retries: int = 0
    resolved: int = 0
    """Commits whose answer was lost and whose fate was found out."""
    unknown: int = 0
    """Commits whose fate was not (`CommitUnknown`)."""

    async def run(
        self,
        fn: Callable[[AsyncSession], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        deadline: Duration | None = None,
        options: RunOptions | None = None,
    ) -> T:
        """Run ``fn(session)`` in a transaction and commit; give back what ``fn`` returned.

        ``fn`` is run again from the start, in a fresh session, after a serialization failure, a deadlock, and a loss of
        the primary before COMMIT: it must do nothing outside of the session that cannot be done twice, and neither
        commit by itself nor close the session (`MisuseError`; savepoints and rollback are its own). ``isolation``: the
        server's default if left out. ``deadline``: for all of it, waits included.

        Raises what ``fn`` raises (the transaction is rolled back), `CommitUnknown`, `NoPrimary`, `RetriesExhausted`,
        and `DeadlineExceeded`. A ``fn`` that is cancelled is rolled back.
        """
        how = options or _DEFAULT
        self.runs += 1
        if self.purse.hungry:
            self.purse.deposit()
        try:
            async with AsyncExitStack() as stack:
                if deadline is not None:
                    await stack.enter_async_context(Deadline(deadline))
                return await self._run(fn, isolation, how)
        except _CommittedLate as late:
            raise late.cancelled from None
        except DeadlineExceeded as error:
            # What became of the commit matters more than that the time is over.
            if isinstance(error.__cause__, _CommittedLate):
                result: T = error.__cause__.result
                return result
            if isinstance(error.__cause__, CommitUnknown):
                raise error.__cause__ from error.__cause__.__cause__
            raise

    async def _run(self, fn: Callable[[AsyncSession], Awaitable[T]], isolation: Isolation | None, how: RunOptions) -> T:
        result: list[T] = []
        for number in range(1, how.attempts + 1):
            attempt = Attempt()
            result.clear()
            try:
                await self._once(fn, isolation, how, attempt, result)
            except NoPrimary:
                raise
            except BaseException as error:
                if attempt.committing and is_ambiguous(error):
                    # Also when we are cancelled here: whoever cancels must not believe that nothing happened.
                    outcome, said = await shielded(fate(self.host, attempt, float(how.resolve)))
                    if outcome == "unknown":
                        self.unknown += 1
                        raise CommitUnknown(
                            "COMMIT was sent and the answer lost; the transaction "
                            f"{'of unknown id' if attempt.xid is None else attempt.xid} may have been committed "
                            f"({said}). Look for its effects, or run it again under an idempotency key",
                            attempt.xid,
                            said,
                        ) from error
                    self.resolved += 1
                    if outcome == "committed":
                        if isinstance(error, Exception):
                            return result[0]
                        raise _CommittedLate(result[0], error) from None
                elif not _is_retryable(error):
                    raise
                if not isinstance(error, Exception):
                    raise
                await self._before_next(number, how, error)
            else:
                return result[0]
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self,
        fn: Callable[[AsyncSession], Awaitable[T]],
        isolation: Isolation | None,
        how: RunOptions,
        attempt: Attempt,
        result: list[T],
    ) -> None:
        connection, session = await self.host.opened(isolation)
        within = float(self.host.options.release_timeout)
        try:
            pool = connection.sync_engine.pool
            node = next((n for n in self.host.nodes() if n.engine.sync_engine.pool is pool), None)
            if node is not None:
                attempt.on(node)
            event.listen(session.sync_session, "before_commit", partial(_refuse_own_commit, attempt))
            event.listen(connection.sync_connection, "commit", partial(_refuse_own_commit, attempt))
            result.append(await fn(session))
            if not session.in_transaction():
                await _refuse_closed(session)
            await session.flush()
            await connection.run_sync(refuse_aborted)
            if how.track and connection.in_transaction():
                found = await session.scalar(XID)
                attempt.xid, attempt.asked = (None if found is None else int(found)), True
            attempt.committing = True
            await session.commit()
        finally:
            await release(connection, within, session)

    async def _before_next(self, number: int, how: RunOptions, error: Exception) -> None:
        if number >= how.attempts:
            raise RetriesExhausted(
                f"the transaction failed {number} times, the last time with: {error}", number
            ) from error
        reservation = self.purse.reserve(time.monotonic())
        if reservation is None:
            raise RetriesExhausted(
                f"the budget for further tries is used up after {number}; the last failed with: {error}", number
            ) from error
        try:
            await asyncio.sleep(pause("full", number, 0.0, float(how.base), float(how.cap), self.random))
        except BaseException:
            self.purse.refund(reservation)
            raise
        if not self.purse.confirm(reservation, time.monotonic()):
            raise RetriesExhausted(f"the budget for further tries is used up after {number}", number) from error
        self.retries += 1


def _refuse_own_commit(attempt: Attempt, of: Session | Connection) -> None:
    """A connection says so only of the whole transaction, a session of each savepoint too."""
    if not attempt.committing and not (isinstance(of, Session) and of.in_nested_transaction()):
        raise MisuseError(
            "run: expected a function that leaves COMMIT to run, got one that commits by itself (session.commit(), "
            "session.begin() or its connection); if its answer was lost, nobody could tell whether to run it again. "
            "Leave it out, take session.begin_nested() for a part, or cluster.session() for a transaction of your own"
        )


async def _refuse_closed(session: AsyncSession) -> None:
    try:
        await session.begin()
    except InvalidRequestError as closed:
        raise MisuseError(
            "run: expected a function that leaves its session open, got one that closed it (async with session, or "
            "session.close()), which has rolled back what it wrote"
        ) from closed


def _is_retryable(error: BaseException) -> bool:
    """Before COMMIT, or as the server's definite answer to it."""
    if isinstance(error, BaseExceptionGroup):  # of a task group
        return all(map(_is_retryable, error.exceptions))
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = sqlstate(error)
    if state:
        return state in _AGAIN or state.startswith("08")
    return is_stale(error) or (isinstance(error, DBAPIError) and isinstance(of_the_driver(error), OF_THE_DRIVER))
