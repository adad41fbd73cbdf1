"""Steps, checks, cookies, thinking, exceptions, and the arithmetic of the three times."""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from time import monotonic
from typing import Any

import pytest

from tenfold.load import Constant, check, step

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
async def ok(serve: Any, raw: Any) -> Any:
    return await serve(raw(OK))


async def test_the_first_failure_names_the_sample(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        with step("s"):
            answer = await user.get("/")
            assert check(answer.status == 200, "status 200")
            assert not check(False, "first")
            check(False, "second")

    driven = await drive(journey, ok.url)
    assert driven.total.errors == {"check: first": 5}


async def test_a_check_outside_a_step_counts_for_the_journey(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        check(False, "loose")

    driven = await drive(journey, ok.url)
    assert driven.result.named("journey j").errors == {"check: loose": 5}


async def test_expect_replaces_the_good_statuses(serve: Any, raw: Any, drive: Any) -> None:
    server = await serve(raw(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))

    async def journey(user: Any) -> None:
        with step("wanted", expect=(404,)):
            await user.get("/")
        with step("unwanted", expect=range(200, 300)):
            await user.get("/")

    driven = await drive(journey, server.url)
    assert driven.result.named("wanted").errors == {}
    assert driven.result.named("unwanted").errors == {"status 404": 5}


async def test_exceptions_are_counted_once_with_their_first_traceback(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        with step("s"):
            await user.get("/")
            raise KeyError("inside")

    async def outside(user: Any) -> None:
        raise LookupError("outside")

    driven = await drive(journey, ok.url)
    assert {s.name: s.errors for s in driven.result.steps} == {"s": {"exception: KeyError": 5}}
    assert "inside" in driven.result.tracebacks["exception: KeyError"]
    driven = await drive(outside, ok.url)
    assert {s.name: s.errors for s in driven.result.steps} == {"journey j": {"exception: LookupError": 5}}


async def test_requests_outside_steps_name_themselves_within_a_bound(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        for number in range(150):
            await user.get(f"/p{number}/x?y=1")

    driven = await drive(journey, ok.url, Constant(100, 0.01))
    names = {s.name for s in driven.result.steps}
    assert "GET /p7" in names
    assert "GET (other)" in names
    assert len(names) == 101


async def test_cookies_come_back_to_the_path_they_are_for(serve: Any, drive: Any) -> None:
    async def handle(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        extra = b""
        if head.startswith(b"GET /login"):
            extra = b"Set-Cookie: sid=1; Path=/\r\nSET-cookie: deep=2; Path=/deep\r\n"
            extra += b"set-cookie: old=3; Path=/\r\n"
        if head.startswith(b"GET /logout"):
            extra = b"Set-Cookie: old=; Max-Age=0; Path=/\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + extra + b"Content-Length: 5\r\n\r\nhello")
        return True

    server = await serve(handle)
    seen: list[int] = []

    async def journey(user: Any) -> None:
        assert len(user.cookies) == 0  # every arrival is another user
        await user.get("/login")
        await user.get("/logout")
        await user.get("/shallow")
        await user.get("/deep/x")
        seen.append(len(user.cookies))

    driven = await drive(journey, server.url, Constant(10, 0.01))
    assert driven.total.errors == {}
    cookies = [line.partition(b": ")[2] for head in server.heads for line in head.split(b"\r\n") if b"Cookie: " in line]
    assert cookies == [b"sid=1; old=3", b"sid=1", b"deep=2; sid=1"]
    assert seen == [2]


async def test_bodies_headers_and_hosts(serve: Any, drive: Any) -> None:
    bodies: list[bytes] = []

    async def handle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        bodies.append(await reader.readexactly(int(fields.get(b"Content-Length", b"0"))))
        body = json.dumps({k.decode(): v.decode() for k, v in fields.items()}).encode()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        return True

    server = await serve(handle)
    seen: list[Any] = []

    async def journey(user: Any) -> None:
        seen.append((await user.post("/a b", json={"x": "é"}, headers={"X-Y": "1"})).json())
        seen.append((await user.put("/", data={"a": 1, "b": "c d"})).json())
        await user.patch("/")
        await user.delete(server.url.replace("127.0.0.1", "localhost") + "/z?q=1")

    driven = await drive(journey, server.url, Constant(10, 0.01))
    assert driven.result.tracebacks == {}
    assert driven.total.errors == {}
    assert bodies == ['{"x":"é"}'.encode(), b"a=1&b=c+d", b"", b""]
    assert seen[0]["X-Y"] == "1"
    assert seen[0]["Content-Type"] == "application/json"
    assert seen[1]["Content-Type"] == "application/x-www-form-urlencoded"
    assert server.heads[0].startswith(b"POST /a%20b HTTP/1.1\r\n")
    assert server.heads[3].startswith(b"DELETE /z?q=1 HTTP/1.1\r\nHost: localhost:")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda user: user.get("http://example.org/"), "expected loopback or a host named with target()"),
        (lambda user: user.get("items"), "expected a path"),
        (lambda user: user.get("/", headers={"X": "a\r\nY: b"}), "without line breaks"),
        (lambda user: user.post("/", json=1, data="x"), "send one body"),
        (lambda user: user.get("/", timeout="soon"), "expected a duration"),
    ],
)
async def test_misuse_is_a_sentence_in_the_traceback(call: Any, sentence: str, ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        with step("s"):
            await call(user)

    driven = await drive(journey, ok.url)
    assert driven.total.errors == {"exception: MisuseError": 5}
    assert sentence in driven.result.tracebacks["exception: MisuseError"]
    assert ok.heads == []


async def test_thinking_is_not_measured_and_asyncio_can_be_awaited(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        with step("a"):
            await user.get("/")
        await user.think(0.05, 0.1)
        await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: 7) == 7
        with step("b"):
            await user.get("/")

    began = monotonic()
    driven = await drive(journey, ok.url)
    assert monotonic() - began > 0.07
    assert driven.total.errors == {}
    assert driven.total.attempts == 10
    assert driven.result.named("b").corrected.max < 50_000


async def test_what_a_trampoline_cannot_wait_for_is_refused_clearly(ok: Any, drive: Any) -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def journey(user: Any) -> None:
        with step("s"):
            await Odd()

    driven = await drive(journey, ok.url)
    assert driven.total.errors == {"exception: MisuseError": 5}
    assert "asyncio futures, and got str" in driven.result.tracebacks["exception: MisuseError"]


async def test_same_seed_same_randomness(ok: Any, drive: Any) -> None:
    draws: list[float] = []

    async def journey(user: Any) -> None:
        draws.append(user.random.random())
        await user.get("/")

    await drive(journey, ok.url)
    await drive(journey, ok.url)
    assert draws[:5] == draws[5:]
    assert len(set(draws)) == 5


async def test_a_freeze_counts_from_the_intended_time(serve: Any, drive: Any) -> None:
    """One server, one lock, 0.4 s of silence: whoever was due in it waited, though sent late or answered
    fast.
    """
    frozen = asyncio.Event()
    frozen.set()

    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await frozen.wait()
        writer.write(OK)
        return True

    async def freeze() -> float:
        await asyncio.sleep(0.2)
        frozen.clear()
        began = time.monotonic()
        await asyncio.sleep(0.4)
        frozen.set()
        return (time.monotonic() - began) * 1e6

    async def journey(user: Any) -> None:
        with step("s"):
            await user.get("/")

    freezer = asyncio.create_task(freeze())
    driven = await drive(journey, (await serve(handle)).url, Constant(100, 1.0), max_connections=1)
    silence = await freezer  # as long as it really was: other things may run on this machine
    total = driven.total
    assert total.errors == {}
    assert total.attempts == 100
    # Corrected: about 40 requests were due in the freeze, waiting 0.4 s … 0 s: p90 tells of it.
    assert total.corrected.quantile(0.9) > silence / 2
    # Uncorrected, over one connection: one request met the freeze, the others were sent after it. p90 looks
    # fine.
    assert total.uncorrected.quantile(0.9) < total.corrected.quantile(0.9) / 4
    assert total.uncorrected.max > silence * 0.9
    seconds = driven.result.intervals
    assert sum(each.intended for each in seconds) == 100
    assert sum(each.sent for each in seconds) == 100
    assert sum(each.answered for each in seconds) == 100
    assert max(each.in_flight_max for each in seconds) >= 30


async def test_warmup_stands_apart(ok: Any, drive: Any) -> None:
    async def journey(user: Any) -> None:
        with step("s"):
            await user.get("/")

    driven = await drive(journey, ok.url, Constant(100, 0.2), warmup=0.1)
    found = driven.result.named("s")
    assert found.attempts == 10
    assert driven.result.warmup_totals.attempts == 10


async def test_what_the_drain_cuts_off_is_unfinished(serve: Any, drive: Any) -> None:
    async def handle(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> bool:
        await reader.read()
        return False

    closed: list[bool] = []

    async def journey(user: Any) -> None:
        try:
            with step("s"):
                await user.get("/")
        finally:
            closed.append(True)

    driven = await drive(journey, (await serve(handle)).url, timeout=30, drain=0.1)
    assert driven.total.errors == {"unfinished": 5}
    assert closed == [True] * 5


async def test_cycles_that_journeys_leave_go_during_the_run(ok: Any, drive: Any) -> None:
    class Knot:
        pass

    left: list[weakref.ref[Knot]] = []
    alive = 0

    async def journey(user: Any) -> None:
        nonlocal alive
        knot = Knot()
        knot.self = knot  # type: ignore[attr-defined]
        left.append(weakref.ref(knot))
        await user.get("/")
        alive = sum(ref() is not None for ref in left)

    driven = await drive(journey, ok.url, Constant(300, 2.0))
    assert driven.result.started == len(left) == 600
    assert alive < 450  # automatic collection is off, and all 600 would be there
