"""The scale act on real servers, with a ramp of seconds: the shop gives itself a second worker and loses nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blackfriday.acts.edge import Meter
from blackfriday.acts.scale import climb
from blackfriday.processes import NotReady
from blackfriday.served import Served
from blackfriday.view import View
from tenfold.load import Poisson, load_scenario, run

pytestmark = pytest.mark.asyncio(loop_scope="session")
READER = """
from tenfold.load import check, feed, journey, step, target

target("http://127.0.0.1:8000")
number = feed.cycle(range(1, 900))

@journey(weight=9)
async def product(user):
    wanted = number()
    with step("product"):
        check((await user.get(f"/products/{wanted}")).json()["id"] == wanted, "the product")

@journey(weight=1)
async def search(user):
    with step("search"):
        await user.get("/search?q=oak")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processor time of a worker is read from /proc")
async def test_the_shop_gives_itself_a_second_worker_in_a_ramp_and_loses_nothing(world: Any, tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(READER)
    settings = replace(world.shops["edge"].settings, rung="replicas")
    served = Served("blackfriday.asgi:app", settings.to_environment(), most=2, cpu=0.3)
    scenario = load_scenario(tmp_path / "reader.py", target=served.url)
    shop = world.shops["replicas"]
    alone = load_scenario(tmp_path / "reader.py", target=shop.url)
    await run(alone, Poisson(400, 2.0), seed=3)
    async with Meter(shop) as meter:
        before = await run(alone, Poisson(400, 2.0), seed=2)
    cost = meter.told(before.totals.attempts, 0.0).workers
    found, result = await climb(served, scenario, cost, 10.0, View(), 1)
    assert found.grew, found.looks
    assert found.ups[0].workers == 2
    assert found.ups[0].ready is not None
    assert found.errors == 0, result.totals.errors
    assert found.code == 0, served.words
    assert found.requests == result.planned
    assert sum(each.intended for each in result.intervals) == result.planned
    with pytest.raises(NotReady, match="cannot be read"):
        await served.look()
