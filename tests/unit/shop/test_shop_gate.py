"""The gateway before the shop: its file, the words that pages carry, and the processor time that is read."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import httpx2
import pytest

from blackfriday.counters import Counters
from blackfriday.gate import TOKEN, configuration
from blackfriday.processes import cpu_seconds
from blackfriday.settings import Settings
from blackfriday.tuned.edge import Edge
from tenfold.gateway import read_config
from tenfold.gateway.config import Router


@pytest.mark.parametrize(
    ("method", "path", "kept"),
    [
        ("GET", "/products", True),
        ("GET", "/products/7", True),
        ("HEAD", "/products/7", True),
        ("GET", "/categories/3/products", True),
        ("GET", "/search", True),
        ("GET", "/cart", False),
        ("POST", "/cart/items", False),
        ("POST", "/checkout", False),
        ("GET", "/orders/1", False),
        ("POST", "/products/7", False),
        ("GET", "/internal/stats", False),
        ("GET", "/productsx", False),
    ],
)
def test_public_pages_have_the_edge_and_nothing_else(method: str, path: str, kept: bool) -> None:
    config = read_config(configuration(8000, 8001, 9000), environ={TOKEN: "x" * 32})
    route = Router(config.routes).match(method, "shop.example", path, {})
    assert route is not None
    assert (route.edge is not None) is kept


def test_a_page_says_by_which_words_it_is_purged() -> None:
    assert Edge.product(7)["Surrogate-Key"] == "product:7"
    assert Edge.shelf([3, 1])["Surrogate-Key"] == "shown:3 shown:1"
    assert "Surrogate-Key" not in Edge.shelf([])
    assert Edge.shelf([])["Cache-Control"] == Edge.product(7)["Cache-Control"] == "public, max-age=0, s-maxage=30"


async def test_purges_are_asked_for_and_what_is_not_confirmed_is_counted() -> None:
    asked: list[Any] = []
    status = 200

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer a-token"
        asked.append((request.method, request.url.path, request.content))
        return httpx2.Response(status)

    counters = Counters()
    edge = Edge("http://gate", "a-token", counters)
    assert edge._client is not None
    headers = edge._client.headers
    await edge._client.aclose()
    edge._client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://gate", headers=headers)
    try:
        await edge.sold([1, 2], [2])
        assert asked == [("POST", "/v1/purge", b'{"tags":["product:1","product:2","shown:2"]}')]
        assert counters.own("purge_failures") == 0
        status = 503
        await edge.clear()
        assert asked[1] == ("POST", "/v1/purge", b'{"all":true}')
        assert counters.own("purge_failures") == 1
    finally:
        await edge.aclose()
        counters.close()


async def test_without_a_gateway_nothing_is_purged() -> None:
    counters = Counters()
    edge = Edge("", "", counters)
    await edge.sold([1], [1])
    await edge.edited(1)
    await edge.aclose()
    assert counters.own("purge_failures") == 0
    counters.close()


def test_the_edge_is_the_last_rung() -> None:
    told = Settings(variant="tuned", rung="edge", database="postgresql://x/y", edge="http://e", edge_token="t")
    assert told.includes("replicas")
    assert told.includes("edge")
    assert Settings.from_environment(told.to_environment()) == told
    assert not Settings(variant="tuned", rung="replicas", database="postgresql://x/y").includes("edge")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
async def test_the_processor_time_of_a_group_is_what_its_processes_used() -> None:
    busy = (
        "import time; print(1, flush=True)\nwhile time.process_time() < 0.2: pass\nprint(2, flush=True); time.sleep(60)"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", busy, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert child.stdout is not None
        await child.stdout.readline()
        async with asyncio.timeout(20):
            await child.stdout.readline()
        assert 0.15 <= cpu_seconds(child.pid) < 0.5
    finally:
        child.kill()
        await child.wait()
    assert cpu_seconds(child.pid) == 0.0
