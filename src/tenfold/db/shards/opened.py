"""The shards as they are given, and the connections that are opened for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from tenfold._core.errors import MisuseError
from tenfold.db.cluster import AsyncCluster
from tenfold.db.shards.mark import MapMark
from tenfold.db.shards.member import Member, ReplicatedMember
from tenfold.db.urls import asyncpg_url

Given = URL | AsyncCluster


def named(shards: Mapping[str, str | URL | AsyncCluster] | Sequence[str | URL | AsyncCluster]) -> dict[str, Given]:
    """The shards by name; those of a list are called s0, s1 … Raises `MisuseError`."""
    if isinstance(shards, str) or not shards:
        raise MisuseError("shards: expected URLs by name or a list of URLs, one at least")
    found = dict(shards) if isinstance(shards, Mapping) else {f"s{n}": one for n, one in enumerate(shards)}
    return {name: given(one, f"shards[{name!r}]") for name, one in found.items()}


def given(shard: str | URL | AsyncCluster, what: str) -> Given:
    """One shard, called ``what`` in the refusal."""
    return shard if isinstance(shard, AsyncCluster) else asyncpg_url(shard, what)


def opened(name: str, shard: Given, mark: MapMark, *, pool_timeout: float, options: Mapping[str, Any]) -> Member:
    """The member for one shard; it connects when it is first used."""
    if isinstance(shard, AsyncCluster):
        return ReplicatedMember(name, shard, mark)
    return Member(name, create_async_engine(shard, pool_timeout=pool_timeout, **options), mark)
