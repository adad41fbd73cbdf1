"""Which errors of a read let it run again elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, NotSupportedError

from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.no_reader import unanswered
from tenfold.db.refusals import Refusal, refusal
from tenfold.db.route import A_READ
from tenfold.db.router import Router


class Original(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def told(sqlstate: str, *, lost: bool = False) -> DBAPIError:
    return DBAPIError("SELECT 1", None, Original(sqlstate), connection_invalidated=lost)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (told("25006"), "refused"),
        (told("0A000"), "refused"),
        (told("55000"), "refused"),
        (told("40001"), "again"),
        (told("57P01", lost=True), "again"),
        (told("42P01"), None),
        # A question of the library's own about the read, which went over the driver.
        (asyncpg.InterfaceError("connection is closed"), "again"),
        (asyncpg.InternalClientError("got result for unknown protocol state"), "again"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "again"),
        (ConnectionResetError(), "again"),
        (TimeoutError(), None),  # of the statement: it would take as long elsewhere
    ],
)
def test_what_a_replica_s_error_means(error: BaseException, expected: Refusal | None) -> None:
    assert refusal(error) == expected


@pytest.mark.parametrize(
    ("lost", "ours"),
    [
        (None, True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (told("57P01", lost=True), True),
        (told("40001"), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.InvalidPasswordError("no"), False),
    ],
)
def test_what_is_raised_when_no_server_is_left(lost: BaseException | None, ours: bool) -> None:
    """The library's error because of the server's, unless that says something else than that it is not there."""
    refused = ReadsRefused("nobody", ())
    raised = unanswered(refused, lost)
    assert raised is (refused if ours else lost)
    assert refused.__cause__ is (lost if ours else None)


class Twice:
    """A place whose connection has the statement prepared as it was before two changes of its table."""

    def __init__(self, name: str, stale: int) -> None:
        self.name, self.replica, self.tries, self._stale = name, True, 0, stale

    @property
    def engine(self) -> Twice:
        return self

    def connect(self) -> Twice:
        return self

    def close(self) -> None:
        """Nothing is open."""

    def saw(self, connection: Twice) -> None:
        """Nobody wants to know."""

    def execute(self, statement: Any, parameters: Any) -> str:
        self.tries += 1
        if self.tries <= self._stale:
            stale: Any = AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError
            original = stale("cached statement plan is invalid")
            raise NotSupportedError("SELECT 1", None, original)
        return self.name


class Places:
    system = None

    def __init__(self, *places: Twice) -> None:
        self._places = places

    def readers(self, *_: Any) -> Iterator[Any]:
        return iter(self._places)


def test_a_statement_that_goes_stale_twice_runs_elsewhere() -> None:
    first, second = Twice("first", 2), Twice("second", 1)
    router = Router(Places(first, second))  # type: ignore[arg-type]
    read: Any = router._read(text("SELECT 1"), None, A_READ)
    assert read == "second"
    assert (first.tries, second.tries) == (2, 2)
