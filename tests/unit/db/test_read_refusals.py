"""Which errors of a read let it run again elsewhere."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.no_reader import unanswered
from tenfold.db.refusals import Refusal, refusal


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
