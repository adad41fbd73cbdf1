"""What must type-check: `tenfold.testing` as a user's test has it."""

import asyncio
from typing import assert_type

from tenfold.testing import DeadlockError, Direction, FakeClock, FaultProxy, ProxyStats, free_port


async def main() -> str:
    return "done"


with FakeClock(start=1, autojump_threshold="20ms", patience=5) as clock:
    assert_type(clock, FakeClock)
    assert_type(clock.run(main()), str)
    with clock.hold():
        clock.jump("5m")
    try:
        clock.run(clock.advance(5))
    except DeadlockError as error:
        assert_type(error.waiting, tuple[str, ...])


async def faults() -> None:
    async with FaultProxy(upstream="127.0.0.1:5432", seed=1, buffer="64KiB") as proxy:
        assert_type(proxy.port, int)
        assert_type(proxy.url, str)
        assert_type(proxy.stats(), ProxyStats)
        assert_type(proxy.cut(), int)
        way: Direction = "upstream"
        proxy.delay("50ms", jitter=0.01, direction=way)
        proxy.throttle("64kB/s", direction="downstream")
        proxy.corrupt("0.1%", seed=3)
        proxy.cut_after(1000)
        proxy.freeze()
        proxy.thaw()
        proxy.refuse()
        proxy.accept()
        proxy.heal()
        proxy.upstream = f"127.0.0.1:{free_port()}"


asyncio.run(faults())
