"""What cannot be served: one sentence, exit code 2, and nothing left behind."""

import asyncio
import socket


async def _refused(shop, app, says):
    async with shop.serving("--workers", "1", app=app, up=False) as run:
        assert await run.ended() == 2
        last = (await run.until(rf"(?m)^tenfold: {app}: no worker got ready \(exit code 1\): .*$"))[0]
        assert says in last
        assert "metrics on" not in run.said


async def test_an_app_that_cannot_be_loaded(shop):
    (shop.directory / "broken.py").write_text("raise RuntimeError('no database here')")
    (shop.directory / "empty.py").write_text("")
    await asyncio.gather(
        _refused(shop, "nowhere:app", "No module named 'nowhere'"),
        _refused(shop, "broken:app", "RuntimeError: no database here"),
        _refused(shop, "empty:app", "has no attribute 'app'"),
    )


async def test_a_port_that_is_taken(shop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        async with shop.serving("--listen", where, up=False) as run:
            assert await run.ended() == 2
            await run.until("tenfold: .*" + where)
            assert "serves" not in run.said
            assert "Traceback" not in run.said


async def test_options_that_make_no_sense(shop):
    async with shop.serving("--workers", "8..2", up=False) as run:
        assert await run.ended() == 2
        await run.until(r"tenfold: workers: expected .*, got '8\.\.2'")
        assert "Traceback" not in run.said
