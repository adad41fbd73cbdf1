"""The state of the reshard in the database of the map, where it outlives the tool.

One row, because one reshard at a time is open. ``busy`` tells `tenfold.db.shards.store` what it must not do
meanwhile: ``open`` refuses another change of the map, ``switching`` also its repair.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tenfold.db.reshard.errors import ReshardError
from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.steps import Reshard

_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS tenfold_reshard (one bool PRIMARY KEY DEFAULT true CHECK (one), busy text NOT NULL, "
    "state text NOT NULL, changed_at timestamptz NOT NULL)"
)
_STORE: Final = (
    "INSERT INTO tenfold_reshard (busy, state, changed_at) VALUES ($1, $2, now()) ON CONFLICT (one) DO UPDATE "
    "SET busy = excluded.busy, state = excluded.state, changed_at = excluded.changed_at"
)


async def load(home: Connection) -> Reshard | None:
    """The open reshard; None when there is none. Raises `ReshardError` for one of another version."""
    if not await home.fetchval("SELECT to_regclass('tenfold_reshard') IS NOT NULL"):
        return None
    text = await home.fetchval("SELECT state FROM tenfold_reshard")
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Reshard)
    except msgspec.DecodeError as error:
        raise ReshardError(f"tenfold_reshard: cannot read the state of the reshard that is open ({error})") from error


async def store(home: Connection, state: Reshard) -> None:
    """Keep ``state``, within the transaction that is open, if one is."""
    busy = "switching" if state.intent is not None else "open" if state.started else "planned"
    if not home.is_in_transaction():
        await home.execute("SET client_min_messages = warning")
        await home.execute(_CREATE)
    await home.execute(_STORE, busy, msgspec.json.encode(state).decode())


async def forget(home: Connection) -> None:
    """No reshard is open any more."""
    await home.execute("DELETE FROM tenfold_reshard")
