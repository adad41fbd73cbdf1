"""A hedge over real connections: the frozen one is given up, closed, and the answer comes over the other."""

import asyncio
import contextlib

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.hedge import Hedge, Hedger
from tenfold.testing import FaultProxy


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_frozen_connection_loses_and_is_closed(loop):
    factory = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def main():
        complaints, closed = [], asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

        async def serve(reader, writer):
            with contextlib.suppress(ConnectionError):  # the proxy ends with resets
                while data := await reader.read(100):
                    writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        direct = server.sockets[0].getsockname()[:2]
        async with server, FaultProxy(upstream=f"127.0.0.1:{direct[1]}") as proxy, asyncio.timeout(30):
            proxy.freeze()
            addresses = iter([(proxy.host, proxy.port), direct])

            async def ask():
                reader, writer = await asyncio.open_connection(*next(addresses))
                try:
                    writer.write(b"ping")
                    return await reader.readexactly(4)
                finally:
                    writer.close()
                    if writer.get_extra_info("peername")[1] == proxy.port:
                        closed.set()

            hedger = Hedger(Hedge("50ms"), policy="p", hub=Hub())
            assert await hedger.run(ask) == b"ping"
            assert closed.is_set()  # before the answer was returned
            assert (hedger.hedges, hedger.won, hedger.stuck) == (1, 1, 0)
            assert {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("p/")} == set()
        assert complaints == []

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
