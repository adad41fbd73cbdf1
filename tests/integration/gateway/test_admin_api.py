"""The admin API on real sockets: who is let in, what it shows, what it changes, and what lasts."""

import asyncio
import contextlib
import json
import shutil
import subprocess

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.admin import Control
from tenfold.gateway.admin.exposition import OPENMETRICS
from tenfold.gateway.config import read_config

TOKEN = "a-token-for-the-tests"
ADMIN = f'[admin]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'
CACHED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\nSurrogate-Key: %b\r\n\r\nok"
TWO = 'pick = "round_robin"'


class Answer:
    def __init__(self, message):
        self.status, self.message, self.body = message.status, message, message.body

    @property
    def json(self):
        return json.loads(self.body)


def call_with(wire, run):
    """A function that asks the admin API of `run`."""

    async def call(method, path, body=None, *lines, token=TOKEN, host="localhost", raw=None):
        reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.admin.port)
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines]
        head += [f"Authorization: Bearer {token}"] if token else []
        head += [f"Content-Length: {len(data)}"] if data else []
        writer.write("\r\n".join([*head, "", ""]).encode() + data)
        try:
            return Answer(await asyncio.wait_for(wire.read(reader, bodiless=method == "HEAD"), 10))
        finally:
            writer.transport.abort()

    return call


@contextlib.asynccontextmanager
async def running(wire, *urls, admin=ADMIN, **how):
    async with wire.running(wire.toml(*urls, more=admin + how.pop("more", ""), **how)) as run:
        run.call = call_with(wire, run)
        yield run


async def test_who_is_let_in(wire):
    async with running(wire, "http://127.0.0.1:9") as run:
        assert (await run.call("GET", "/v1/state")).status == 200
        without = await run.call("GET", "/v1/state", token=None)
        assert without.status == 401
        assert without.message.get("www-authenticate").startswith("Bearer")
        assert without.message.get("content-type") == "application/problem+json"
        wrong = await run.call("GET", "/v1/state", token=TOKEN + "x")
        assert wrong.status == 401
        assert "invalid_token" in wrong.message.get("www-authenticate")
        assert (await run.call("GET", "/metrics", token=None)).status == 401
        for host in ("evil.example", "evil.example:8081", "127.0.0.1.evil.example"):
            assert (await run.call("GET", "/v1/state", host=host)).status == 421
        for host in ("127.0.0.1:1", "[::1]:80", "LOCALHOST"):
            assert (await run.call("GET", "/v1/state", host=host)).status == 200
        assert (await run.call("GET", "/v1/state", None, "Origin: http://evil.example")).status == 403
        assert (await run.call("GET", "/v1/state", None, "Origin: null")).status == 403
        assert (await run.call("GET", "/v1/state", None, "Origin: http://localhost")).status == 200
        assert TOKEN.encode() not in (await run.call("GET", "/v1/config")).body


async def test_metrics_may_be_free_and_nothing_else(wire):
    admin = ADMIN + 'metrics_token = false\nnames = ["gate.internal"]\n'
    async with running(wire, "http://127.0.0.1:9", admin=admin) as run:
        assert (await run.call("GET", "/metrics", token=None, host="gate.internal:80")).status == 200
        assert (await run.call("GET", "/metrics", token=None, host="evil.example")).status == 421
        for path in ("/v1/state", "/metrics/", "//metrics", "/v1/../metrics", "/v1/metrics"):
            assert (await run.call("GET", path, token=None)).status == 401


async def test_limits_and_what_is_not_there(wire):
    async with running(wire, "http://127.0.0.1:9") as run:
        call = run.call
        assert (await call("GET", "/v2")).status == 404
        other = await call("DELETE", "/v1/state")
        assert (other.status, other.message.get("allow")) == (405, "GET, HEAD")
        assert (await call("HEAD", "/v1/state")).status == 200
        assert (await call("GET", "/v1/state", None, "X: " + "x" * 20_000)).status == 431
        big = await call("POST", "/v1/purge", raw=b"x" * (1024 * 1024 + 1))
        assert big.status == 413
        assert (await call("POST", "/v1/purge", raw=b"nonsense")).status == 400
        assert (await call("POST", "/v1/purge", ["all"])).status == 400
        assert (await call("POST", "/v1/purge", {"all": True})).json["detail"].startswith("purge: expected a gateway")
        strange = await call("PATCH", "/v1/pools/app/endpoints/nobody", {"weight": 1})
        assert strange.status == 404
        assert (await call("GET", "/v1/pools/nobody/endpoints")).status == 404
        reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.admin.port)
        head = f"GET /v1/pools HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        writer.write(head * 2)  # one connection, two requests
        assert [(await wire.read(reader)).status, (await wire.read(reader)).status] == [200, 200]
        writer.close()


async def ids(run):
    return [each["id"] for each in (await run.call("GET", "/v1/pools/app/endpoints")).json["endpoints"]]


async def test_a_drained_endpoint_gets_nothing_and_stays_so_over_reloads(wire):
    async with wire.Backend() as one, wire.Backend() as two, running(wire, one.url, two.url, pool=TWO) as run:
        first, _ = await ids(run)
        place = f"/v1/pools/app/endpoints/{first}"
        told = (await run.call("PATCH", place, {"state": "drain"})).json
        assert (told["state"], told["ready"], told["why"]) == ("drain", False, "draining")
        backend = one if told["url"] == one.url else two

        async def asked():
            before = len(backend.seen)
            for _ in range(6):
                assert (await run.ask(wire.get())).status == 200
            return len(backend.seen) - before

        assert await asked() == 0
        # A reload that does not touch it, one that makes another balancer of its pool, and again.
        for pool in (TWO, 'pick = "random"', TWO + "\nmax_in_flight = 50"):
            more = ADMIN + '[[route]]\npath = "/x"\nrespond = 204'
            await run.gateway.reload(read_config(wire.toml(one.url, two.url, pool=pool, more=more), environ={}))
            assert await asked() == 0
        assert (await run.call("PATCH", place, {"state": "ready"})).json["ready"] is True
        assert await asked() > 0
        # Who leaves and comes back is a new one.
        await run.call("PATCH", place, {"state": "maint"})
        rest = two if backend is one else one
        await run.gateway.reload(read_config(wire.toml(rest.url, pool=TWO, more=ADMIN), environ={}))
        await run.gateway.reload(read_config(wire.toml(one.url, two.url, pool=TWO, more=ADMIN), environ={}))
        assert (await run.call("GET", place)).json["state"] == "ready"
        assert await asked() > 0


async def test_a_weight_lasts_until_the_file_says_another_one(wire):
    def text(weight, more=""):
        pool = f'[[pool]]\nname = "app"\nendpoints = [{{ id = "a", url = "http://127.0.0.1:9", weight = {weight} }}]\n'
        return f'[gateway]\nlisten = "127.0.0.1:0"\n{pool}{more}[[route]]\npool = "app"\n{ADMIN}'

    async with wire.running(text(2)) as run:
        call, place = call_with(wire, run), "/v1/pools/app/endpoints/a"

        async def weight():
            return (await call("GET", place)).json["declared_weight"]

        async def reload(*args):
            await run.gateway.reload(read_config(text(*args), environ={}))
            return await weight()

        assert (await call("PATCH", place, {"weight": 7})).json["declared_weight"] == 7
        assert await reload(2) == 7
        assert await reload(2, "max_in_flight = 9\n") == 7  # another balancer
        assert (await call("PATCH", place, {"weight": None})).json["declared_weight"] == 2
        assert (await call("PATCH", place, {"weight": 5})).json["declared_weight"] == 5
        assert await reload(3, "max_in_flight = 9\n") == 3
        assert await reload(3) == 3
        assert (await call("PATCH", place, {"weight": -1})).status == 400
        assert (await call("PATCH", place, {"weight": 1, "color": "red"})).status == 400
        assert (await call("PATCH", place, {"state": "off"})).status == 400
        assert await weight() == 3


async def test_purge_by_url_tags_and_all(wire):
    async def answer(request, writer, reader):
        path = request.start.split(b" ")[1]
        writer.write(CACHED % path.strip(b"/").replace(b"/", b"-"))

    route = 'edge = { query = ["q"] }\n[[route]]\nname = "shop"\npath = "/shop"\nstrip_prefix = true\n'
    route += 'edge = true\npool = "app"'
    async with wire.Backend(answer) as backend, running(wire, backend.url, route=route) as run:

        async def asked(path):
            before = len(backend.seen)
            assert (await run.ask(wire.get(path))).status == 200
            return len(backend.seen) - before

        async def fill():
            for path in ("/a", "/b?q=1&z=2", "/shop/c"):
                await asked(path)
                assert await asked(path) == 0

        await fill()
        assert (await run.call("POST", "/v1/purge", {"url": "https://shop.example/a"})).json == {"purged": 0}
        for url, path in (("/a", "/a"), ("http://shop.example/b?z=9&q=1", "/b?q=1"), ("/shop/c?", "/shop/c")):
            host = "" if url.startswith("http") else "http://shop.example"
            assert (await run.call("POST", "/v1/purge", {"url": host + url})).json == {"purged": 1}
            assert await asked(path) == 1
        assert (await run.call("POST", "/v1/purge", {"tags": ["a", "none"]})).json == {"purged": 1}
        assert await asked("/a") == 1
        assert await asked("/shop/c") == 0
        assert (await run.call("POST", "/v1/purge", {"all": True})).json == {"purged": 3}
        assert await asked("/shop/c") == 1
        for wrong in (
            {},
            {"all": False},
            {"tags": []},
            {"tags": "a"},
            {"url": 5},
            {"url": "/ü"},
            {"url": "/", "all": True},
        ):
            assert (await run.call("POST", "/v1/purge", wrong)).status == 400


async def test_explain(wire):
    more = '[[pool]]\nname = "new"\nendpoints = ["http://127.0.0.1:10"]\n'
    more += '[[route]]\nname = "old"\npath = "/old"\nredirect = "/"'
    route = 'canary = { pool = "new", weight = 0.1, header = "X-New" }'
    async with running(wire, "http://127.0.0.1:9", "http://127.0.0.1:8", route=route, more=more) as run:
        (first, second) = await ids(run)
        await run.call("PATCH", f"/v1/pools/app/endpoints/{first}", {"state": "drain"})
        told = (await run.call("GET", "/v1/explain?url=http://shop.example/x?a=1")).json
        assert (told["route"], told["pool"], told["host"]) == ("all", "app", "shop.example")
        assert "chance" in told["because"]
        assert [each["endpoint"] for each in told["endpoints"]] == [second, first]
        assert "draining" in told["endpoints"][1]["because"]
        asked = {"method": "POST", "url": "/x", "headers": {"X-New": "always"}}
        assert (await run.call("POST", "/v1/explain", asked)).json["pool"] == "new"
        assert (await run.call("POST", "/v1/explain", {"url": "/old"})).json["answer"] == 308
        assert (await run.call("POST", "/v1/explain", {"url": "/a/../b"})).json["answer"] == 400
        for wrong in (
            {},
            {"url": "/", "method": "NO NO"},
            {"url": "/", "headers": {"Host": "a b"}},
            {"url": "/", "x": 1},
        ):
            assert (await run.call("POST", "/v1/explain", wrong)).status == 400
        assert run.counters["requests"] == 0  # nothing was sent


async def test_reload_by_text(wire):
    async with wire.Backend() as backend, running(wire, backend.url) as run:
        text = wire.toml(backend.url, more=ADMIN.replace(TOKEN, TOKEN[::-1]) + '[[route]]\npath = "/x"\nrespond = 204')
        kind = "Content-Type: application/toml"
        wrong = await run.call("POST", "/v1/reload", None, kind, raw=text.replace("204", "2040").encode())
        assert wrong.status == 400
        assert any("reload:" in each for each in wrong.json["problems"])
        assert (await run.call("POST", "/v1/reload")).status == 400  # it came from no file
        told = await run.call("POST", "/v1/reload", None, kind, raw=text.encode())
        assert told.status == 200, told.body
        assert any(line.endswith("added") for line in told.json["changes"])
        assert (await run.ask(wire.get("/x"))).status == 204
        assert (await run.call("GET", "/v1/state")).status == 401  # the token is another one now
        assert (await run.call("GET", "/v1/state", token=TOKEN[::-1])).status == 200
        reply = await run.call("POST", "/v1/drain", token=TOKEN[::-1])
        assert reply.status == 202
        assert run.gateway.stopping.is_set()
        await run.until(lambda: run.gateway.state()["draining"])


def values(text):
    found = {}
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, f"twice: {name}"
            found[name] = float(value)
    return found


async def test_metrics_count_what_happened(wire):
    async def answer(request, writer, reader):
        path = request.start.split(b" ")[1]
        if path == b"/break":
            return False
        writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n" if path == b"/404" else wire.OK)
        return None

    more = '[[route]]\nname = "own"\npath = "/own"\nrespond = 204\n'
    async with wire.Backend(answer) as backend, running(wire, backend.url, more=more) as run:
        peer = await run.connect()
        for path in ("/", "/", "/404", "/own"):
            await peer.ask(wire.get(path))
        assert (await run.ask(wire.get("/break", method="GET"))).status == 502
        await run.at_rest()
        (id,) = await ids(run)
        text = (await run.call("GET", "/metrics")).body
        got = values(text)
        p = "tenfold_gateway_"
        assert got[p + 'requests_total{route="all",pool="app"}'] == 4
        assert got[p + 'requests_total{route="own",pool=""}'] == 1
        assert got[p + 'responses_total{pool="app",code="2xx"}'] == 2
        assert got[p + 'responses_total{pool="app",code="4xx"}'] == 1
        assert got[p + 'responses_total{pool="app",code="5xx"}'] == 1
        endpoint = f'{{pool="app",endpoint="{id}"}}'
        assert got[f"{p}endpoint_requests_total{endpoint}"] >= 4
        assert got[f"{p}endpoint_failures_total{endpoint}"] == 1
        assert got[f"{p}endpoint_up{endpoint}"] == 1
        assert got[f"{p}endpoint_in_flight{endpoint}"] == 0
        assert (
            got[p + 'response_seconds_count{pool="app"}']
            == got[p + 'response_seconds_bucket{pool="app",le="+Inf"}']
            == 4
        )
        assert got[p + "workers"] == 1
        # A reload goes on counting.
        await run.gateway.reload(read_config(wire.toml(backend.url, pool='pick = "random"', more=ADMIN), environ={}))
        again = values((await run.call("GET", "/metrics")).body)
        assert again[p + 'requests_total{route="all",pool="app"}'] == 4
        assert again[f"{p}endpoint_requests_total{endpoint}"] == got[f"{p}endpoint_requests_total{endpoint}"]


async def test_metrics_in_both_formats_are_what_prometheus_reads(wire):
    more = '[[pool]]\nname = "odd"\nendpoints = [{ id = "a \\\\ \\"b\\"", url = "http://127.0.0.1:9" }]\n'
    more += '[[route]]\nname = "odd"\npath = "/odd"\npool = "odd"\nedge = true\n'
    async with running(wire, "http://127.0.0.1:9", more=more) as run:
        plain = await run.call("GET", "/metrics")
        assert plain.message.get("content-type").startswith("text/plain; version=0.0.4")
        accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5,*/*;q=0.1"
        opened = await run.call("GET", "/metrics", None, accept)
        assert opened.message.get("content-type") == OPENMETRICS
        assert opened.body.endswith(b"# EOF\n")
        assert b"# TYPE tenfold_gateway_requests counter" in opened.body
        assert rb'endpoint="a \\ \"b\""' in plain.body
        assert values(plain.body).keys() == values(opened.body).keys()
        if shutil.which("promtool"):
            done = await asyncio.to_thread(
                subprocess.run, ["promtool", "check", "metrics"], input=plain.body, capture_output=True, timeout=20
            )
            assert done.returncode == 0, done.stdout + done.stderr
        try:
            from prometheus_client.openmetrics.parser import text_string_to_metric_families
        except ImportError:
            pytest.skip("needs prometheus_client to read OpenMetrics")
        names = {each.name for each in text_string_to_metric_families(opened.body.decode())}
        assert "tenfold_gateway_response_seconds" in names


async def test_control_refuses_what_it_does_not_know(wire):
    async with wire.running(wire.toml("http://127.0.0.1:9")) as run:
        control = Control(run.gateway)
        for method, params in (
            ("nothing", {}),
            ("state", {"x": 1}),
            ("endpoint", {"pool": "app", "id": "x", "weight": 1}),
            ("endpoint", {"pool": "app"}),
            ("reload", {"toml": 5}),
            ("events", {"since": "x"}),
        ):
            with pytest.raises(MisuseError):
                await control.call(method, params)
        json.dumps([await control.call(each, {}) for each in ("state", "metrics", "config", "events")])
        control.close()


async def test_orders_outlive_what_discovery_tells_anew(wire, tmp_path):
    listed = tmp_path / "endpoints.json"

    def declare(*endpoints):
        text = json.dumps({"endpoints": [{"id": id, "url": "http://127.0.0.1:9", "weight": w} for id, w in endpoints]})
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.rename(listed)

    def text(pick):
        found = f'discovery = {{ file = "{listed}", every = "0.02s" }}\npick = "{pick}"'
        return f'[gateway]\nlisten = "127.0.0.1:0"\n[[pool]]\nname = "app"\n{found}\n[[route]]\npool = "app"\n'

    declare(("a", 1), ("b", 1), ("c", 1))
    async with wire.running(text("p2c")) as run:
        control = Control(run.gateway)

        def shown():
            return run.gateway.state()["pools"]["app"]["endpoints"]

        await control.call("endpoint", {"pool": "app", "id": "a", "drain": True})
        await control.call("endpoint", {"pool": "app", "id": "b", "weight": 5})
        declare(("a", 2), ("b", 2), ("c", 2))
        await run.until(lambda: shown()["c"]["declared_weight"] == 2)
        assert (shown()["a"]["why"], shown()["b"]["declared_weight"]) == ("draining", 5)
        await run.gateway.reload(read_config(text("random"), environ={}))  # the pool is made anew
        assert (shown()["a"]["why"], shown()["b"]["declared_weight"]) == ("draining", 5)
        await control.call("endpoint", {"pool": "app", "id": "b", "weight": None})
        assert shown()["b"]["declared_weight"] == 2
        declare(("b", 2))
        await run.until(lambda: list(shown()) == ["b"])
        declare(("a", 1), ("b", 2))
        await run.until(lambda: "a" in shown())
        assert shown()["a"]["why"] == ""  # it had left


@pytest.mark.asyncio(loop_factories=["uvloop"])  # it waits for a second, twice
async def test_a_server_of_tags_that_is_not_there_stops_nothing(wire):
    more = '[edge]\ninvalidate_from = "redis://127.0.0.1:1/0"\ncache = "shop"\n'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route="edge = true", more=more)) as run:
        assert (await run.ask(wire.get())).status == 200
        other = wire.toml(backend.url, route="edge = true", more=more.replace('"shop"', '"other"'))
        await run.gateway.reload(read_config(other, environ={}))
        assert (await run.ask(wire.get())).status == 200
