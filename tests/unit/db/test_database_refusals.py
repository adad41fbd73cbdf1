"""What a cluster and the everyday tools refuse, and what bad input must not break; no server is needed for it."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import pytest
from sqlalchemy import Column, Enum, Integer, MetaData, Table, select
from sqlalchemy.ext.asyncio import create_async_engine

from tenfold._core.errors import MisuseError
from tenfold.db.cursors import CursorError, Place, Signer
from tenfold.db.dataloader import Loader
from tenfold.db.hot_rows import HotRows, hot_rows_table
from tenfold.db.keyset import Keyset
from tenfold.db.pool_policy import driver_arguments
from tenfold.db.tags import QueryTags, comment
from tenfold.db.urls import asyncpg_url

SECRET = b"0123456789abcdef"
THINGS = Table("things", MetaData(), Column("id", Integer, primary_key=True))


@pytest.mark.parametrize("host", ["db:http", "db:", "half:of-a-secret@db"])
def test_a_port_that_is_no_number_is_told_by_its_argument(host: str) -> None:
    with pytest.raises(MisuseError, match=r"replicas\[1\]: expected a URL such as .* port is no number") as caught:
        asyncpg_url(f"postgresql://shop:secret@{host}/shop", "replicas[1]")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__  # the driver's error tells what it took for the port


@pytest.mark.parametrize("url", ["postgresql://a,b/shop", "postgresql:///shop?host=a:5432,b:5432"])
def test_each_server_has_a_url_of_its_own(url: str) -> None:
    with pytest.raises(MisuseError, match="primary: expected one host, got several"):
        asyncpg_url(url, "primary")


@pytest.mark.parametrize("query", ["host=db:6000", "host=db&port=6000"])
def test_the_watch_asks_where_the_engines_go(query: str) -> None:
    found = driver_arguments(asyncpg_url(f"postgresql://shop@/shop?{query}&prepared_statement_cache_size=0", "primary"))
    assert found == {"host": "db", "port": 6000, "user": "shop", "database": "shop"}


def test_half_a_surrogate_pair_in_a_tag_fails_no_query() -> None:
    assert comment([("route", "/a\udc80*/")]) == "/*route='%2Fa%3F%2A%2F'*/"


@pytest.mark.parametrize("option", ["in_text", "in_name"])
def test_one_text_is_no_list_of_names(option: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:9/nothing")
    with pytest.raises(MisuseError, match=f"{option}= expected a list of names"):
        QueryTags(engine, **{option: "route"})


def test_fetch_is_a_limit_too() -> None:
    with pytest.raises(MisuseError, match="the statement has FETCH of its own"):
        Keyset(select(THINGS).fetch(3), [], secret=SECRET)


def test_a_cursor_that_names_an_enum_s_former_member_is_a_client_s_mistake() -> None:
    signer = Signer(SECRET)
    cursor = signer.sign(Place("after", (enum.Enum("Colour", ["RED", "BLUE"]).BLUE,)), "query")
    with pytest.raises(CursorError, match="no member 'BLUE' any more") as caught:
        signer.read(cursor, "query", [Enum(enum.Enum("Colour", ["RED"]))])
    assert caught.value.reason == "foreign"


def test_a_wait_for_longer_than_the_server_can_count() -> None:
    stock = HotRows(hot_rows_table("stock", MetaData()), wait="60d")
    assert stock.wait * 1000 <= 2**31 - 1


async def test_a_load_that_asks_its_own_loader_would_wait_for_itself() -> None:
    parents = {"leaf": "branch", "branch": "root", "root": ""}

    async def depth(keys: list[str]) -> dict[str, Any]:
        found = {}
        for key in keys:
            found[key] = 1 + (await tree(parents[key]) if parents[key] else 0)
        return found

    async with asyncio.timeout(10), Loader(depth) as tree:
        with pytest.raises(MisuseError, match="its own load asked it for 'branch' and would wait for itself"):
            await tree("leaf")
        assert await tree("root") == 1
        assert await tree("branch") == 2  # what is there is no wait


async def test_what_a_load_has_begun_may_ask_the_same_loader_when_that_load_is_over() -> None:
    over = asyncio.Event()
    later: list[asyncio.Task[int]] = []

    async def ask() -> int:
        await over.wait()
        return await loader(2)

    async def load(keys: list[int]) -> dict[int, int]:
        if not later:
            later.append(asyncio.create_task(ask()))
        return {key: key for key in keys}

    async with asyncio.timeout(10), Loader(load) as loader:
        assert await loader(1) == 1
        over.set()
        assert await later[0] == 2


async def test_a_scope_that_is_left_at_any_moment_leaves_no_waiter_behind() -> None:
    """Also between the decision to load and the first step of the task that does."""

    async def load(keys: list[int]) -> dict[int, int]:
        await asyncio.sleep(60)
        return {}

    for turns in range(1, 8):
        async with Loader(load) as loader:
            waiter = asyncio.create_task(loader(1))
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.wait([waiter], timeout=10)
        assert waiter.cancelled(), turns
