"""A thousand clients that send their heads a byte at a time, or not to the end, and others that work meanwhile."""

import asyncio
import resource

import pytest

SLOW = 1000


@pytest.fixture(autouse=True)
def descriptors():
    """Enough for both ends of the connections, which are all in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * SLOW + 500
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"needs {wanted} open files, and {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_slow_heads_are_cut_at_their_time_out_and_the_others_are_served(wire):
    async with wire.Backend() as backend:
        gateway = 'header_timeout = "1s"'
        async with wire.running(wire.toml(backend.url, gateway=gateway)) as run:
            port = run.gateway.addresses[0].port
            loop = asyncio.get_running_loop()
            got = []

            class Slow(asyncio.Protocol):
                """Sends another byte now and then, for ever."""

                def connection_made(self, transport):
                    self.transport, self.taken = transport, b""
                    transport.write(b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Slow: ")
                    self.timer = loop.call_later(0.25, self.more)

                def more(self):
                    self.transport.write(b"x")
                    self.timer = loop.call_later(0.25, self.more)

                def data_received(self, data):
                    self.taken += data

                def eof_received(self):
                    return False

                def connection_lost(self, exc):
                    self.timer.cancel()
                    got.append(self.taken)

            async def worker(number):
                peer = await run.connect()
                served = 0
                while len(got) < SLOW or served < 20:
                    served += (await peer.ask(wire.get(f"/{number}"))).status == 200
                peer.abort()
                return served

            workers = [asyncio.create_task(worker(number)) for number in range(4)]
            for start in range(0, SLOW, 100):
                await asyncio.gather(*(loop.create_connection(Slow, "127.0.0.1", port) for _ in range(100)))
                assert start < SLOW
            served = await asyncio.wait_for(asyncio.gather(*workers), 30)
            assert len(got) == SLOW
            assert all(taken.startswith(b"HTTP/1.1 408 ") and b"gateway.header_timeout" in taken for taken in got)
            assert min(served) >= 20
            assert sum(served) == run.counters["answered_2xx"] == len(backend.seen)
            assert (run.counters["late"], run.counters["refused"]) == (SLOW, SLOW)
            await run.at_rest()
            await run.until(lambda: run.gateway.state()["clients"] == 0)
