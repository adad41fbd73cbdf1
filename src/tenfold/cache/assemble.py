"""From a URL to a level 2: on one server, on the master behind Sentinels, on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from tenfold._core.clock import Clock
from tenfold.cache.cluster import Cluster
from tenfold.cache.counters import Counters
from tenfold.cache.level_two import Level2, Source, prefix
from tenfold.cache.link import Link
from tenfold.cache.partitions import Partitions
from tenfold.cache.places import Single, parsed
from tenfold.cache.redis import OneServer
from tenfold.cache.sentinel import Behind, ToMaster, watch
from tenfold.cache.settle import Settlements
from tenfold.cache.tasks import Spawn


def check_url(url: str, credentials: Any) -> None:
    """Raises `MisuseError` for a URL that cannot be read."""
    found = parsed(url)
    if found.kind == "cluster":
        Cluster(found, credentials=credentials, random=Random(0))
    elif found.kind == "sentinel":
        Behind(found, credentials)
    else:
        Single(url, credentials)


def assemble(
    url: str,
    name: str,
    *,
    credentials: Any,
    sender: bytes,
    counters: Counters,
    clock: Clock,
    random: Random,
    spawn: Spawn,
    soft: float,
    hard: float,
    backoff: float,
) -> tuple[Level2, Source]:
    """Level 2 of the cache ``name``, and where its connections come from."""
    server: Callable[..., OneServer] = partial(
        OneServer, sender=sender, counters=counters, clock=clock, spawn=spawn, soft=soft, hard=hard, backoff=backoff
    )
    found = parsed(url)
    if found.kind == "single":
        link = Link(url, credentials=credentials)
        return server(link, name), link
    if found.kind == "sentinel":
        behind = Behind(found, credentials)
        way = ToMaster(Link(behind), prefix(name))
        level2 = server(way, name)
        spawn(watch(behind, way, level2, clock))
        return level2, way
    from redis.crc import key_slot

    cluster = Cluster(found, credentials=credentials, random=random)

    def part(namespace: str, channel: str, settlements: Settlements) -> OneServer:
        start = prefix(namespace)
        way = cluster.partition(key_slot(start.encode()), start)
        return server(way, namespace, channel=channel, settlements=settlements)

    return Partitions(name, found.partitions, part), cluster
