"""Workers that die while they are asked."""

import os
import signal


async def test_a_killed_worker_costs_no_get(shop):
    async with shop.serving("--workers", "2") as run:
        async with shop.load(run, "/slow/0.02", clients=16) as load:
            await load.more(50)
            id, pid = min(run.workers.items())
            os.kill(pid, signal.SIGKILL)
            await run.until(rf"worker {id} \(process {pid}\) has died \(signal SIGKILL\)")
            await run.until(r"worker 3 serves")
            await load.more(50)
        assert set(load.seen) == {200}
        assert await run.metric('tenfold_serve_crashes_total{app="shop"}') == 1


async def test_a_killed_worker_costs_no_get_where_the_others_are_full(shop):
    """What was under way waits for a place at those that are left."""
    async with shop.serving("--workers", "2", "--max-inflight", "4") as run:
        async with shop.load(run, "/slow/0.05", clients=16) as load:
            await load.more(50)
            os.kill(min(run.workers.items())[1], signal.SIGKILL)
            await run.until(r"worker 3 serves")
            await load.more(50)
        assert set(load.seen) == {200}


async def test_a_crash_is_told_with_the_last_words(shop):
    async with shop.serving("--workers", "2") as run:
        status, _, _ = await shop.ask(run.address, "/die", "POST")
        assert status == 502
        await run.until(r"has died \(signal SIGKILL\); .* it last said: the last words of a worker")
        await run.until("worker 3 serves")


async def test_while_no_worker_is_there_requests_wait_for_the_next(shop):
    async with shop.serving("--workers", "1") as run:
        os.kill(run.workers["1"], signal.SIGKILL)
        await run.until(r"worker 1 .* has died \(signal SIGKILL\)")
        for answer in [await shop.ask(run.address), await shop.ask(run.address, "/", "POST")]:
            assert answer[0] == 200
        await run.until("worker 2 serves")
