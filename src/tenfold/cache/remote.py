"""Level 2 from outside: what one cache has in a running Valkey, for the command line.

Records are read by name, a bounded number of them, without loading a value or counting a hit. Nothing outside of the
cache's own prefix is read, and nothing but `drop` removes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold.cache.cache import Cache
from tenfold.cache.codec import NONCE, VALUE, lease_of
from tenfold.cache.errors import CacheError, LevelTwoDown
from tenfold.cache.places import without_secrets
from tenfold.cache.remote_servers import PATIENCE, Servers, found_by, prefix_of

__all__ = [
    "PATIENCE",
    "Record",
    "RemoteError",
    "Servers",
    "Survey",
    "Tally",
    "cache_of",
    "connected",
    "drop",
    "look",
    "prefix_of",
    "survey",
]

if TYPE_CHECKING:
    from redis.asyncio import Redis

_TOGETHER: Final = 500
_SUMMED: Final = ("used_memory", "maxmemory", "evicted_keys")  # over the nodes of a cluster
_COUNT_AT: Final = 1 + NONCE + 13


class RemoteError(CacheError):
    """The server did not answer, or refused."""


@dataclass(slots=True)
class Tally:
    """Values of one function: how many, how many bytes, and the seconds left of the first and the last to expire."""

    values: int = 0
    bytes: int = 0
    first: float = float("inf")
    last: float = 0.0


@dataclass(slots=True, kw_only=True)
class Survey:
    """What is under the prefix of one cache. ``complete`` is False where ``limit`` ended the count."""

    keys: int = 0
    leases: int = 0
    tags: int = 0
    other: int = 0
    functions: dict[str, Tally] = field(default_factory=dict)
    complete: bool = True
    server: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> int:
        return sum(tally.values for tally in self.functions.values())

    @property
    def bytes(self) -> int:
        return sum(tally.bytes for tally in self.functions.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as it is on the server.

    ``left`` is in seconds; ``tags`` is how many tags a value carries. ``state`` is ``"good"``, ``"invalidated"``, or
    ``"not refuted"``: the record has only the marks of its tags, and tags made together share one, so without their
    names nobody can be sure.
    """

    kind: Literal["value", "lease", "nothing", "unknown"]
    state: Literal["good", "invalidated", "not refuted", ""] = ""
    left: float = 0.0
    bytes: int = 0
    tags: int = 0


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Servers]:
    """A client that gives up after five seconds. Raises `MisuseError` or `RemoteError`."""
    Cache("check", redis=url)  # says what is wrong with a URL, and which extra is missing
    with _translated(url):
        servers = await found_by(url)
        try:
            yield servers
        finally:
            await servers.aclose()


async def survey(servers: Servers, name: str, *, limit: int = 100_000) -> Survey:
    """Count what a cache has there, at most ``limit`` keys."""
    found = Survey()
    for client, prefix in servers.homes(name):
        async for part in _parts(client, prefix):
            part = part[: limit - found.keys]
            found.keys += len(part)
            await _count(client, found, prefix, part)
            if found.keys >= limit:
                found.complete = False
                break
        if not found.complete:
            break
    wanted = ("valkey_version", "redis_version", "used_memory", "maxmemory", "maxmemory_policy", "evicted_keys")
    for client in servers.clients:
        info = await client.info()
        for key in wanted:
            if key in info:
                before = found.server.get(key, 0) if key in _SUMMED else 0
                found.server[key] = info[key] + before if before else info[key]
    return found


async def look(
    servers: Servers, name: str, key: str, tags: Sequence[str] | None = None, *, limit: int = 100_000
) -> Record:
    """The record of ``key``. ``tags`` in the order of their declaration make the answer certain; without them at most
    ``limit`` of the cache's tags are looked through for the record's marks.
    """
    client, prefix = servers.home(name, key)
    record: Any = await client.get(f"{prefix}e:{key}")
    if record is None:
        return Record(kind="nothing")
    left = max(0, await client.pttl(f"{prefix}e:{key}")) / 1000
    if lease_of(record) is not None:
        return Record(kind="lease", left=left, bytes=len(record))
    if record[0] != VALUE or len(record) <= _COUNT_AT:
        return Record(kind="unknown", left=left, bytes=len(record))
    count = record[_COUNT_AT]
    marks = [bytes(record[_COUNT_AT + 1 + NONCE * at :][:NONCE]) for at in range(count)]
    state: Literal["good", "invalidated", "not refuted"]
    if tags is None and count == 1:
        tags = ()  # it carries none
    if tags is None:
        standing = await _standing(client, f"{prefix}t:", limit)
        refuted = any(standing[mark] < times for mark, times in Counter(marks).items())
        state = "invalidated" if refuted else "not refuted"
    else:
        nonces = await client.mget([f"{prefix}t:", *[f"{prefix}t:{tag}" for tag in tags]])
        state = "good" if nonces == marks else "invalidated"
    return Record(kind="value", state=state, left=left, bytes=len(record), tags=count - 1)


async def _standing(client: Redis, prefix: str, limit: int) -> Counter[bytes]:
    """How many tags have each mark at present."""
    found: Counter[bytes] = Counter()
    async for part in _parts(client, prefix):
        if part:
            marks: list[Any] = await client.mget(part)
            found.update(mark for mark in marks if mark is not None)
        if found.total() >= limit:
            break
    return found


async def drop(servers: Servers, name: str) -> int:
    """Remove every key of a cache and give the memory back; how many there were."""
    dropped = 0
    for client, prefix in servers.homes(name):
        async for part in _parts(client, prefix):
            if part:
                dropped += await client.unlink(*part)
    return dropped


async def _parts(client: Redis, prefix: str) -> AsyncIterator[list[bytes]]:
    """The keys with this prefix, some hundred at a time."""
    cursor, start = 0, prefix.encode()
    while True:
        answer: Any = await client.scan(cursor, match=f"{prefix}*", count=_TOGETHER)
        cursor, keys = answer
        # A name has no wildcards, but what is about to be removed is looked at twice.
        yield [key for key in keys if key.startswith(start)]
        if cursor == 0:
            return


async def _count(client: Redis, found: Survey, prefix: str, keys: list[bytes]) -> None:
    records = [key for key in keys if key.startswith(f"{prefix}e:".encode())]
    tags = sum(key.startswith(f"{prefix}t:".encode()) for key in keys)
    turns = sum(key.startswith(f"{prefix}r:".encode()) for key in keys)
    found.tags += tags
    found.leases += turns
    found.other += len(keys) - len(records) - tags - turns
    async with client.pipeline(transaction=False) as pipe:
        for key in records:
            pipe.getrange(key, 0, 0)
            pipe.strlen(key)
            pipe.pttl(key)
        answers = await pipe.execute()
    for at, key in enumerate(records):
        kind, length, left = answers[3 * at : 3 * at + 3]
        if not kind:
            continue  # it expired meanwhile
        if kind[0] != VALUE:
            found.leases += 1
            continue
        function = key.decode("utf-8", "replace").removeprefix(f"{prefix}e:").partition("(")[0]
        tally = found.functions.setdefault(function, Tally())
        tally.values += 1
        tally.bytes += length
        tally.first = min(tally.first, left / 1000)
        tally.last = max(tally.last, left / 1000)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError, LevelTwoDown) as error:
        where = without_secrets(url).partition("://")[2]
        raise RemoteError(f"no use of the server at {where}: {error}") from error


def cache_of(function: Any, candidates: Any) -> Cache:
    """The cache among ``candidates`` that decorated ``function``. Raises `MisuseError`."""
    for one in candidates:
        if isinstance(one, Cache) and any(declared.function is function for declared in one._declared.values()):
            return one
    raise MisuseError(
        f"expected a function that a Cache of its module decorated, got {function!r}; say which by --cache module:name"
    )
