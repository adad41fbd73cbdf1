"""PostgreSQL in several shards: answered as one database would, or refused with the reason. See `ShardedCluster`."""

from tenfold.db.shards.across import CrossShardTransaction
from tenfold.db.shards.carry import DispatchCounters
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.current import MapChanged
from tenfold.db.shards.dispatch import Dispatcher
from tenfold.db.shards.errors import (
    CannotAnswer,
    CoordinatorLost,
    CrossShard,
    InDoubt,
    LockTimeout,
    MapMoved,
    PartialWrite,
    ShardError,
    StaleMap,
    TooManyGroups,
    UnknownShard,
)
from tenfold.db.shards.ids import ClockWentBack, Snowflake, Uuid7, snowflake_parts, uuid7
from tenfold.db.shards.lease import LeaseLost, NoWorkerFree, SnowflakeIds
from tenfold.db.shards.map import DirectoryStrategy, HashStrategy, RangeStrategy, ShardMap
from tenfold.db.shards.outbox import Message, MessageDied, Outbox, OutboxOptions, Waiting
from tenfold.db.shards.plan import plan
from tenfold.db.shards.recovery import Recovered
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.twophase import TwoPhase

__all__ = [
    "CannotAnswer",
    "ClockWentBack",
    "CoordinatorLost",
    "CrossShard",
    "CrossShardTransaction",
    "DirectoryStrategy",
    "DispatchCounters",
    "Dispatcher",
    "HashStrategy",
    "InDoubt",
    "LeaseLost",
    "LockTimeout",
    "MapChanged",
    "MapMoved",
    "Message",
    "MessageDied",
    "NoWorkerFree",
    "Outbox",
    "OutboxOptions",
    "PartialWrite",
    "Plan",
    "RangeStrategy",
    "Recovered",
    "Scheme",
    "ShardError",
    "ShardMap",
    "ShardedCluster",
    "Snowflake",
    "SnowflakeIds",
    "StaleMap",
    "TooManyGroups",
    "TwoPhase",
    "UnknownShard",
    "Uuid7",
    "Waiting",
    "plan",
    "snowflake_parts",
    "uuid7",
]
