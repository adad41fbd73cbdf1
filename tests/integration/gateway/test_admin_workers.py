"""The admin API over several workers: two gateways stand for two processes of one."""

import asyncio
import json

from tenfold.gateway.admin import AdminServer, Control
from tenfold.gateway.config import Address, Admin, Secret

TOKEN = "a-token-for-the-tests"


class Two:
    """`Workers` of two gateways; one may be made not to answer."""

    count = 2

    def __init__(self, *gateways):
        self.controls = [Control(gateway) for gateway in gateways]
        self.stuck = False

    async def call_all(self, method, params, *, timeout):
        if self.stuck:
            raise TimeoutError
        return [await control.call(method, params) for control in self.controls]


async def test_what_two_workers_say_is_one_answer(wire):
    cached = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\nSurrogate-Key: t\r\n\r\nok"
    async with wire.Backend(cached) as backend:
        text = wire.toml(backend.url, route="edge = true")
        async with wire.running(text) as one, wire.running(text) as two:
            workers = Two(one.gateway, two.gateway)
            options = Admin(listen=Address("127.0.0.1", 0), token=Secret(TOKEN))
            async with AdminServer(options, workers) as admin:

                async def call(method, path, body=None):
                    reader, writer = await asyncio.open_connection("127.0.0.1", admin.address.port)
                    data = b"" if body is None else json.dumps(body).encode()
                    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                    answer = await asyncio.wait_for(wire.read(reader), 10)
                    writer.close()
                    return answer.status, answer.body

                for run, count in ((one, 1), (two, 2)):
                    for number in range(count):
                        assert (await run.ask(wire.get(f"/{number}"))).status == 200
                _, body = await call("GET", "/v1/state")
                told = json.loads(body)
                assert (told["workers"], told["counters"]["requests"]) == (2, 3)
                (endpoint,) = told["pools"]["app"]["endpoints"]
                assert endpoint["requests"] == 3
                _, body = await call("GET", "/metrics")
                assert b'tenfold_gateway_requests_total{route="all",pool="app"} 3\n' in body
                assert b"tenfold_gateway_workers 2\n" in body
                assert await call("POST", "/v1/purge", {"tags": ["t"]}) == (200, b'{"purged": 3}\n')
                path = f"/v1/pools/app/endpoints/{endpoint['id']}"
                assert (await call("PATCH", path, {"state": "drain"}))[0] == 200
                for run in (one, two):
                    assert (await run.ask(wire.get("/new"))).status == 503
                # One worker may see an endpoint as the other one does not.
                one.gateway.site.plan.pools["app"].balancer.resume(endpoint["id"])
                seen = json.loads((await call("GET", path))[1])
                assert (seen["ready"], [each["ready"] for each in seen["workers"]]) == (False, [True, False])
                workers.stuck = True
                assert (await call("GET", "/v1/state"))[0] == 504
                workers.stuck = False
                assert (await call("GET", "/v1/state"))[0] == 200
            for control in workers.controls:
                control.close()
