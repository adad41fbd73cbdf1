"""What the cluster raises of its own accord. What a server answers is raised as SQLAlchemy raises it."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tenfold._core.errors import TenfoldError


class DatabaseClusterError(TenfoldError):
    """Root of this package's errors."""


class NoPrimary(DatabaseClusterError, TimeoutError):
    """No server that takes writes was seen within the time that a writer may wait. Nothing was sent.

    ``retry_after``: seconds after which a further try makes sense.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: Final = retry_after


class ReadsRefused(DatabaseClusterError):
    """No server may serve this reader now. ``reasons`` has one for each node."""

    def __init__(self, message: str, reasons: tuple[str, ...]) -> None:
        super().__init__(message)
        self.reasons: Final = reasons


class PoolExhausted(DatabaseClusterError, PoolTimeoutError):
    """All connections of a pool are in use and none came back in time; ``holders`` says who has them."""

    def __init__(self, message: str, holders: tuple[str, ...]) -> None:
        super().__init__(message)
        self.holders: Final = holders


class CommitUnknown(DatabaseClusterError):
    """COMMIT was sent and the answer lost: the transaction may have been committed or not.

    It was not tried again, because it might then happen twice. ``xid`` is the transaction's id where it wrote something
    and the id is known; ``status`` is what ``pg_xact_status`` said of it ("committed", "aborted", "in progress", or
    why it cannot be trusted).
    """

    def __init__(self, message: str, xid: int | None, status: str) -> None:
        super().__init__(message)
        self.xid: Final = xid
        self.status: Final = status


class RetriesExhausted(DatabaseClusterError):
    """`AsyncCluster.run` gave up: attempts, budget or time are used up. The last error is the cause."""

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts: Final = attempts
