"""Messages to other shards, written in the transaction that they tell of.

Theory. Two databases have no transaction in common, but a change and *the word of it* can be in one. The word is a row
of the same shard (the *outbox*), a dispatcher carries it over later, and the receiver notes in the transaction of the
effect that it has had it (the *inbox*). Delivery is then at least once and the effect exactly once (Helland, "Life
Beyond Distributed Transactions", 2007; the names are those of Richardson's patterns). In between the receiver is
behind: that is the price, and the gain is that no shard ever waits for another.

Order is kept for each key from each shard. A message gets its number before its transaction commits, so if one
transaction began after another had committed, its messages come later; two that overlap were never ordered.

Before a message goes to a shard, that is written down with it. So one whose key has moved between two tries is looked
for in the inboxes of where it has been. The try is counted in the same statement, with a pause after which it is due
again, and given back where it was no fault of the message: a receiver that is down, an end in good order. So a message
that kills its dispatcher is counted too. Nobody knows which of those in hand it was; they are *suspects*, and each of
them is delivered with nothing else in hand, until it is delivered or has been tried as often as it may be.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.shards import keys
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.own_tables import made
from tenfold.db.shards.parallel import together

CHANNEL: Final = "tenfold_outbox"
UNREADABLE: Final = (MisuseError, ValueError, RecursionError)
_LONGEST_TOPIC: Final = 200
_CREATE: Final = (
    "SELECT pg_advisory_xact_lock(7233176)",
    "CREATE TABLE IF NOT EXISTS tenfold_outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    "message uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, key text NOT NULL, body jsonb NOT NULL, "
    "at timestamptz NOT NULL DEFAULT clock_timestamp(), due timestamptz NOT NULL DEFAULT '-infinity', "
    "tries int NOT NULL DEFAULT 0, asked text[] NOT NULL DEFAULT '{}', error text, dead bool NOT NULL DEFAULT false, "
    "held bool NOT NULL DEFAULT false)",
    "ALTER TABLE tenfold_outbox ADD COLUMN IF NOT EXISTS held bool NOT NULL DEFAULT false",
    "CREATE INDEX IF NOT EXISTS tenfold_outbox_waiting ON tenfold_outbox (id) WHERE NOT dead",
    "CREATE INDEX IF NOT EXISTS tenfold_outbox_keys ON tenfold_outbox (key, id) WHERE NOT dead",
    "CREATE TABLE IF NOT EXISTS tenfold_inbox (message uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
    "CREATE INDEX IF NOT EXISTS tenfold_inbox_at ON tenfold_inbox (at)",
)
_SEND: Final = sa.text(
    "WITH made AS (INSERT INTO tenfold_outbox (topic, key, body) VALUES (:topic, :key, CAST(:body AS jsonb)) "
    "RETURNING message) SELECT message, pg_notify('tenfold_outbox', '') FROM made"
)
_SEND_QUIETLY: Final = sa.text(
    "INSERT INTO tenfold_outbox (topic, key, body) VALUES (:topic, :key, CAST(:body AS jsonb)) RETURNING message"
)
_WAITING: Final = sa.text(
    "SELECT count(*) FILTER (WHERE NOT dead), count(*) FILTER (WHERE dead), "
    "coalesce(extract(epoch FROM clock_timestamp() - min(at) FILTER (WHERE NOT dead)), 0)::float8 FROM tenfold_outbox"
)
_DEAD: Final = sa.text(
    "SELECT id, message, topic, key, body::text, tries, asked, error FROM tenfold_outbox WHERE dead ORDER BY id LIMIT "
    ":most"
)
_REVIVE: Final = sa.text(
    "UPDATE tenfold_outbox SET dead = false, tries = 0, due = '-infinity', error = NULL, held = false "
    "WHERE id = :id AND dead"
)


@dataclass(frozen=True, slots=True)
class MessageDied(Event):
    """A message was tried as often as it may be, or has killed as many dispatchers, and is laid aside; later ones of
    its key go on.
    """

    shard: str
    id: int
    topic: str
    error: str


@dataclass(frozen=True, slots=True)
class Message:
    """What a receiver gets. ``message`` is the same at every try, ``id`` the number on the sender's shard."""

    id: int
    message: uuid.UUID
    topic: str
    key: keys.Key
    body: Any
    tries: int
    asked: tuple[str, ...]
    """The shards that it has been sent to."""
    error: str | None = None
    """Why the last try failed."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """``count`` messages of one shard wait, the oldest for ``age`` seconds; ``dead`` were laid aside."""

    count: int
    dead: int
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxOptions:
    """How a `Dispatcher` works.

    ``batch`` (100): messages claimed at a time; ``concurrency`` (8): keys whose messages are delivered at a time.
    ``poll`` (1 s): how often a shard is looked at without being told. ``tries`` (10): after so many that failed, or
    that their dispatcher did not survive, a message is laid aside; pauses between them grow from ``base`` (100 ms) by
    doubling to ``cap`` (60 s), fully jittered. ``deadline`` (30 s) bounds one delivery. ``keep`` (7 days): how long the
    inbox remembers, which must be longer than any shard, its backups included, may lag behind.
    """

    batch: int = 100
    concurrency: int = 8
    poll: Duration = "1s"
    tries: int = 10
    base: Duration = "100ms"
    cap: Duration = "60s"
    deadline: Duration = "30s"
    keep: Duration = "7d"

    def __post_init__(self) -> None:
        for name in ("batch", "concurrency", "tries"):
            whole_number(getattr(self, name), name, least=1)
        for name in ("poll", "base", "cap", "deadline", "keep"):
            object.__setattr__(self, name, duration(getattr(self, name), name))
            if getattr(self, name) == 0:
                raise MisuseError(f'{name}: expected a duration above 0 such as "1s", got 0')


class Outbox:
    """``outbox = Outbox(cluster)``: sends messages with the writes of a session. `Dispatcher` delivers them.

    ``notify`` (True): wake dispatchers at commit. PostgreSQL lets one notifying transaction of a database commit at a
    time; where thousands a second write, say False, and messages wait for ``poll`` instead.
    """

    def __init__(self, cluster: ShardedCluster, *, notify: bool = True) -> None:
        self._cluster = cluster
        self._send = _SEND if notify else _SEND_QUIETLY

    async def create_tables(self) -> None:
        """Create outbox and inbox on every shard where they are not there. Run it with the other migrations."""

        async def one(shard: str) -> None:
            async with self._cluster.member(shard).begin(None) as connection:
                await made(connection, f"Outbox, shard {shard}", _CREATE, ("tenfold_outbox", "tenfold_inbox"))

        shards = self._cluster.shards
        await together([partial(one, shard) for shard in shards], len(shards))

    async def send(self, session: AsyncSession | AsyncConnection, topic: str, *, key: Any, body: Any) -> uuid.UUID:
        """Write a message into the transaction of ``session``, which has its shard; returns its id.

        ``topic`` names the receiver, ``key`` is the shard key of what it will change, ``body`` anything that JSON holds
        (None too). It is sent if the transaction commits. Raises `MisuseError` for what makes no sense, `CannotAnswer`
        for a session that has no shard yet.
        """
        if not 1 <= len(topic) <= _LONGEST_TOPIC:
            raise MisuseError(f"topic: expected 1 to {_LONGEST_TOPIC} characters, got {topic!r:.80}")
        try:
            told = json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MisuseError(
                f"body: expected something that JSON can hold, got {type(body).__name__}: {error}"
            ) from error
        if isinstance(session, AsyncSession):
            await session.flush()
            session = await session.connection()
        self._cluster.map.bucket_of(key)  # a map of ranges takes keys of one type only
        values = {"topic": topic, "key": keys.write(key), "body": told}
        found = (await session.execute(self._send, values)).one()
        return uuid.UUID(str(found[0]))

    async def waiting(self) -> dict[str, Waiting]:
        """What waits on each shard. Counts rows, so ask it every few seconds at most."""

        async def one(shard: str) -> Waiting:
            async with self._cluster.member(shard).alone(writes=False) as connection:
                return Waiting(*(await connection.execute(_WAITING)).one())

        shards = self._cluster.shards
        found = await together([partial(one, shard) for shard in shards], len(shards))
        return dict(zip(shards, found, strict=True))

    async def dead(self, shard: str, *, most: int = 100) -> list[Message]:
        """The dead letters of a shard, the oldest first. They stay until `revive`, or until you delete their rows.

        Of one that nobody can read, ``key`` and ``body`` are the texts that are stored.
        """
        async with self._cluster.member(shard).alone(writes=False) as connection:
            return [_shown(row) for row in await connection.execute(_DEAD, {"most": most})]

    async def revive(self, shard: str, id: int) -> bool:
        """Let a dead letter be tried anew; whether there was one. Later ones of its key may have gone before it."""
        async with self._cluster.member(shard).begin(None) as connection:
            found: Any = await connection.execute(_REVIVE, {"id": id})
        return bool(found.rowcount)


def message(row: Any) -> Message:
    """A row of the outbox. Raises one of `UNREADABLE` where something else than `Outbox.send` has written it."""
    number, name, topic, key, body, tries, asked, error = row[:8]
    return Message(number, uuid.UUID(str(name)), topic, keys.read(key), json.loads(body), tries, tuple(asked), error)


def _shown(row: Any) -> Message:
    try:
        return message(row)
    except UNREADABLE:
        number, name, topic, key, body, tries, asked, error = row[:8]
        return Message(number, uuid.UUID(str(name)), topic, key, body, tries, tuple(asked), error)
