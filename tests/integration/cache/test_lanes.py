"""Connections: pipelined in order, set up by redis-py with TLS and credentials, one timer a packet."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis.asyncio
from redis.credentials import CredentialProvider

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import SURE, Link, into


@asynccontextmanager
async def link(url: str) -> AsyncIterator[Link]:
    one = Link(url)
    try:
        yield one
    finally:
        await one.aclose()


async def test_answers_come_in_the_order_of_their_questions(valkey: Any) -> None:
    async with link(valkey.url) as one:
        answers = await asyncio.gather(
            *[one.exchange([("ECHO", f"{number}"), ("ECHO", b"\x00\xff")], 2) for number in range(300)]
        )
        assert answers == [[str(number).encode(), b"\x00\xff"] for number in range(300)]
        assert one.connections == 1
        assert (await one.exchange([("PING",)], 2, SURE)) == [b"PONG"]
        assert one.connections == 2


async def test_an_error_answer_stands_in_its_place(valkey: Any) -> None:
    async with link(valkey.url) as one:
        first, second, third = await one.exchange([("SET", "a", 1), ("LPUSH", "a", 1), ("GET", "a")], 2)
        assert (first, third) == (b"OK", b"1")
        assert isinstance(second, Exception)
        assert str(second).startswith("WRONGTYPE")


async def test_a_packet_that_is_late_takes_the_lane_with_it(valkey: Any) -> None:
    """Its answer may still come, and would be taken for somebody else's."""
    async with link(valkey.url) as one:
        await one.exchange([("PING",)], 2)
        await valkey.pause()
        try:
            with pytest.raises(LevelTwoDown, match="no answer within 50 ms"):
                await one.exchange([("GET", "old")], 0.05)
        finally:
            await valkey.resume()
        assert await one.exchange([("ECHO", "new")], 2) == [b"new"]


async def test_a_busy_loop_is_not_held_against_the_server(valkey: Any) -> None:
    async with link(valkey.url) as one:
        lane = await one.opened(2)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        lane.send([("PING",)], 0.05, into(answer))
        time.sleep(0.2)  # noqa: ASYNC251 - this is the busy loop
        assert await answer == [b"PONG"]


async def test_whoever_waits_for_a_lane_that_closes_is_told(valkey: Any) -> None:
    one = Link(valkey.url)
    await one.exchange([("PING",)], 2)
    waiting = asyncio.create_task(one.exchange([("BLPOP", "nothing", 0)], 20))
    await asyncio.sleep(0)
    await one.aclose()
    with pytest.raises(LevelTwoDown):
        await waiting
    with pytest.raises(LevelTwoDown, match="the cache is closed"):
        await one.exchange([("PING",)], 2)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


@asynccontextmanager
async def tls_in_front_of(port: int, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    """What stunnel, or a cloud's front end, does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # the other side went away, and so does this one
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        for one in (pump(reader, outer), pump(inner, writer)):
            task = asyncio.create_task(one)
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if pumps:
            await asyncio.wait(list(pumps), timeout=5)


async def test_tls(valkey: Any, certificate: tuple[Path, Path]) -> None:
    async with tls_in_front_of(valkey.port, certificate) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        async with Cache("shop", redis=f"{url}?ssl_ca_certs={certificate[1]}", timeout="2s") as cache:

            @cache("1m", memory=False, name="f")
            async def f(a: int) -> bytes:
                return bytes(a)

            for size in (1, 200_000):  # also what takes more than one record of TLS
                assert len(await f(size)) == len(await f(size)) == size
            assert await f.invalidate(1)
            assert cache.stats().l2_hits == 2
            assert cache.stats().backplane_gaps == 1
            assert cache.stats().l2_failures == 0
        async with Cache("shop", redis=url, timeout="2s") as distrustful:  # nobody vouches for the certificate

            @distrustful("1m", memory=False, name="f")
            async def g(a: int) -> bytes:
                return bytes(a)

            assert await g(1) == b"\x00"
            assert distrustful.stats().l2_failures > 0
            assert distrustful.stats().l2_hits == 0


@dataclass
class Picky:
    a: int
    refused: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if self.a == self.refused:
            raise ArithmeticError("not this one")


class Tokens(CredentialProvider):
    """As Entra ID's: a user and a token that is another one each time."""

    def __init__(self) -> None:
        self.asked = 0
        self.token = "first"

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return "service", self.token


async def test_a_credentials_provider_is_asked_for_each_connection(valkey: Any, until: Any) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    await client.execute_command("ACL", "SETUSER", "service", "on", ">first", "~*", "&*", "+@all")
    await client.execute_command("ACL", "SETUSER", "default", "off")
    tokens = Tokens()
    async with Cache("shop", redis=valkey.url, timeout="1s", credentials=tokens) as cache:

        @cache("1m", memory=False, name="f")
        async def f(a: int) -> int:
            return a

        assert [await f(1), await f(1)] == [1, 1]
        assert cache.stats().l2_hits == 1
        assert tokens.asked == 2  # the lane's and the subscription's
        await client.execute_command("ACL", "SETUSER", "service", "resetpass", ">second")
        await client.execute_command("CLIENT", "KILL", "USER", "service")
        tokens.token = "second"
        await until(lambda: cache.stats().backplane_gaps == 2)
        assert await f(1) == 1
        assert cache.stats().l2_hits == 2
    await client.aclose()


async def test_a_credentials_provider_that_fails_is_a_level_two_that_is_down(valkey: Any) -> None:
    class Broken(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise RuntimeError("the identity service does not answer")

    async with Cache("shop", redis=valkey.url, credentials=Broken()) as cache:

        @cache("1m", memory=False, name="f")
        async def f(a: int) -> int:
            return a

        assert await f(1) == 1
        assert await f.invalidate(1) is False
        assert not cache.stats().l2_up


async def test_what_cannot_be_sent_hurts_its_own_call_alone(valkey: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="2s") as cache:

        async def load() -> int:
            return 1

        keys = ["a", "\ud800", "b"]
        async with asyncio.timeout(5):
            assert await asyncio.gather(*[cache.get_or_load(key, load) for key in keys]) == [1, 1, 1]
        assert cache.stats().l2_up
        async with Cache("shop", redis=valkey.url, timeout="2s") as other:
            await asyncio.gather(other.get_or_load("a", load), other.get_or_load("b", load))
            assert other.stats().l2_hits == 2


async def test_a_value_whose_class_raises_hurts_its_own_call_alone(valkey: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="2s") as cache:

        @cache("1m", memory=False, name="f")
        async def f(a: int) -> Picky:
            return Picky(a)

        assert await asyncio.gather(*[f(a) for a in (1, 2, 3)]) == [Picky(1), Picky(2), Picky(3)]
        Picky.refused = 2
        try:
            async with asyncio.timeout(5):
                found = await asyncio.gather(*[f(a) for a in (1, 2, 3)], return_exceptions=True)
        finally:
            Picky.refused = None
        assert (found[0], found[2]) == (Picky(1), Picky(3))
        assert isinstance(found[1], ArithmeticError)


async def test_a_user_in_the_url_and_a_provider_contradict_each_other() -> None:
    with pytest.raises(MisuseError, match="credentials: "):
        Cache("shop", redis="redis://user:secret@127.0.0.1/0", credentials=Tokens())
