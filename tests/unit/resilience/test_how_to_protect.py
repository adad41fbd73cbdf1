"""The pages are true: their blocks of Python run, and the application of the how-to does what its tables say."""

import asyncio
import re
import threading
from pathlib import Path

import httpx2
import pytest
from fastapi import BackgroundTasks, FastAPI

from tenfold.resilience.asgi import ResilienceMiddleware
from tenfold.resilience.errors import BreakerOpen
from tenfold.resilience.shed import Shed

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(page):
    found = blocks(page)
    assert len(found) == 1
    names = {"__name__": "example"}
    exec(compile(found[0], page, "exec"), names)
    return names


@pytest.fixture
async def shop():
    names = run("how-to/protect-an-app.md")
    yield names
    await names["stock"].aclose()


@pytest.fixture
async def client(shop):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(shop["app"]), base_url="http://shop.test") as client:
        yield client


async def test_the_application_of_the_how_to_answers_and_degrades(client):
    normal = await client.get("/product/7")
    assert normal.json() == {"number": 7, "recommendations": ["more like this"]}
    assert "tenfold-degradation" not in normal.headers

    assert (await client.post("/incident/2")).json() == {"level": "limited"}
    degraded = await client.get("/product/7")
    assert degraded.json()["recommendations"] == []
    assert degraded.headers["tenfold-degradation"] == "2"


async def test_it_refuses_as_its_table_says(client, shop):
    late = await client.get("/product/7", headers={"Tenfold-Timeout-Ms": "0"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline-too-short")

    shop["shedder"].reconfigure(Shed(50, queue=100, max_wait="1m", interval="1m"))  # however slow this machine is
    held = [shop["shedder"].ask() for _ in range(50)]
    waiting = [asyncio.ensure_future(client.get("/product/1")) for _ in range(100)]
    while shop["shedder"].state()["waiting"] < 100:  # noqa: ASYNC110 - it is a counter that changes
        await asyncio.sleep(0)
    refused = await client.get("/product/7", headers={"Tenfold-Priority": "batch"})
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["shedder"]["running"] == 50

    for place in held:
        shop["shedder"].leave(place)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_the_code_of_the_concept_runs():
    names = run("concepts/degradation.md")

    async def render(extras):
        return extras

    async def recommend():
        return ["more"]

    async def export():
        done.append(names["shedder"].state()["admitted"]["batch"])

    done = []
    assert await names["page"](render, recommend) == ["more"]
    names["degradation"].pin(2, 60, who="test", why="test")
    assert await names["page"](render, recommend) == []
    await names["nightly"](export)
    assert done == [1]


async def test_what_it_says_of_threads_background_tasks_and_errors_is_true_of_fastapi():
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, default_timeout="100ms", shedder=Shed(10))
    release, done = threading.Event(), asyncio.Event()

    @app.get("/thread")
    def thread():
        release.wait(10)

    @app.get("/background")
    async def background(tasks: BackgroundTasks):
        async def later():
            await asyncio.sleep(0.3)  # beyond the deadline, which is what this is about
            done.set()

        tasks.add_task(later)
        return {}

    @app.get("/refused")
    async def refused():
        raise BreakerOpen("the payment service is failing", retry_after=3)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop.test") as client:
        try:
            assert (await client.get("/thread")).status_code == 504
            assert not release.is_set()
        finally:
            release.set()
        assert (await client.get("/background")).status_code == 200
        async with asyncio.timeout(10):
            await done.wait()
        answer = await client.get("/refused")
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["code"]) == (503, "3", "breaker-open")
