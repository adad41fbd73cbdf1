"""What HAProxy answers by itself: the problems of the embedded engine's table, with the limit that fired."""

import asyncio
import json
import socket

import pytest

from tenfold.gateway.engine.problem import PROBLEMS, TYPE


def expect(answer, status, reason, limit=None, value=None):
    """That an answer is that problem, whole."""
    row = PROBLEMS[reason]
    told = json.loads(answer.body)
    assert (answer.status, told["status"], told["reason"]) == (status, status, reason)
    assert answer.get("content-type") == "application/problem+json"
    assert told["type"] == TYPE + reason
    assert told["title"] == row.title
    assert (told.get("limit"), told.get("limit_value")) == (limit, value)
    assert told["detail"]


POOLS = """
[[pool]]
name = "slow"
endpoints = ["{slow}"]
first_byte_timeout = "300ms"
body_timeout = "300ms"
[[pool]]
name = "gone"
endpoints = ["{gone}"]
[[pool]]
name = "refusing"
endpoints = ["{refusing}"]
[[pool]]
name = "late"
endpoints = ["{late}"]
connect_timeout = "200ms"
[[pool]]
name = "busy"
endpoints = ["{slow}"]
max_in_flight = 1
queue = 1
queue_timeout = "150ms"
[[route]]
name = "slow"
path = "/slow"
pool = "slow"
[[route]]
name = "deadline"
path = "/deadline"
pool = "slow"
deadline = "150ms"
[[route]]
name = "gone"
path = "/gone"
pool = "gone"
[[route]]
name = "refusing"
path = "/refusing"
pool = "refusing"
[[route]]
name = "late"
path = "/late"
pool = "late"
[[route]]
name = "busy"
path = "/busy"
pool = "busy"
[[route]]
name = "small"
path = "/small"
pool = "slow"
body_max = 4
[[route]]
name = "limited"
path = "/limited"
pool = "slow"
rate_limit = {{ rate = "1/m", burst = 1 }}
"""


@pytest.fixture
def full():
    """The port of a socket that listens and takes no connection any more."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill = [socket.socket() for _ in range(3)]
        for each in fill:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for each in fill:
            each.close()


async def test_each_limit_that_fires_is_named_as_the_embedded_engine_names_it(wire, haproxy, full):
    async def slow(request, writer, reader):
        await asyncio.sleep(1.0)
        return False

    async def gone(request, writer, reader):
        return False

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with wire.Backend(slow) as first, wire.Backend(gone) as second:
            urls = {"slow": first.url, "gone": second.url, "late": f"http://127.0.0.1:{full}"}
            urls["refusing"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
            text = '[gateway]\nlisten = "127.0.0.1:0"\nheader_timeout = "200ms"\nbody_timeout = "300ms"\n'
            text += 'write_timeout = "300ms"\n' + POOLS.format(**urls)
            async with haproxy(text) as run:
                stalls = wire.get("/gone/stalls", "Content-Length: 9", method="POST") + b"1"
                names = ("slow", "deadline", "gone", "refusing", "late", "busy", "limited", "nowhere")
                asked = {name: run.ask(wire.get(f"/{name}")) for name in names}
                asked["head"] = run.ask(b"GET / HTTP/1.1\r\nHos")
                asked["stalls"] = run.ask(stalls)
                asked["busy too"] = run.ask(wire.get("/busy"))
                asked["busy still"] = run.ask(wire.get("/busy"))
                asked["large"] = run.ask(wire.post(b"12345", path="/small"))
                asked["unsaid"] = run.ask(
                    wire.get("/small", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n0\r\n\r\n"
                )
                asked["bad"] = run.ask(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
                asked["host"] = run.ask(b'GET /slow HTTP/1.1\r\nHost: x";for=1.1.1.1;a="\r\n\r\n')
                asked["dots"] = run.ask(wire.get("/slow/../x"))
                found = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
                expect(found["slow"], 504, "first_byte_timeout", "pool.first_byte_timeout", 0.3)
                expect(found["deadline"], 504, "deadline", "route.deadline", 0.15)
                expect(found["gone"], 502, "upstream_broken")
                expect(found["refusing"], 503, "connect")
                expect(found["late"], 503, "connect")
                assert found["head"].status == 408  # in HAProxy's own words, as is what is no request
                expect(found["stalls"], 400, "body_timeout", "gateway.body_timeout", 0.3)
                expect(found["large"], 413, "body_too_large", "route.body_max", 4)
                expect(found["unsaid"], 411, "length_required", "route.body_max", 4)
                assert found["bad"].status == 400
                assert (found["host"].status, json.loads(found["host"].body)["reason"]) == (400, "host_bad")
                expect(found["dots"], 400, "dot_segments")
                expect(found["nowhere"], 404, "no_route")
                expect(await run.ask(wire.get("/limited")), 429, "rate_limit", "route.rate_limit", "0.0166667/s")
                busy = [found[name] for name in ("busy", "busy too", "busy still")]
                reasons = {json.loads(each.body)["reason"]: each for each in busy}
                expect(reasons["queue_timeout"], 503, "queue_timeout", "pool.queue_timeout", 0.15)
                expect(reasons["queue_full"], 503, "queue_full", "pool.queue", 1)
                await run.call("endpoint", pool="gone", id=next(iter((await run.call("state"))["pools"]["gone"]["endpoints"])), maint=True)  # fmt: skip # noqa: E501
                expect(await run.ask(wire.get("/gone")), 503, "no_endpoint")
