"""The servers that a URL means, for who looks at them from outside, and what of a cache each of them has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from tenfold.cache.cache import Cache
from tenfold.cache.cluster import slots_of
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.level_two import prefix
from tenfold.cache.partitions import namespace_of, partition_of
from tenfold.cache.places import Address, Parsed, parsed
from tenfold.cache.sentinel import Behind

if TYPE_CHECKING:
    from redis.asyncio import Redis

PATIENCE: Final = 5.0


class Servers:
    """One server, which has all of a cache, or the nodes of a cluster, each with some of its partitions."""

    def __init__(self, clients: list[Redis], partitions: int = 0, slots: Sequence[tuple[int, int, int]] = ()) -> None:
        self.clients = clients
        self._partitions = partitions
        self._slots = slots  # first, last, which client

    def homes(self, name: str) -> Iterator[tuple[Redis, str]]:
        """All that a cache has: a client, and what every key there begins with. Raises `MisuseError` for no name."""
        if not self._partitions:
            yield self.clients[0], prefix_of(name)
        for at in range(self._partitions):
            yield self._part(name, at)

    def home(self, name: str, key: str) -> tuple[Redis, str]:
        """Where this key is. Raises as `homes`."""
        if not self._partitions:
            return self.clients[0], prefix_of(name)
        return self._part(name, partition_of(key, self._partitions))

    async def aclose(self) -> None:
        for client in self.clients:
            await client.aclose()

    def _part(self, name: str, at: int) -> tuple[Redis, str]:
        from redis.crc import key_slot

        prefix_of(name)
        start = prefix(namespace_of(name, at, self._partitions))
        slot = key_slot(start.encode())
        for first, last, client in self._slots:
            if first <= slot <= last:
                return self.clients[client], start
        raise LevelTwoDown(f"no node has slot {slot}")


async def found_by(url: str) -> Servers:
    """Clients that give up after five seconds. Raises what redis-py raises, and `LevelTwoDown`."""
    where = parsed(url)
    if where.kind == "single":
        return Servers([_client(url)])
    if where.kind == "sentinel":
        behind = Behind(where)
        try:
            return Servers([_client(where.at(await behind.master()))])
        finally:
            await behind.aclose()
    slots = await _slots(where)
    nodes = list(dict.fromkeys(address for _, _, address in slots))
    return Servers(
        [_client(where.at(node)) for node in nodes],
        where.partitions,
        [(first, last, nodes.index(address)) for first, last, address in slots],
    )


async def _slots(where: Parsed) -> list[tuple[int, int, Address]]:
    from redis.exceptions import RedisError

    why: object = "no node was asked"
    for address in where.addresses:
        client = _client(where.at(address))
        try:
            answer: Any = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            if found := slots_of(answer, address):
                return found
            why = f"{address[0]}:{address[1]} is no node of a cluster with slots"
        except (RedisError, OSError) as error:
            why = error
        finally:
            await client.aclose()
    raise LevelTwoDown(f"no node of the cluster tells the slots; the last one said: {why}")


def prefix_of(name: str) -> str:
    """What every key of a cache on one server begins with. Raises `MisuseError` for what is no name."""
    Cache(name)
    return prefix(name)


def _client(url: str) -> Redis:
    from redis.asyncio import Redis

    client: Redis = Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    return client
