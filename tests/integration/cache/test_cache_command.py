"""``tenfold cache`` on a real Valkey: what it tells, what it clears, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.cache.remote import prefix_of


async def tenfold(*words: str, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tenfold",
        "cache",
        *words,
        env={**os.environ, **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


class Shop:
    def __init__(self, url: str, name: str = "shop") -> None:
        self.cache = cache = Cache(name, redis=url, timeout="2s")

        @cache("1m", tags=["product:{number}", "catalog"], name="product")
        async def product(number: int) -> str:
            return f"product {number}"

        @cache("1h", name="page")
        async def page(text: str) -> str:
            return text

        self.product, self.page = product, page


async def command(url: str, *words: str | int) -> Any:
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    try:
        return await client.execute_command(*words)
    finally:
        await client.aclose()


async def test_stats_counts_by_function_within_the_prefix(valkey: Any) -> None:
    shop, other = Shop(valkey.url), Shop(valkey.url, "shop2")
    async with shop.cache, other.cache:
        for number in range(20):
            await shop.product(number)
        await shop.page("x" * 5000)
        await other.product(1)
    await command(valkey.url, "SET", "tenfold:1:sho", "somebody else's")
    code, out, _ = await tenfold("stats", "--redis", valkey.url, "--name", "shop", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["values"], found["leases"], found["tags"], found["other"]) == (21, 0, 22, 0)
    assert found["functions"]["product"]["values"] == 20
    assert 5000 < found["functions"]["page"]["bytes"] < 5200
    assert found["functions"]["product"]["last"] <= 60 < found["functions"]["page"]["first"] <= 3600
    assert found["complete"] is True
    code, out, _ = await tenfold("stats", "--name", "shop", TENFOLD_VALKEY_URL=valkey.url)
    assert code == 0
    assert out.startswith("cache shop: 21 values in ")
    assert "\n  page      1 " in out
    assert "keys evicted" in out
    code, out, _ = await tenfold("stats", "--redis", valkey.url, "--name", "shop", "--limit", "10", "--json")
    assert (json.loads(out)["keys"], json.loads(out)["complete"]) == (10, False)


async def test_explain_says_whether_a_record_counts(valkey: Any) -> None:
    shop = Shop(valkey.url)
    where = ("--redis", valkey.url, "--name", "shop")
    async with shop.cache:
        await shop.product(7)
        tags = ("--tag", "product:7", "--tag", "catalog")
        code, out, _ = await tenfold("explain", "product(7)", *where, *tags)
        assert (code, out.splitlines()[0]) == (0, "product(7): a hit in level 2")
        assert out.endswith(" left, 2 tags\n")
        code, out, _ = await tenfold("explain", "product(7)", *where)
        assert (code, "unless one of its tags was invalidated" in out) == (0, True)
        await shop.product(8)  # the mark of "catalog" stands in two records, and with two of its fellows
        await shop.cache.invalidate_tags("catalog")
        for words in (tags, ()):
            code, out, _ = await tenfold("explain", "product(7)", *where, *words)
            assert (code, "a miss: invalidated since it was stored" in out) == (1, True)
        code, out, _ = await tenfold("explain", "product(8)", *where, "--tag", "product:8", "--tag", "catalog")
        assert (code, "a miss: invalidated since it was stored" in out) == (1, True)
        await shop.page("a")
        code, out, _ = await tenfold("explain", 'page("a")', *where, "--json")
        assert (code, json.loads(out)["state"]) == (0, "good")
    code, out, _ = await tenfold("explain", "product(9)", *where)
    assert code == 1
    assert "not in level 2" in out
    await command(valkey.url, "SET", prefix_of("shop") + "e:odd", b"\x09 of another version, and long enough")
    code, out, _ = await tenfold("explain", "odd", *where)
    assert code == 1
    assert "a record of another version" in out


async def test_clear_reaches_the_memory_of_running_processes(valkey: Any, until: Any) -> None:
    shop = Shop(valkey.url)
    async with shop.cache:
        await shop.product(7)
        await shop.page("a")
        heard = shop.cache.stats().remote_invalidations
        code, out, _ = await tenfold("clear", "--redis", valkey.url, "--name", "shop", "--tag", "product:7")
        assert (code, out) == (0, "cleared product:7\n")
        await until(lambda: shop.cache.stats().remote_invalidations > heard)
        loads = shop.cache.stats().loads
        await shop.page("a")
        assert shop.cache.stats().loads == loads
        await shop.product(7)
        assert shop.cache.stats().loads == loads + 1


async def test_clear_all_leaves_everything_that_is_not_this_cache(valkey: Any) -> None:
    shop, other = Shop(valkey.url), Shop(valkey.url, "shop.2")
    async with shop.cache, other.cache:
        await shop.product(7)
        await other.product(7)
    mine = {b"tenfold:1:sho", b"tenfold:1:shopping:e:x", b"tenfold:2:shop:e:x", b"orders"}
    for key in mine:
        await command(valkey.url, "SET", key, "mine")
    before = set(await command(valkey.url, "KEYS", "*"))
    code, out, _ = await tenfold("clear", "--redis", valkey.url, "--name", "shop", "--yes", "--delete")
    assert (code, out.partition(",")[0]) == (0, "cleared all of shop")
    after = set(await command(valkey.url, "KEYS", "*"))
    assert {key for key in before - after if not key.startswith(b"tenfold:1:shop:")} == set()
    assert not [key for key in after if key.startswith(b"tenfold:1:shop:")]
    assert mine < after


@pytest.mark.parametrize("name", ["*", "shop*", "a:b", "", "shop?", "[s]hop"])
async def test_a_name_that_would_reach_further_is_refused(name: str) -> None:
    for words in (("stats",), ("clear", "--yes", "--delete")):
        code, out, err = await tenfold(*words, "--redis", "redis://127.0.0.1:1/0", f"--name={name}")
        assert (code, out) == (2, "")
        assert "expected letters, digits" in err or "requires an argument" in err


async def test_all_is_cleared_only_on_demand_and_no_server_is_a_sentence() -> None:
    code, _, err = await tenfold("clear", "--redis", "redis://127.0.0.1:1/0", "--name", "shop")
    assert code == 2
    assert "expected --yes" in err
    code, _, err = await tenfold("clear", "--redis", "redis://127.0.0.1:1/0", "--name", "shop", "--yes")
    assert code == 1
    assert "did not confirm" in err
    code, _, err = await tenfold("stats", "--redis", "redis://u:secret@127.0.0.1:1/0", "--name", "shop")
    assert code == 2
    assert "no use of the server at 127.0.0.1:1/0" in err
    assert "secret" not in err
    assert "Traceback" not in err


APPLICATION = """
import os
from tenfold.cache import Cache

cache = Cache("shop", redis=os.environ["TENFOLD_VALKEY_URL"], timeout="2s")

@cache("1h", name="product")
async def product(number: int) -> str:
    if number < 0:
        raise ValueError("no such product")
    return f"product {number}"

async def plain() -> None: ...

local = Cache("local")

@local("1h")
async def alone(number: int) -> int:
    return number
"""


async def test_warm_loads_what_was_popular(valkey: Any, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    shop = Shop(valkey.url)
    async with shop.cache:
        for number in (1, 2, 3):
            await shop.product(number)
            await shop.product(number)
        await shop.page("a")
        await shop.cache.save_popular(tmp_path / "popular")
        await shop.cache.clear()
    words = ("application:product", "--popular", "popular", "--rate", "1000/s")
    code, out, err = await tenfold("warm", *words, cwd=tmp_path, TENFOLD_VALKEY_URL=valkey.url)
    assert code == 0, err
    assert out.startswith("3 keys of application:product are cached")
    assert "1 of others" in err
    code, out, _ = await tenfold("explain", "product(2)", "--redis", valkey.url, "--name", "shop")
    assert (code, "a hit in level 2" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("application",), "expected module:name"),
        (("nowhere:product",), "there is no module 'nowhere' here"),
        (("application:nothing",), "has no attribute 'nothing'"),
        (("application:alone",), "its cache has no level 2"),
        (("application:plain",), "expected a function that a Cache of its module decorated"),
    ],
)
async def test_what_cannot_be_warmed_is_a_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    code, _, err = await tenfold("warm", *words, cwd=tmp_path, TENFOLD_VALKEY_URL="redis://127.0.0.1:1/0")
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


async def test_the_prefix_is_that_of_the_cache(valkey: Any) -> None:
    async with Cache("shop", redis=valkey.url) as cache:
        level2 = cache.engine().level2
        assert level2 is not None
        assert level2.channel == prefix_of("shop") + "invalidated"
