"""Balanced transports of httpx2 against real servers and a network that fails: nothing is lost, and no POST is sent
twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from tenfold._core.events import Hub
from tenfold.balance.agent import AgentLoad
from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import NoEndpoint, tried_of
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.transports import BalancedSyncTransport, BalancedTransport, RetryRules
from tenfold.resilience import Breaker, Budget, Deadline, at_priority
from tenfold.testing import FaultProxy, free_port

Answer = Callable[["Heard"], Awaitable[bytes | None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class InOrder(Pick):
    """By id, always: so that a test knows who is asked first."""

    name = "in_order"

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(self.members)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, 0.0, "in order") for member in self.members]


class Turns(InOrder):
    """One after another."""

    def __init__(self) -> None:
        self.at = 0

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        self.at += 1
        at = self.at % max(1, len(self.members))
        return iter([*self.members[at:], *self.members[:at]])


class Heard:
    """A request as it came over the wire."""

    def __init__(self, head: bytes, body: bytes, number: int) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = line.split(" ")
        self.headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        self.body = body
        self.number = number
        """Of the requests of its connection, from 1."""


class Server:
    """A server of raw HTTP/1.1: writes down what it hears and says what it is told to, None to hang up."""

    def __init__(self, answer: Answer | bytes | None = OK) -> None:
        self.answer = answer
        self.heard: list[Heard] = []
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                number += 1
                heard = Heard(head, b"", number)
                if "content-length" in heard.headers:
                    heard.body = await reader.readexactly(int(heard.headers["content-length"]))
                elif heard.headers.get("transfer-encoding") == "chunked":
                    while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                        heard.body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readexactly(2)
                self.heard.append(heard)
                said = await self.answer(heard) if callable(self.answer) else self.answer
                if said is None:
                    break
                writer.write(said)
                await writer.drain()
                if b"close" in said:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's own callback would call it an error
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield "http://{}:{}".format(*server.sockets[0].getsockname())
        finally:
            server.close()


@asynccontextmanager
async def shop(
    *servers: Server | str, rules: RetryRules | None = None, transport: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Balancer]]:
    """A client over these servers (or urls), asked in this order."""
    async with AsyncExitStack() as stack:
        urls = [
            server if isinstance(server, str) else await stack.enter_async_context(server.running())
            for server in servers
        ]
        endpoints = [Endpoint(name, url) for name, url in zip("abcdefgh", urls, strict=False)]
        options.setdefault("pick", InOrder())
        balancer = Balancer(endpoints, name="shop", hub=Hub(), random=random.Random(1), **options)
        balanced = BalancedTransport(balancer, rules=rules, **(transport or {}))
        client = await stack.enter_async_context(
            httpx2.AsyncClient(transport=balanced, base_url="http://shop.example/", timeout=5)
        )
        yield client, balancer
        assert balancer.in_flight == 0


def refusing() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def test_the_request_goes_to_the_endpoint_and_the_callers_stays_as_it_was() -> None:
    server = Server()
    async with shop(server) as (client, balancer):
        response = await client.get("/things?page=2", headers={"X-Own": "1"})
        assert (response.status_code, response.text) == (200, "ok")
        assert str(response.request.url) == "http://shop.example/things?page=2"
        assert response.request.headers["host"] == "shop.example"
        [heard] = server.heard
        assert (heard.method, heard.target, heard.headers["x-own"]) == ("GET", "/things?page=2", "1")
        assert f"http://{heard.headers['host']}" == balancer.endpoints[0].url
        for _ in range(3):
            await client.get("/")
        assert server.connections == 1
        assert balancer.counters.succeeded == 4


async def test_the_host_can_stay_the_callers() -> None:
    server = Server()
    async with shop(server, transport={"preserve_host": True}) as (client, _):
        await client.get("/")
        assert server.heard[0].headers["host"] == "shop.example"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_goes_to_the_next_for_any_method(method: str) -> None:
    server = Server()
    async with shop(refusing(), server) as (client, balancer):
        response = await client.request(method, "/", content=b"order 1")
        assert response.status_code == 200
        assert [heard.body for heard in server.heard] == [b"order 1"]
        assert balancer.counters.failovers == 1
        assert balancer.counters.failed == 1


async def test_a_streamed_post_whose_connection_was_refused_is_sent_whole() -> None:
    server = Server()

    async def body() -> AsyncIterator[bytes]:
        yield b"order "
        yield b"2"

    async with shop(refusing(), server) as (client, _):
        assert (await client.post("/", content=body())).status_code == 200
        assert [heard.body for heard in server.heard] == [b"order 2"]


async def test_all_refused_is_the_librarys_own_error_and_says_where() -> None:
    async with shop(refusing(), refusing()) as (client, _):
        with pytest.raises(httpx2.ConnectError) as failure:
            await client.get("/")
        assert tried_of(failure.value) == ("a", "b")


async def test_nobody_there_is_the_librarys_own_error_too() -> None:
    async with shop() as (client, _):
        with pytest.raises(httpx2.ConnectError, match="no endpoint of 0") as failure:
            await client.get("/")
        assert isinstance(failure.value, NoEndpoint)


async def test_a_post_cut_before_its_answer_is_not_sent_again() -> None:
    first, second = Server(None), Server()
    async with shop(first, second) as (client, balancer):
        for count in (1, 2):
            with pytest.raises(httpx2.RemoteProtocolError) as failure:
                await client.post("/", content=b"order")
            assert tried_of(failure.value) == ("a",)
            assert len(first.heard) == count
        assert second.heard == []
        response = await client.get("/")
        assert response.status_code == 200
        assert [heard.method for heard in second.heard] == ["GET"]
        assert len(first.heard) == 3  # no answer has ended there, so its connections were fresh
        assert balancer.counters.retries == 1


async def test_an_answer_cut_in_its_middle_is_an_error_and_nothing_is_sent_again() -> None:
    first, second = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nconnection will close"), Server()
    async with shop(first, second) as (client, balancer):
        for method in ("GET", "POST"):
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.request(method, "/")
        assert [heard.method for heard in first.heard] == ["GET", "POST"]
        assert second.heard == []
        assert balancer.counters.failed == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_the_race_of_persistent_connections(method: str) -> None:
    """The server hangs up on the second request of a connection, without a byte: what is idempotent goes to the same
    server again on a fresh connection, for free; what is not fails.
    """

    async def once(heard: Heard) -> bytes | None:
        return OK if heard.number == 1 else None

    first, second = Server(once), Server()
    async with shop(first, second) as (client, balancer):
        await client.get("/first")
        if method == "POST":
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.post("/", content=b"order")
            assert [heard.method for heard in first.heard] == ["GET", "POST"]
            assert balancer.counters.failed == 1
        else:
            assert (await client.request(method, "/")).status_code == 200
            assert [heard.number for heard in first.heard] == [1, 2, 1]
            assert first.connections == 2
            assert (balancer.counters.failed, balancer.counters.retries) == (0, 0)
        assert second.heard == []


async def test_a_server_that_always_hangs_up_gets_one_fresh_connection_only() -> None:
    healthy = True

    async def sick(heard: Heard) -> bytes | None:
        return OK if healthy else None

    first, second = Server(sick), Server()
    async with shop(first, second) as (client, balancer):
        await client.get("/")
        healthy = False
        assert (await client.get("/")).status_code == 200
        assert len(first.heard) == 3  # well, then on the old connection and on a fresh one
        assert len(second.heard) == 1
        assert balancer.counters.retries == 1


async def test_a_bad_gateway_is_tried_elsewhere_if_it_may_be_and_else_handed_on() -> None:
    bad = Server(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
    good = Server()
    async with shop(bad, good) as (client, balancer):
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/")).status_code == 503
        assert [heard.method for heard in good.heard] == ["GET"]
        assert balancer.counters.failed == 2
    async with shop(bad, bad) as (client, _):
        response = await client.get("/")
        assert (response.status_code, response.text) == (503, "busy")
    async with shop(bad, good, rules=RetryRules(statuses=())) as (client, balancer):
        assert (await client.get("/")).status_code == 503
        assert balancer.counters.failed == 1


async def test_an_answer_that_says_how_loaded_its_server_is_moves_the_weight() -> None:
    loaded = Server(b"HTTP/1.1 200 OK\r\nTenfold-Load: 80%\r\nContent-Length: 2\r\n\r\nok")
    async with shop(loaded, Server(), pick=Turns(), agent=AgentLoad()) as (client, balancer):
        for _ in range(20):
            await client.get("/")
        weights = {id: about["weight"] for id, about in balancer.state()["endpoints"].items()}
        assert weights == {"a": 0.2, "b": 1.0}
        loaded.answer = b"HTTP/1.1 200 OK\r\nTenfold-Load: nonsense\r\nContent-Length: 2\r\n\r\nok"
        await client.get("/")
        assert balancer.state()["endpoints"]["a"]["weight"] == 0.2
    async with shop(Server(loaded.answer), pick=InOrder()) as (client, balancer):  # nobody asked
        await client.get("/")
        assert balancer.state()["endpoints"]["a"]["weight"] == 1.0


async def test_a_post_that_says_it_is_idempotent_is_sent_again_and_a_get_that_is_not_is_not() -> None:
    first, second = Server(None), Server()
    async with shop(first, second) as (client, _):
        said = {"tenfold_idempotent": True}
        assert (await client.post("/", content=b"x", extensions=said)).status_code == 200
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/", extensions={"tenfold_idempotent": False})
        assert [heard.body for heard in second.heard] == [b"x"]


async def test_a_streamed_body_is_sent_again_within_the_bound_and_not_beyond() -> None:
    first, second = Server(None), Server()

    async def body(parts: int) -> AsyncIterator[bytes]:
        for _ in range(parts):
            yield b"0123456789"

    async with shop(first, second, rules=RetryRules(replay=100)) as (client, _):
        transport: Any = client._transport
        assert (await client.put("/", content=body(10))).status_code == 200
        assert [heard.body for heard in second.heard] == [b"0123456789" * 10]
        assert transport.replay_overflows == 0
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.put("/", content=body(11))
        assert len(second.heard) == 1
        assert transport.replay_overflows == 1


async def test_an_endpoint_is_busy_until_its_answer_is_closed() -> None:
    async with shop(Server(), Server()) as (client, balancer):
        async with client.stream("GET", "/") as response:
            assert response.status_code == 200
            assert balancer.in_flight == 1
        assert balancer.in_flight == 0
        assert balancer.counters.succeeded == 1


async def test_who_is_cancelled_while_connecting_waiting_or_reading_gives_its_ticket_back() -> None:
    asked = asyncio.Event()

    async def silent(heard: Heard) -> bytes | None:
        asked.set()
        await asyncio.sleep(30)
        return None

    async def half(heard: Heard) -> bytes | None:
        asked.set()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it"

    for answer in (silent, half):
        async with shop(Server(answer)) as (client, balancer):
            asked.clear()
            task = asyncio.create_task(client.get("/"))
            async with asyncio.timeout(5):
                await asked.wait()
            assert balancer.in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (balancer.in_flight, balancer.counters.neutral) == (0, 1)
    async with shop("http://127.0.0.1:9") as (client, balancer):  # cancelled in its first step: nobody was asked yet
        task = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert balancer.in_flight == 0


async def test_a_storm_of_cancelled_requests_leaves_nothing_under_way_and_no_connection_behind() -> None:
    chance = random.Random(7)

    async def somehow(heard: Heard) -> bytes | None:
        await asyncio.sleep(chance.random() * 0.02)
        return None if chance.random() < 0.2 else OK

    async with shop(Server(somehow), Server(somehow), refusing(), pick=Turns()) as (client, balancer):
        tasks = [asyncio.create_task(client.get("/")) for _ in range(200)]
        for task in tasks:
            if chance.random() < 0.3:
                await asyncio.sleep(0.001)
            if chance.random() < 0.5:
                task.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks, return_exceptions=True)
        counters = balancer.counters
        assert balancer.in_flight == 0
        assert counters.acquired == counters.succeeded + counters.failed + counters.neutral
        transport: Any = client._transport
        assert [lane.open for lane in transport._lanes._by_id.values()] == [0, 0, 0]


async def test_deadline_and_priority_travel_with_the_request() -> None:
    server = Server()
    async with shop(server) as (client, _):
        with at_priority("critical"):
            async with Deadline("2s"):
                await client.get("/")
        headers = server.heard[0].headers
        assert headers["tenfold-priority"] == "critical"
        assert 0 < int(headers["tenfold-timeout-ms"]) <= 2000


async def test_the_key_of_a_request_reaches_the_pick() -> None:
    seen = list[Request]()

    class Looking(InOrder):
        def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
            seen.append(request)
            return super().order(now, draw, request)

    def by_user(request: Any) -> Request:
        return Request(key=request.headers["x-user"])

    async with shop(Server(), pick=Looking(), transport={"key": by_user}) as (client, _):
        await client.get("/", headers={"X-User": "7"})
        await client.get("/", extensions={"tenfold_request": Request(key="8")})
    assert [request.key for request in seen] == ["7", "8"]


async def test_who_leaves_is_asked_no_more_and_its_connections_are_closed() -> None:
    first, second = Server(), Server()
    async with shop(first, second) as (client, balancer):
        transport: Any = client._transport
        await client.get("/")
        async with client.stream("GET", "/") as under_way:
            balancer.remove("a")
            await client.get("/")
            assert [lane.endpoint.id for lane in transport._lanes.gone] == ["a"]
            assert await under_way.aread() == b"ok"
        await client.get("/")
        assert transport._lanes.gone == []
        assert (len(first.heard), len(second.heard)) == (2, 2)


async def test_a_network_that_resets_connections_loses_no_get_and_doubles_no_post() -> None:
    """A proxy cuts all connections of one of two servers again and again, under load."""
    sick, well = Server(), Server()
    async with (
        sick.running() as url,
        FaultProxy(url) as proxy,
        shop(proxy.url, well, pick=Turns(), budget=Budget(share=1, burst=1000)) as (client, balancer),
    ):
        stop = asyncio.Event()

        async def cut() -> None:
            while not stop.is_set():
                await asyncio.sleep(0.005)
                proxy.cut()

        async def ask(number: int) -> int:
            return (await client.get(f"/{number}")).status_code

        async def order(number: int) -> bool:
            try:
                return (await client.post("/", content=b"%d" % number)).status_code == 200
            except httpx2.TransportError:
                return False

        cutter = asyncio.create_task(cut())
        async with asyncio.timeout(30):
            for start in range(0, 300, 10):
                got = await asyncio.gather(*(ask(number) for number in range(start, start + 10)))
                assert got == [200] * 10
                await asyncio.gather(*(order(number) for number in range(start, start + 10)))
        stop.set()
        await cutter
        posted = [heard.body for server in (sick, well) for heard in server.heard if heard.method == "POST"]
        assert len(posted) == len(set(posted))
        assert balancer.counters.failed > 0


_BACKEND = """
import asyncio, os, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            await asyncio.sleep(0.005)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_server_that_is_killed_under_load_costs_no_get() -> None:
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _BACKEND, stdout=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        ports = [int(await child.stdout.readline()) for child in children if child.stdout is not None]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        breaker = Breaker(consecutive=3)
        async with shop(*urls, pick=Turns(), breaker=breaker) as (client, balancer):
            failures, enough = list[BaseException](), asyncio.Event()

            async def ask() -> None:
                for number in range(40):
                    if number == 15:
                        enough.set()
                    try:
                        assert (await client.get("/")).status_code == 200
                    except httpx2.TransportError as error:
                        failures.append(error)

            async with asyncio.timeout(30):
                asking = [asyncio.create_task(ask()) for _ in range(16)]
                await enough.wait()
                os.kill(children[1].pid, signal.SIGKILL)
                await asyncio.gather(*asking)
            assert failures == []
            assert balancer.counters.succeeded == 640
            assert balancer.counters.failovers > 0
            assert balancer.state()["endpoints"]["b"]["breaker"] == "open"
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
            await child.wait()


async def test_the_synchronous_transport_keeps_the_same_rules() -> None:
    async def once(heard: Heard) -> bytes | None:
        return OK if heard.number == 1 else None

    first, second = Server(once), Server()
    async with first.running() as one, second.running() as two:
        balancer = Balancer(
            [Endpoint("a", refusing()), Endpoint("b", one), Endpoint("c", two)], pick=InOrder(), hub=Hub()
        )

        def use() -> None:
            with httpx2.Client(transport=BalancedSyncTransport(balancer), base_url="http://shop.example") as client:
                assert client.get("/").status_code == 200
                assert client.get("/").status_code == 200  # the race, again on a fresh connection
                with client.stream("GET", "/") as response:
                    assert balancer.in_flight == 1
                    assert response.read() == b"ok"
                assert client.put("/", content=iter([b"a", b"b"])).status_code == 200
                assert balancer.in_flight == 0

        await asyncio.to_thread(use)
        assert second.heard == []
        assert first.heard[-1].body == b"ab"
        assert balancer.counters.retries == 0

        def posts() -> None:
            with httpx2.Client(transport=BalancedSyncTransport(balancer), base_url="http://shop.example") as client:
                assert client.post("/", content=b"1").status_code == 200
                with pytest.raises(httpx2.RemoteProtocolError):
                    client.post("/", content=b"2")

        await asyncio.to_thread(posts)
        assert [heard.body for heard in first.heard if heard.method == "POST"] == [b"1", b"2"]
        assert second.heard == []


async def test_many_threads_share_one_synchronous_transport() -> None:
    servers = [Server(), Server()]
    async with servers[0].running() as one, servers[1].running() as two:
        balancer = Balancer([Endpoint("a", one), Endpoint("b", two)], pick=Turns(), hub=Hub())

        def use(client: httpx2.Client) -> None:
            for _ in range(20):
                assert client.get("/").status_code == 200

        with httpx2.Client(transport=BalancedSyncTransport(balancer), base_url="http://shop.example") as client:
            await asyncio.gather(*(asyncio.to_thread(use, client) for _ in range(8)))
        assert balancer.in_flight == 0
        assert balancer.counters.succeeded == 160 == sum(len(server.heard) for server in servers)
