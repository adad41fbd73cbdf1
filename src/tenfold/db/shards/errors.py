"""What the sharded cluster raises of its own."""

from __future__ import annotations

from typing import Final

from tenfold._core.errors import MisuseError, TenfoldError


class ShardError(TenfoldError):
    """Root of this package's errors."""


class CannotAnswer(ShardError, MisuseError):
    """The statement has no answer that would be that of one database, so it was not sent.

    ``reason`` says why, ``instead`` what to do.
    """

    def __init__(self, reason: str, instead: str) -> None:
        super().__init__(f"{reason}; {instead}")
        self.reason: Final = reason
        self.instead: Final = instead


class CrossShard(CannotAnswer):
    """A second shard in one transaction. ``bound`` is the transaction's shard, ``wanted`` the statement's."""

    def __init__(self, bound: str, wanted: str) -> None:
        super().__init__(
            f"the transaction is bound to shard {bound} and the statement belongs to {wanted}",
            "commit first and use another session; for one change on two shards send an outbox message in the same "
            "transaction (Outbox), or commit on both at once (TwoPhase)",
        )
        self.bound: Final = bound
        self.wanted: Final = wanted


class StaleMap(ShardError):
    """A shard's epoch is not the map's. Nothing of the statement has happened.

    ``shard`` says where, ``expected`` is the map's epoch, ``found`` the shard's.
    """

    def __init__(self, shard: str, expected: int, found: int) -> None:
        super().__init__(
            f"shard {shard} is at epoch {found} of the map, this process at {expected}: the map is being changed; "
            "if it stays so, a change was interrupted and `await cluster.repair()` ends it"
        )
        self.shard: Final = shard
        self.expected: Final = expected
        self.found: Final = found


class UnknownShard(ShardError):
    """The map has buckets on ``shard``, of which this process has no URL. Nothing of the statement has happened there.

    ``epoch`` is the map's. Other shards are served as before.
    """

    def __init__(self, shard: str, epoch: int) -> None:
        super().__init__(
            f"shard {shard} has buckets in the map of epoch {epoch}, and this process has no URL of it: "
            f'`await cluster.add_shard("{shard}", url)`, or start it with that URL'
        )
        self.shard: Final = shard
        self.epoch: Final = epoch


class TooManyGroups(ShardError):
    """More groups or distinct rows to merge than ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"more than {limit} groups or distinct rows to merge in memory; group by the shard key, narrow the "
            "WHERE, or raise max_groups"
        )
        self.limit: Final = limit


class PartialWrite(ShardError):
    """Some shards have committed their part, others not. ``done``: rows by shard, ``failed``: error by shard."""

    def __init__(self, done: dict[str, int], failed: dict[str, Exception]) -> None:
        shown = "; ".join(f"{shard}: {type(error).__name__}: {error}" for shard, error in failed.items())
        super().__init__(
            f"{sum(done.values())} rows are stored on {', '.join(done) or 'no shard'}, and these failed: {shown}; "
            "insert again with ON CONFLICT DO NOTHING"
        )
        self.done: Final = done
        self.failed: Final = failed


class LockTimeout(ShardError):
    """A transaction over several shards waited for a lock as long as it may, perhaps in a deadlock across shards, which
    no server sees. All was rolled back; `TwoPhase.run` runs it again. ``shards``: where it was.
    """

    def __init__(self, shards: tuple[str, ...], waited: str) -> None:
        super().__init__(
            f"the transaction on {', '.join(shards)} waited up to {waited} for a lock, perhaps in a deadlock across "
            "shards, which no server sees; all was rolled back. Run it again (`two.run(…)` does), touch keys in one "
            "order, or raise lock_timeout"
        )
        self.shards: Final = shards


class MapMoved(ShardError):
    """The map changed between two sessions of one transaction, so both would be on one shard. All was rolled back;
    `TwoPhase.run` runs it again.
    """

    def __init__(self) -> None:
        super().__init__("the map of shards changed in the middle of the transaction: run it again")


class CoordinatorLost(ShardError):
    """Another process took this one for dead (its connection to the home shard was cut). All was rolled back."""


class InDoubt(ShardError):
    """Nobody knows yet whether the transaction was committed: the home shard was lost while it decided. The shards will
    agree when recovery has reached it. ``number`` names it in the log.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            f"two-phase transaction {number} may have been committed: the home shard did not answer when it decided. "
            "Look for its effects, or run it again under an idempotency key (tenfold.db.once)"
        )
        self.number: Final = number
