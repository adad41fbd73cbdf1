"""What SQLAlchemy's engines tell of a node's connections: made, taken, given back, lost, used, failed.

Here generations are kept apart, check-outs are noted, latencies are measured, and a transaction that failed is not
taken for committed.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.util import await_only

from tenfold.db import pool_policy
from tenfold.db.pool import Holder, cut
from tenfold.db.refusals import NOT_THERE, of_the_driver
from tenfold.resilience import Overloaded

if TYPE_CHECKING:
    from tenfold.db.node import Node

_TURNS_TO_NOTICE: Final = 5
_MADE_IN: Final = "tenfold_generation"
_SURE_SINCE: Final = "tenfold_silences"
_HELD: Final = "tenfold_holder"
_PLACE: Final = "tenfold_place"
# A connection past its first use, in which it loads types and prepares every statement.
_WARM: Final = "tenfold_warm"
_READ_ONLY: Final = "25006"
_ABORTED: Final = "25P02"
_FAREWELL: Final = (
    "The server ended this connection while it was idle, and the driver noticed only now: the connection is lost, and "
    "the statement was not sent."
)


class Taps:
    """The listeners of one engine."""

    __slots__ = ("node", "write")

    def __init__(self, node: Node, write: bool) -> None:
        self.node, self.write = node, write

    def do_connect(self, dialect: object, record: Any, cargs: object, cparams: dict[str, Any]) -> None:
        node = self.node
        node.used = True
        # Noted before the connection is made: what changes meanwhile makes it one of the old.
        record.info[_MADE_IN] = node.generation
        record.info[_SURE_SINCE] = node.silences
        timeout = float(node.options.connect_timeout)
        node.pooled = pool_policy.obey(cparams, lambda: node.pooled, lambda: pool_policy.asked(node.url, timeout))

    def connect(self, connection: Any, record: Any) -> None:
        pool_policy.note(record.info, self.node.pooled)
        if not self.node.pooled:
            return
        if not self.write:
            connection.set_isolation_level("read_committed")
            connection.readonly = True

    def checkout(self, connection: Any, record: Any, proxy: object) -> None:
        node = self.node
        if record.info.get(_MADE_IN) != node.generation:
            raise DisconnectionError("the server is not the one that this connection was made to")
        if _is_dead(connection.driver_connection):
            raise DisconnectionError("the server closed this connection while it lay in the pool")
        if record.info.get(_SURE_SINCE) != node.silences:
            _ask(connection.driver_connection, float(node.options.connect_timeout))
            record.info[_SURE_SINCE] = node.silences
        now = time.monotonic()
        record.info[_HELD] = node.account.take(record, now, self.write)
        if not self.write:
            node.serves(now)
            try:
                record.info[_PLACE] = node.adaptive.enter(now)
            except Overloaded:
                record.info[_PLACE] = None  # it got here because nobody was better off

    def checkin(self, connection: object, record: Any) -> None:
        node = self.node
        held = node.account.give_back(record)
        now = time.monotonic()
        if held is not None and not held.write and _WARM in record.info:
            node.observe(now - held.since, now)
        place = record.info.pop(_PLACE, None)
        if place is not None:
            node.adaptive.leave(place, now, True)
        record.info[_WARM] = True
        if record.info.get(_MADE_IN) != node.generation or _left_open(record.driver_connection):
            cut(record)

    def detach(self, connection: object, record: Any) -> None:
        if self.node.account.give_back(record) is not None:
            self.node.account.lost += 1
        place = record.info.pop(_PLACE, None)
        if place is not None:
            self.node.adaptive.leave(place, time.monotonic(), None)

    def before_cursor_execute(
        self, connection: Any, cursor: object, statement: str, parameters: object, context: Any, many: bool
    ) -> None:
        held: Holder | None = connection.info.get(_HELD)
        if held is not None:
            held.statement = statement

    def commit(self, connection: Connection) -> None:
        try:
            refuse_aborted(connection)
        except DBAPIError:
            if not connection.invalidated:  # SQLAlchemy takes the transaction for ended from now on
                connection.dialect.do_rollback(connection.connection)
            raise

    def rollback(self, connection: Connection) -> None:
        held = None if connection.invalidated else connection.info.get(_HELD)
        if held is not None:
            held.error = None

    def handle_error(self, context: ExceptionContext) -> None:
        node, error = self.node, context.original_exception
        if self.write and context.connection is not None and not context.connection.invalidated:
            held = context.connection.info.get(_HELD)
            if held is not None and held.error is None:
                held.error = context.sqlalchemy_exception or error
        if isinstance(of_the_driver(error), asyncpg.InternalClientError):
            context.is_disconnect = True  # see `OF_THE_DRIVER`: SQLAlchemy would keep this connection
            (context.sqlalchemy_exception or error).add_note(_FAREWELL)
        if context.is_disconnect and not isinstance(error, asyncio.CancelledError):
            node.look(node)  # one broken connection says little; whether the server is there, the watch finds out
        if self.write and getattr(error, "sqlstate", None) == _READ_ONLY and not _asked_for(context):
            connection = context.connection
            if node.seen.read_only and node.seen.role == "primary":
                node.look(node)  # it is one, and refuses by its settings: other connections would be no better
            elif connection is None or connection.info.get(_MADE_IN) == node.generation:  # else it says nothing new
                node.advance("it was taken for the primary and refused to write")
                node.doubt(node, "it refused to write")


def _left_open(driver: Any) -> bool:
    """Whether its transaction was not ended: SQLAlchemy sends no ROLLBACK after a COMMIT that a listener refused, and
    whoever has the connection next would be in it.
    """
    return driver is not None and not driver.is_closed() and bool(driver.is_in_transaction())


def refuse_aborted(connection: Connection) -> None:
    """Raise the error that ended this transaction, if somebody swallowed it and goes on.

    PostgreSQL answers a COMMIT of a failed transaction with ROLLBACK, which is no error to the driver: nothing would be
    kept and nobody told. After an error the server is asked, for a savepoint may have healed it; without one nothing is
    sent.
    """
    held = None if connection.invalidated else connection.info.get(_HELD)
    if held is None or held.error is None:
        return
    error, held.error = held.error, None
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as aborted:
        if getattr(aborted.orig, "sqlstate", None) == _ABORTED:
            raise error from aborted
        raise


def _asked_for(context: ExceptionContext) -> bool:
    """Whether the transaction is read-only because its owner said so (``postgresql_readonly``)."""
    connection = context.connection
    return connection is None or bool(getattr(connection.connection.dbapi_connection, "readonly", False))


def _ask(connection: Any, within: float) -> None:
    """Raises `DisconnectionError` if the server does not answer over this idle connection in time."""
    try:
        await_only(connection.execute("SELECT 1", timeout=within))
    except NOT_THERE as error:
        connection.terminate()
        raise DisconnectionError("the server does not answer over this connection any more") from error


def _is_dead(connection: Any) -> bool:
    """Whether the server has closed this idle connection.

    The driver knows once the loop has read the end of the stream. In a busy loop that may lie unread in the
    socket; so when something is there to read, the loop is given the few turns that it needs to take it in.
    """
    if connection.is_closed():
        return True
    socket = connection._transport.get_extra_info("socket")
    waiting = select.poll()
    waiting.register(socket.fileno(), select.POLLIN)
    if waiting.poll(0):
        for _ in range(_TURNS_TO_NOTICE):
            await_only(asyncio.sleep(0))
            if connection.is_closed():
                return True
    return False
