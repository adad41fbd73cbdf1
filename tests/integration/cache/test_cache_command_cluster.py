"""``tenfold cache`` on a cluster and behind Sentinels: it sees all partitions, and finds the master."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.servers import ValkeyCluster, ValkeySentinel
from tenfold.servers.talk import tell


async def tenfold(*words: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tenfold", "cache", *words,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("group", [ValkeyCluster, lambda: ValkeySentinel(sentinels=1)], ids=["cluster", "sentinel"])
async def test_stats_explain_and_clear(group: Any) -> None:
    async with group() as servers:
        where = ("--redis", servers.url, "--name", "shop")
        async with Cache("shop", redis=servers.url, timeout="2s") as cache, Cache("other", redis=servers.url) as other:

            @cache("1m", tags=["product:{number}"], name="product")
            async def product(number: int) -> str:
                return f"product {number}"

            @other("1m", name="else")
            async def elsewhere() -> str:
                return "somebody else's"

            for number in range(40):
                await product(number)
            await elsewhere()
            code, out, _ = await tenfold("stats", *where, "--json")
            found = json.loads(out)
            assert (code, found["values"], found["leases"], found["other"]) == (0, 40, 0, 0)
            assert found["functions"]["product"]["values"] == 40
            assert found["server"]["used_memory"] > 0
            code, out, _ = await tenfold("stats", *where, "--json", "--limit", "10")
            assert (json.loads(out)["keys"], json.loads(out)["complete"]) == (10, False)

            code, out, _ = await tenfold("explain", "product(7)", *where, "--tag", "product:7")
            assert (code, out.splitlines()[0]) == (0, "product(7): a hit in level 2")
            code, out, _ = await tenfold("clear", *where, "--tag", "product:7")
            assert (code, out) == (0, "cleared product:7\n")
            code, out, _ = await tenfold("explain", "product(7)", *where)
            assert (code, "a miss: invalidated since it was stored" in out) == (1, True)
        code, out, _ = await tenfold("clear", *where, "--yes", "--delete")
        assert (code, out.startswith("cleared all of shop, ")) == (0, True)
        data = servers.masters if isinstance(servers, ValkeyCluster) else [await servers.master()]
        left = [name for one in data for name in await tell(one.port, "KEYS", "*:e:*")]
        assert len(left) == 1  # the other cache's


async def test_nobody_there_is_a_sentence() -> None:
    for url in ("redis+cluster://u:secret@127.0.0.1:1,127.0.0.1:2", "redis+sentinel://u:secret@127.0.0.1:1/m"):
        code, out, err = await tenfold("stats", "--redis", url, "--name", "shop")
        assert (code != 0, out) == (True, "")
        assert "no use of the server at 127.0.0.1:1" in err
        assert "secret" not in err
        assert "Traceback" not in err
