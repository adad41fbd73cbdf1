"""Whoever connects compares histories: what was stored under another one counts no more, and nothing else is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import FAST, SURE, Link
from tenfold.cache.sentinel import ToMaster
from tenfold.servers.talk import tell

PREFIX = "tenfold:1:shop:"
EVERYTHING = f"{PREFIX}t:"


async def connected(url: str) -> ToMaster:
    way = ToMaster(Link(url), PREFIX)
    await way.opened(2)
    return way


async def nonce(valkey: Any) -> bytes:
    way = Link(valkey.url)
    try:
        (answer,) = await way.exchange([("GET", EVERYTHING)], 2)
    finally:
        await way.aclose()
    assert type(answer) is bytes
    assert len(answer) == 8
    return answer


async def another_history(valkey: Any) -> None:
    await tell(valkey.port, "REPLICAOF", "127.0.0.1", 1)
    await tell(valkey.port, "REPLICAOF", "NO", "ONE")


async def test_to_connect_changes_the_nonce_only_under_another_history(valkey: Any) -> None:
    ways = [await connected(valkey.url)]
    first = await nonce(valkey)
    ways.append(await connected(valkey.url))
    assert await nonce(valkey) == first
    await another_history(valkey)
    ways.append(await connected(valkey.url))
    second = await nonce(valkey)
    assert second[:4] != first[:4]
    ways.append(await connected(valkey.url))
    assert await nonce(valkey) == second
    for way in ways:
        await way.aclose()
        await way._link.aclose()


async def test_who_has_deleted_under_another_history_deletes_again(valkey: Any) -> None:
    """For what it deleted may stand on the new master, stored by somebody who went there first."""
    idle, busy = await connected(valkey.url), await connected(valkey.url)
    await busy.exchange([("UNLINK", f"{PREFIX}e:k")], 2, SURE)
    await another_history(valkey)
    quick = await connected(valkey.url)
    before = await nonce(valkey)
    for way in (idle, quick):
        await way.drop(FAST, SURE)
        await way.opened(2)
        assert await nonce(valkey) == before
    await busy.drop(FAST, SURE)
    await busy.opened(2)
    after = await nonce(valkey)
    assert after != before
    assert after[:4] == before[:4]
    await busy.drop(FAST, SURE)
    await busy.opened(2)
    assert await nonce(valkey) == after  # once
    for way in (idle, busy, quick):
        await way.aclose()
        await way._link.aclose()


async def test_a_lane_is_open_only_once_it_was_vetted(valkey: Any) -> None:
    await tell(valkey.port, "REPLICAOF", "127.0.0.1", 1)
    link = Link(valkey.url)
    way = ToMaster(link, PREFIX)
    with pytest.raises(LevelTwoDown, match="no master"):
        await way.opened(2)
    assert (way.lane(FAST), link.connections) == (None, 0)
    await tell(valkey.port, "REPLICAOF", "NO", "ONE")
    lane = await way.opened(2)
    assert way.lane(FAST) is lane
    await way.aclose()
    await link.aclose()
