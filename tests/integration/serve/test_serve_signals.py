"""Signals: a rolling restart, a drain, and an end at once."""

import asyncio
import signal

import pytest

SERVER = ("--server", "uvicorn")


async def test_sighup_replaces_every_worker_and_fails_no_request(shop):
    async with shop.serving("--workers", "2", "--warm", "/warm", *SERVER) as run:
        old = run.workers
        assert len(old) == 2
        async with shop.load(run) as load:
            await load.more(20)
            (shop.directory / "shop.py").write_text(shop.source.replace("VERSION = 1", "VERSION = 2"))
            run.process.send_signal(signal.SIGHUP)
            await run.until("all restarted")
            await run.until(r"worker \d+ has ended", times=2)
            await load.more(20)
        assert set(load.seen) == {200}
        new = run.workers
        assert len(new) == 2
        assert not set(new) & set(old)
        assert {body for body in load.bodies if body.startswith(b"2 ")} == {b"2 %d" % pid for pid in new.values()}
        warmed = {int(line) for line in (shop.directory / "warmed").read_text().split()}
        assert warmed == {*old.values(), *new.values()}


async def test_sigterm_lets_a_slow_request_end(shop):
    async with shop.serving("--workers", "1", *SERVER) as run:
        slow = asyncio.create_task(shop.ask(run.address, "/slow/1.5"))
        await shop.eventually(lambda: run.metric("tenfold_gateway_in_flight"))
        run.process.send_signal(signal.SIGTERM)
        await run.until("draining")
        assert (await slow)[0] == 200
        assert await run.ended() == 0
        assert run.lines[-1] == "tenfold: stopped"


async def test_a_second_sigint_ends_at_once(shop):
    async with shop.serving("--workers", "1", *SERVER) as run:
        endless = asyncio.create_task(shop.ask(run.address, "/slow/600"))
        await shop.eventually(lambda: run.metric("tenfold_gateway_in_flight"))
        run.process.send_signal(signal.SIGINT)
        await run.until("draining")
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 1
        assert "requests were cut" in run.said
        (outcome,) = await asyncio.gather(endless, return_exceptions=True)
        assert isinstance(outcome, OSError | EOFError)


async def test_a_changed_file_restarts(shop):
    async with shop.serving("--workers", "1", "--reload", *SERVER) as run:
        assert (await shop.ask(run.address))[1].startswith(b"1 ")
        (shop.directory / "shop.py").write_text(shop.source.replace("VERSION = 1", "VERSION = 2"))
        await run.until("changed: shop.py; restarting in turn")
        await run.until("all restarted")
        await run.until("worker 1 has ended")
        assert (await shop.ask(run.address))[1].startswith(b"2 ")


async def test_the_admin_api_drains(shop, monkeypatch):
    monkeypatch.setenv("TENFOLD_ADMIN_TOKEN", "a-token-for-the-tests")
    async with shop.serving("--workers", "1", *SERVER) as run:
        assert "Bearer" not in run.said
        status, body, _ = await shop.ask(run.admin, "/v1/pools/app/endpoints", token="a-token-for-the-tests")
        assert (status, b'"id":"1"' in body.replace(b" ", b"")) == (200, True)
        assert (await shop.ask(run.admin, "/v1/drain", "POST", token="wrong"))[0] == 401
        assert (await shop.ask(run.admin, "/v1/drain", "POST", token="a-token-for-the-tests"))[0] == 202
        assert await run.ended() == 0


@pytest.mark.slow
async def test_code_that_is_broken_leaves_the_old_workers(shop):
    async with shop.serving("--workers", "2", *SERVER) as run:
        old = run.workers
        (shop.directory / "shop.py").write_text("raise RuntimeError('half written')")
        async with shop.load(run) as load:
            run.process.send_signal(signal.SIGHUP)
            await run.until("rolling restart failed, the old workers go on: .*RuntimeError: half written")
            await load.more(20)
            assert {body.split()[1] for body in load.bodies} == {b"%d" % pid for pid in old.values()}
            (shop.directory / "shop.py").write_text(shop.source.replace("VERSION = 1", "VERSION = 2"))
            run.process.send_signal(signal.SIGHUP)
            await run.until("all restarted")
        assert set(load.seen) == {200}
        assert (await shop.ask(run.address))[1].startswith(b"2 ")
