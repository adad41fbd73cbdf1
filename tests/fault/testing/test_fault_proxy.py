import asyncio
import contextlib
import gc
import os
import socket
import warnings

import pytest

from tenfold._core.errors import MisuseError
from tenfold.testing import FakeClock, FaultProxy, free_port

DEADLINE = 20


class Server:
    """A real TCP server: greets with its name if it has one, then echoes.

    An end of stream is answered with one.
    """

    def __init__(self, greeting=b""):
        self.greeting = greeting
        self.ended = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *error):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        try:
            writer.write(self.greeting)
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        finally:
            self.ended.set()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def client(proxy):
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def ask(reader, writer, data):
    writer.write(data)
    await writer.drain()
    return await reader.readexactly(len(data))


async def until(condition):
    """Let the loop turn until ``condition`` holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - counters have no event to wait for
            await asyncio.sleep(0)


async def expect_reset(proxy):
    """A connection that is accepted by the kernel and then reset, which may already show while it is being
    made.
    """
    with pytest.raises(ConnectionResetError):
        async with client(proxy) as (reader, _):
            await reader.read(1)


async def seconds(work):
    begin = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - begin


@pytest.fixture
async def server():
    async with Server() as server:
        yield server


@pytest.fixture
async def proxy(server):
    async with FaultProxy(upstream=server.address, seed=7) as proxy:
        yield proxy


# Nothing wrong


async def test_a_megabyte_goes_through_unharmed_and_is_counted(proxy):
    data = os.urandom(1_000_000)
    async with client(proxy) as (reader, writer):
        sending = asyncio.create_task(ask(reader, writer, data))
        assert await sending == data
        stats = proxy.stats()
    assert (stats.connections, stats.active, stats.rejected, stats.unreachable) == (1, 1, 0, 0)
    assert (stats.bytes_upstream, stats.bytes_downstream) == (1_000_000, 1_000_000)


async def test_a_half_close_is_passed_on_and_the_other_half_still_works():
    async def count(reader, writer):
        data = await reader.read()  # until the client's end of stream
        writer.write(str(len(data)).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    upstream = await asyncio.start_server(count, "127.0.0.1", 0)
    async with upstream, FaultProxy("{}:{}".format(*upstream.sockets[0].getsockname())) as proxy:
        async with client(proxy) as (reader, writer):
            writer.write(b"x" * 12345)
            writer.write_eof()
            assert await reader.read() == b"12345"
        await until(lambda: proxy.stats().active == 0)


async def test_a_receiver_that_does_not_read_stops_the_sender(server):
    async with FaultProxy(server.address, buffer="64KiB") as proxy:
        proxy.freeze()
        async with client(proxy) as (_, writer):
            writer.transport.set_write_buffer_limits(high=0)
            writer.write(b"x" * 50_000_000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await writer.drain()
            # What is missing from the client's own buffer is in the kernel's and the proxy's, which are
            # bounded.
            assert writer.transport.get_write_buffer_size() > 30_000_000
            writer.transport.abort()


# Slow


async def test_delay_adds_latency_and_leaves_throughput(proxy):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"warm")
        proxy.delay("400ms", direction="upstream")
        assert await seconds(ask(reader, writer, b"one")) >= 0.4
        # The buffer takes 16 pieces at a time, so 100 of them pay 7 delays and not 100.
        assert await seconds(ask(reader, writer, b"x" * 100 * 16384)) < 10
        proxy.heal()
        assert min([await seconds(ask(reader, writer, b"two")) for _ in range(3)]) < 0.4  # one may meet a busy machine


async def test_healing_lets_go_what_a_long_delay_still_holds(proxy):
    proxy.delay("1h")
    async with client(proxy) as (reader, writer):
        answer = asyncio.create_task(ask(reader, writer, b"held"))
        done, _ = await asyncio.wait([answer], timeout=0.1)
        assert not done
        proxy.heal()
        assert await answer == b"held"


async def test_jitter_never_lets_pieces_overtake_each_other(proxy):
    proxy.delay("5ms", jitter="5ms")
    async with client(proxy) as (reader, writer):
        sent = b"".join(b"%06d" % n for n in range(200))
        for start in range(0, len(sent), 6):
            writer.write(sent[start : start + 6])
            await asyncio.sleep(0)
        assert await reader.readexactly(len(sent)) == sent


async def test_throttle_holds_the_stream_to_its_rate(proxy):
    proxy.throttle("200kB/s", direction="downstream")
    async with client(proxy) as (reader, writer):
        took = await seconds(ask(reader, writer, b"x" * 100_000))
    assert 0.45 <= took < 2


async def test_throttle_can_be_lifted_while_a_stream_crawls(proxy):
    proxy.throttle(10)
    async with client(proxy) as (reader, writer):
        answer = asyncio.create_task(ask(reader, writer, b"x" * 100_000))
        done, _ = await asyncio.wait([answer], timeout=0.2)
        assert not done
        proxy.heal()
        assert await seconds(answer) < 2


async def test_faults_keep_to_their_direction(proxy):
    async with client(proxy) as (reader, writer):
        proxy.freeze(direction="downstream")
        writer.write(b"abc")
        await until(lambda: proxy.stats().bytes_upstream == 3)
        assert proxy.stats().bytes_downstream == 0
        proxy.thaw(direction="downstream")
        assert await reader.readexactly(3) == b"abc"


# Silent


async def test_freeze_stops_the_bytes_and_keeps_the_connections(proxy):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        proxy.freeze()
        async with client(proxy) as (late_reader, late_writer):  # new ones are accepted, and silent too
            answers = [
                asyncio.create_task(ask(reader, writer, b"during")),
                asyncio.create_task(ask(late_reader, late_writer, b"late")),
            ]
            done, _ = await asyncio.wait(answers, timeout=0.2)
            assert not done
            proxy.thaw()
            assert await asyncio.gather(*answers) == [b"during", b"late"]


async def test_a_frozen_end_of_stream_stays_unsaid_until_the_thaw(proxy, server):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        proxy.freeze()
        writer.write_eof()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await server.ended.wait()
        proxy.thaw()
        assert await reader.read() == b""
        assert server.ended.is_set()


# Broken


async def test_cut_resets_both_sides(proxy, server):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await server.ended.wait()
    async with client(proxy) as (reader, writer):
        assert await ask(reader, writer, b"again") == b"again"


@pytest.mark.parametrize("fault", ["freeze", "delay"])
async def test_cut_goes_through_a_frozen_or_slow_connection(proxy, fault):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        proxy.freeze() if fault == "freeze" else proxy.delay("1h")
        writer.write(b"stuck")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


async def test_close_connections_ends_the_stream_in_order(proxy, server):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        writer.write(b"unread" * 1000)  # bytes nobody has read must not turn FIN into RST
        assert proxy.close_connections() == 1
        await reader.read()  # until the end of stream; a reset would raise
        await server.ended.wait()


@pytest.mark.parametrize("count", [1, 1000, 100_001])
async def test_cut_after_lets_exactly_that_much_pass(proxy, count):
    async with client(proxy) as (reader, writer):
        await ask(reader, writer, b"before")
        proxy.cut_after(count, direction="downstream")
        writer.write(b"x" * 200_000)
        got = bytearray()

        async def read():
            while True:
                got.extend(await reader.read(65536))

        with pytest.raises(ConnectionResetError):
            await read()
        assert len(got) <= count
        assert proxy.stats().bytes_downstream == len(b"before") + count


async def test_cut_after_holds_for_connections_to_come_until_healed(proxy):
    proxy.cut_after(3, direction="upstream")
    async with client(proxy) as (reader, writer):
        writer.write(b"abcdef")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(6)
    proxy.heal()
    async with client(proxy) as (reader, writer):
        assert await ask(reader, writer, b"abcdef") == b"abcdef"


async def test_a_reset_by_the_upstream_reaches_the_client():
    async def slam(reader, writer):
        await reader.read(1)
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    upstream = await asyncio.start_server(slam, "127.0.0.1", 0)
    address = "{}:{}".format(*upstream.sockets[0].getsockname())
    async with upstream, FaultProxy(address) as proxy, client(proxy) as (reader, writer):
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


# Damaged


async def damage(server, seed, pieces):
    """Places at which 100 kB sent in that many pieces come back damaged."""
    data = bytes(100_000)
    async with FaultProxy(server.address, seed=seed) as proxy:
        proxy.corrupt("0.1%", direction="upstream")
        async with client(proxy) as (reader, writer):
            step = len(data) // pieces
            back = b""
            for start in range(0, len(data), step):
                back += await ask(reader, writer, data[start : start + step])
    return [place for place, byte in enumerate(back) if byte]


async def test_corruption_hits_at_its_rate_and_the_same_places_for_the_same_seed(server):
    places = await damage(server, 1, pieces=1)
    assert 50 <= len(places) <= 160  # 100 expected, 5 sigma
    assert await damage(server, 1, pieces=10) == places
    assert await damage(server, 2, pieces=1) != places


async def test_everything_can_be_corrupted_and_healed(proxy):
    async with client(proxy) as (reader, writer):
        proxy.corrupt(1, direction="downstream")
        assert all(await ask(reader, writer, bytes(500)))
        proxy.heal()
        assert await ask(reader, writer, bytes(500)) == bytes(500)


# Refused and redirected


async def test_refuse_turns_new_connections_away_and_spares_open_ones(proxy):
    port = proxy.port
    async with client(proxy) as (reader, writer):
        for _ in range(3):
            await ask(reader, writer, b"open")
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(proxy.host, port)
            assert await ask(reader, writer, b"still open") == b"still open"
            with pytest.raises(OSError, match="in use"), socket.socket() as thief:
                thief.bind((proxy.host, port))
            proxy.accept()
            proxy.accept()
            async with client(proxy) as (other_reader, other_writer):
                assert await ask(other_reader, other_writer, b"new") == b"new"
    assert proxy.port == port
    proxy.refuse()
    proxy.heal()
    async with client(proxy) as (reader, writer):
        assert await ask(reader, writer, b"healed") == b"healed"


async def test_an_upstream_that_is_not_there_resets_the_client_and_is_counted():
    async with FaultProxy(f"127.0.0.1:{free_port()}") as proxy:
        await expect_reset(proxy)
        await until(lambda: proxy.stats().active == 0)
        assert proxy.stats().unreachable == 1


async def test_an_upstream_may_be_named(server):
    port = server.address.rpartition(":")[2]
    async with FaultProxy(f"localhost:{port}") as proxy, client(proxy) as (reader, writer):
        assert await ask(reader, writer, b"by name") == b"by name"


async def test_retargeting_takes_new_connections_elsewhere():
    async with Server(b"one") as one, Server(b"two") as two, FaultProxy(one.address) as proxy:
        old = await asyncio.open_connection(proxy.host, proxy.port)
        assert await old[0].readexactly(3) == b"one"
        proxy.upstream = two.address
        async with client(proxy) as (reader, _):
            assert await reader.readexactly(3) == b"two"
        assert await ask(*old, b"same") == b"same"
        with pytest.raises(MisuseError):
            proxy.upstream = "nowhere"
        assert proxy.upstream == two.address
        old[1].close()
        await old[1].wait_closed()


async def test_above_max_connections_new_ones_are_reset(server):
    async with FaultProxy(server.address, max_connections=1) as proxy, client(proxy) as (reader, writer):
        await ask(reader, writer, b"first")
        await expect_reset(proxy)
        assert proxy.stats().rejected == 1
        assert await ask(reader, writer, b"first") == b"first"


# Before, after and around


async def test_addresses_and_urls(server):
    async with FaultProxy(f"redis://me:p%40ss@{server.address}/3?x=1") as proxy:
        assert proxy.address == f"127.0.0.1:{proxy.port}"
        assert proxy.url == f"redis://me:p%40ss@127.0.0.1:{proxy.port}/3?x=1"
    async with FaultProxy(server.address) as proxy:
        assert proxy.url == f"tcp://{proxy.address}"
    with pytest.raises(MisuseError, match="not running"):
        proxy.port  # noqa: B018


@pytest.mark.parametrize(
    "upstream", ["", "localhost", "127.0.0.1:", ":80", "127.0.0.1:http", "h:99999", "http://host/"]
)
def test_a_bad_upstream_is_refused_in_a_sentence(upstream):
    with pytest.raises(MisuseError, match="upstream: expected"):
        FaultProxy(upstream)


async def test_bad_commands_are_refused_and_change_nothing(proxy):
    for command in (
        lambda: proxy.delay("soon"),
        lambda: proxy.delay(-1),
        lambda: proxy.throttle(0),
        lambda: proxy.throttle("fast"),
        lambda: proxy.corrupt(2),
        lambda: proxy.freeze(direction="sideways"),
        lambda: proxy.cut_after(-1),
    ):
        with pytest.raises(MisuseError):
            command()
    assert repr(proxy) == f"<FaultProxy {proxy.address} -> {proxy.upstream} active=0>"
    proxy.freeze(direction="upstream")
    proxy.refuse()
    assert "refusing" in repr(proxy)
    assert "upstream=Faults(" in repr(proxy)


async def test_a_port_that_is_taken_is_said_so(server):
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(MisuseError, match=f"port {port} is taken"):
        await FaultProxy(server.address, port=port).__aenter__()


async def test_a_virtual_clock_drives_its_delays():
    def run():
        async def main():
            async with Server() as server, FaultProxy(server.address) as proxy:
                reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
                proxy.delay("1h", direction="upstream")
                took = await seconds(ask(reader, writer, b"slow"))
                writer.close()
                await writer.wait_closed()
            return took

        with FakeClock() as clock:
            return clock.run(main())

    assert await asyncio.to_thread(run) == pytest.approx(3600)


async def test_it_works_on_uvloop_too():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with Server() as server, FaultProxy(server.address) as proxy:
            proxy.delay("20ms")
            async with client(proxy) as (reader, writer):
                assert await ask(reader, writer, b"x" * 100_000) == b"x" * 100_000
                proxy.refuse()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(proxy.host, proxy.port)
                proxy.heal()
                proxy.cut()
                with pytest.raises(ConnectionResetError):
                    await reader.read(1)
            async with client(proxy) as (reader, writer):
                await ask(reader, writer, b"again")
                proxy.close_connections()
                assert await reader.read() == b""
            await until(lambda: proxy.stats().active == 0)

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    await asyncio.to_thread(run)


def open_files():
    """The process's descriptors; none on a system without /proc, where the warnings are left to check."""
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


async def test_nothing_is_left_behind_in_whatever_state_it_ends(server):
    """Whatever the connections are doing at the moment of exit: no task, no socket, no warning."""
    gc.collect()
    before = open_files()
    tasks = asyncio.all_tasks()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for state in ("open", "frozen", "slow", "throttled", "refused", "unread", "fresh"):
            async with contextlib.AsyncExitStack() as clients, FaultProxy(server.address) as proxy:
                streams = [await clients.enter_async_context(client(proxy)) for _ in range(5)]
                if state == "fresh":
                    continue  # connections that the proxy may not even have seen yet
                for reader, writer in streams:
                    await ask(reader, writer, b"x")
                if state == "frozen":
                    proxy.freeze()
                if state == "slow":
                    proxy.delay("1h")
                if state == "throttled":
                    proxy.throttle(1)
                if state == "refused":
                    proxy.refuse()
                for _, writer in streams:
                    writer.write(b"y" * (1_000_000 if state == "unread" else 10))
        await until(lambda: asyncio.all_tasks() == tasks)  # the server's handlers end when they see the reset
        gc.collect()
    assert [str(w.message) for w in seen] == []
    assert open_files() <= before


async def test_free_port_is_free():
    port = free_port()
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", port)
    server.close()
    await server.wait_closed()
