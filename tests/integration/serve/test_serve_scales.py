"""More workers under pressure, fewer without a lost request."""

import asyncio
from contextlib import asynccontextmanager

from tenfold._core.events import Hub
from tenfold.autoscale.supervisor import Fleet, FleetOptions
from tenfold.gateway.processes import Sockets
from tenfold.serve import ServeOptions, WarmingFailed
from tenfold.serve.front import Front


async def test_pressure_brings_workers(shop):
    arguments = ("--workers", "1..3", "--target-inflight", "4", "--period", "200ms", "--max-inflight", "5")
    async with shop.serving(*arguments) as run:
        async with shop.load(run, "/slow/0.1", clients=24) as load:
            await run.until(r"1 -> \d workers: in_flight: .* × the target")
            await run.until("worker 3 serves")
            await load.more(50)
            assert await run.metric('tenfold_serve_workers_wished{app="shop"}') == 3
            assert await run.metric('tenfold_serve_workers{app="shop",state="ready"}') == 3
            assert await run.metric('tenfold_serve_decisions_total{app="shop",direction="out"}') >= 1
            in_flight = await run.metric('tenfold_in_flight{app="shop"}')
            assert 12 < in_flight <= 24  # what waits at the front is in flight: the workers hold 15
        assert set(load.seen) == {200}
        assert len({body for body in load.bodies if load.bodies[body] > 5}) == 3


@asynccontextmanager
async def fronted(shop, count, *, hub, **given):
    """A fleet and its front in this loop."""
    options = ServeOptions(app="shop:app", app_dir=str(shop.directory), listen="127.0.0.1:0", server="uvicorn", **given)
    sockets = Sockets((options.listen,), 1, admin=options.admin)
    front = Front(options, sockets, "a-token-for-the-tests", hub=hub)
    fleet = Fleet(FleetOptions(app=options.app, app_dir=options.app_dir, server="uvicorn"), front, hub=hub)
    try:
        await fleet.start(count)
        async with front:
            yield fleet, front
    finally:
        await fleet.aclose()
        sockets.close()


async def test_a_worker_that_leaves_loses_nothing(shop):
    async with fronted(shop, 2, hub=Hub()) as (fleet, front):
        where = front.address.host, front.address.port
        run = type("Run", (), {"address": where})
        slow = [asyncio.create_task(shop.ask(where, "/slow/1")) for _ in range(4)]
        async with shop.load(run, "/slow/0.02", clients=24) as load:
            await load.more(10)
            await fleet.scale(1)
            await shop.eventually(lambda: len(fleet.members) == 1)
            await load.more(10)
        assert set(load.seen) == {200}
        assert [status for status, _, _ in await asyncio.gather(*slow)] == [200] * 4
        assert fleet.crashes == 0


async def test_warming_that_fails_is_told_and_holds_up_nobody(shop):
    hub = Hub()
    told = []
    with hub.subscribe(WarmingFailed, told.append):
        async with fronted(shop, 1, hub=hub, warm=("/warm", "/teapot")) as (_, front):
            assert (await shop.ask((front.address.host, front.address.port)))[0] == 200
    assert [(event.worker, event.path, event.why) for event in told] == [("1", "/teapot", "it answered 418")]
