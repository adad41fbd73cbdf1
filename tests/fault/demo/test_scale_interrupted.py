"""The scale act that is cancelled, as SIGINT does it, at each of its stages: no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from blackfriday.acts.scale import climb
from blackfriday.processes import NotReady
from blackfriday.served import Served
from blackfriday.view import Bar, View
from tenfold.load import load_scenario

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
JOURNEY = """
from tenfold.load import journey, target

target("http://127.0.0.1:8000")

@journey(weight=1)
async def page(user):
    await user.get("/")
"""


class Noticing(View):
    """Sets an event when the ramp is under way."""

    def __init__(self) -> None:
        self.under_way = asyncio.Event()

    def bar(self, label: str) -> object:  # type: ignore[override]
        return self

    def __enter__(self) -> Bar:
        noticed = self.under_way

        class Set(Bar):
            def update(self, share: float | None, note: str = "") -> None:
                if share and "workers" in note:
                    noticed.set()

        return Set()

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> Served:
    """A small app under ``tenfold serve``, not yet started; every process of it is marked."""
    (tmp_path / "small_app.py").write_text(APP)
    (tmp_path / "journey.py").write_text(JOURNEY)
    return Served("small_app:app", marked[0], most=2, cpu=0.4, app_dir=str(tmp_path))


async def test_cancelled_in_the_ramp(
    served: Served, tmp_path: Path, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    living, view = marked[1], Noticing()
    scenario = load_scenario(tmp_path / "journey.py", target=served.url)
    act = asyncio.create_task(climb(served, scenario, 0.01, 60.0, view, 1, warmup=0.2))
    async with asyncio.timeout(60):
        noticed = asyncio.create_task(view.under_way.wait())
        await asyncio.wait({act, noticed}, return_when=asyncio.FIRST_COMPLETED)
        assert not act.done()
        assert len(living()) >= 2, "the mark must be seen, or the test proves nothing"
        act.cancel()
        with pytest.raises(asyncio.CancelledError):
            await act
    assert living() == []
    assert served.code == 0


async def test_a_serve_that_dies_in_the_ramp_ends_the_act_and_is_told(
    served: Served, tmp_path: Path, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    view = Noticing()
    scenario = load_scenario(tmp_path / "journey.py", target=served.url)
    act = asyncio.create_task(climb(served, scenario, 0.01, 600.0, view, 1, warmup=0.2))
    async with asyncio.timeout(60):
        noticed = asyncio.create_task(view.under_way.wait())
        await asyncio.wait({act, noticed}, return_when=asyncio.FIRST_COMPLETED)
        assert not act.done()
        os.kill(served.pid, signal.SIGKILL)
        with pytest.raises(NotReady, match="cannot be read"):
            await act
    assert marked[1]() == []
    assert served.code == -signal.SIGKILL


async def test_cancelled_while_it_starts(
    served: Served, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    living = marked[1]
    start = asyncio.create_task(served.__aenter__())
    async with asyncio.timeout(60):
        while len(living()) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert living() == []


async def test_an_app_that_is_not_there_is_told_with_the_last_words(
    marked: tuple[dict[str, str], Callable[[], list[str]]], tmp_path: Path
) -> None:
    served = Served("nowhere_at_all:app", marked[0], most=2, cpu=0.4, app_dir=str(tmp_path))
    with pytest.raises(NotReady, match="nowhere_at_all"):
        await served.__aenter__()
    assert marked[1]() == []
