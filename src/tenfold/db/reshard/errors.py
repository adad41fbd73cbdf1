"""What a reshard raises of its own."""

from __future__ import annotations

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import ShardError


class ReshardError(ShardError):
    """The reshard cannot go on as things stand; the message says what to do. Its state is kept."""


class CannotMove(ReshardError, MisuseError):
    """The plan makes no sense, or the shards are not fit for it. Nothing was done."""


class Interrupted(ReshardError):
    """A shard was lost or did not answer. The state is kept: running it again goes on."""


class Behind(ReshardError):
    """So much was written just before the fence that writers would wait long until the copy has it."""

    def __init__(self, entries: int) -> None:
        super().__init__(
            f"more than {entries:,} rows were written right before each try to switch, as by bulk updates, and working "
            "them off would have kept writers waiting: run it again when these have ended"
        )


class Different(ReshardError):
    """Live rows and their copy are not the same, so nothing was switched. ``places``: what differs."""

    def __init__(self, places: tuple[str, ...]) -> None:
        shown = "; ".join(places[:5]) + (f"; and {len(places) - 5} more" if len(places) > 5 else "")
        super().__init__(
            f"live rows and copies differ: {shown}; nothing was switched. Somebody wrote to the copies or past the "
            "triggers (after a failover, `run` and `rollback` copy anew). "
            "Live rows count: `tenfold reshard rollback` if they are where they were, `tenfold reshard run "
            "--finish` if they have moved; then plan anew"
        )
        self.places = places
