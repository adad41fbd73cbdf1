"""What HAProxy does with the endpoints of pools: checks, ejection, slow start, hashes, discovery, TLS."""

import asyncio
import contextlib
import json
import ssl

import trustme

from tenfold._core.events import EVENTS
from tenfold.balance.happenings import EndpointDown, EndpointUp
from tenfold.gateway.config import read_config

ENGINE = '[engine]\nname = "haproxy"\nreconcile = "50ms"\n'


def named(name):
    """An answer that says who gave it."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()


class App:
    """Answers with its name; its check and its other answers can be made to fail."""

    def __init__(self, name):
        self.name = name
        self.well = self.works = True
        self.checks = 0

    async def __call__(self, request, writer, reader):
        if b" /health" in request.start:
            self.checks += 1
            writer.write(named("well") if self.well else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(named(self.name) if self.works else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")


CHECKED = """
[gateway]
listen = "127.0.0.1:0"
[[pool]]
name = "app"
pick = "weighted_round_robin"
endpoints = [{{ id = "a", url = "{a}", weight = 40 }}, {{ id = "b", url = "{b}", weight = 40 }}]
check = {{ path = "/health", interval = "50ms", timeout = "1s", fall = 2, rise = 2 }}
slow_start = "{window}"
[[pool]]
name = "ejecting"
pick = "round_robin"
endpoints = [{{ id = "c", url = "{c}" }}, {{ id = "d", url = "{d}" }}]
check = {{ path = "/health", interval = "400ms", timeout = "2s", fall = 100, rise = 3 }}
ejection = {{ consecutive = 3, deviations = "off" }}
[[route]]
name = "{route}"
path = "/app"
pool = "app"
[[route]]
name = "ejecting"
pool = "ejecting"
"""


async def test_checks_ejection_and_slow_start_and_what_checks_know_outlives_a_reload(wire, haproxy):
    apps = {name: App(name) for name in "abcd"}
    heard = []
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: (await stack.enter_async_context(wire.Backend(app))).url for name, app in apps.items()}
        for kind in (EndpointDown, EndpointUp):
            stack.enter_context(EVENTS.subscribe(kind, heard.append))
        text = CHECKED.format(**urls, window="2s", route="app") + ENGINE
        run = await stack.enter_async_context(haproxy(text))

        async def is_(id, ready, pool="app"):
            found = await run.endpoint(id, pool)
            return found if found["ready"] is ready else None

        async def who(path, times=4):
            return [(await run.ask(wire.get(path))).body.decode() for _ in range(times)]

        assert set(await who("/app")) == {"a", "b"}
        apps["a"].well = False
        down = await run.until(lambda: is_("a", False))
        assert "503" in down["why"]
        assert (heard[-1].balancer, heard[-1].endpoint, type(heard[-1])) == ("app", "a", EndpointDown)
        assert set(await who("/app")) == {"b"}

        # A reload begins with what the checks of the old worker had found: nobody is sent there to find out.
        before = apps["a"].checks
        text = CHECKED.format(**urls, window="2s", route="another") + ENGINE
        await run.gateway.reload(read_config(text))
        assert set(await who("/app", 6)) == {"b"}
        assert (await run.endpoint("a"))["ready"] is False

        async def asked():
            return apps["a"].checks >= before + 4

        await run.until(asked)
        assert (await run.endpoint("a"))["ready"] is False
        apps["a"].well = True
        await run.until(lambda: is_("a", True))
        assert type(heard[-1]) is EndpointUp
        weights = []

        async def whole():
            metrics = (await run.call("metrics"))["metrics"]
            (weight,) = [
                each["value"]
                for each in metrics
                if each["name"].endswith("endpoint_weight") and each["labels"] == {"pool": "app", "endpoint": "a"}
            ]
            weights.append(weight)
            return weight == 40

        await run.until(whole)
        assert weights == sorted(weights)
        assert len({weight for weight in weights if 1 <= weight < 40}) >= 2, weights  # it rose, and not at once

        apps["c"].works = False
        failed = 0
        while failed < 3:
            failed += (await run.ask(wire.get("/x"))).status == 500
        assert (await run.endpoint("c", "ejecting"))["ready"] is False
        assert set(await who("/x")) == {"d"}
        apps["c"].works = True  # until its check has said yes three times
        await run.until(lambda: is_("c", True, "ejecting"))


async def test_hash_picks_are_stable_when_endpoints_come_and_go_and_discovered_ones_come_live(wire, haproxy, tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(wire.Backend(named(str(n)))) for n in range(5)]
        file = tmp_path / "endpoints.json"

        def tell(*numbers):
            new = tmp_path / "new"
            new.write_text(json.dumps({"endpoints": [{"id": f"e{n}", "url": apps[n].url} for n in numbers]}))
            new.replace(file)

        def text(*numbers):
            urls = ", ".join(f'{{ id = "e{n}", url = "{apps[n].url}" }}' for n in numbers)
            return f"""
[gateway]
listen = "127.0.0.1:0"
[[pool]]
name = "hashed"
endpoints = [{urls}]
pick = {{ name = "ring_hash", key = "header:X-User" }}
[[pool]]
name = "found"
pick = "round_robin"
discovery = {{ file = "{file}", every = "50ms" }}
[[route]]
name = "found"
path = "/found"
pool = "found"
[[route]]
name = "hashed"
pool = "hashed"
"""

        tell(0)
        run = await stack.enter_async_context(haproxy(text(0, 1, 2, 3)))
        users = range(60)

        async def picks():
            return {user: (await run.ask(wire.get("/", f"X-User: {user}"))).body for user in users}

        first = await picks()
        assert await picks() == first
        assert len(set(first.values())) == 4
        await run.gateway.reload(read_config(text(4, 3, 2, 1, 0), engine="haproxy"))
        second = await picks()
        moved = [user for user in users if second[user] != first[user]]
        assert {second[user] for user in moved} == {b"4"}
        assert 0 < len(moved) < len(users) / 2

        pids = await run.pids()
        assert (await run.ask(wire.get("/found"))).body == b"0"
        tell(0, 1, 2)

        async def seen():
            return {(await run.ask(wire.get("/found"))).body for _ in range(6)}

        async def three():
            return await seen() == {b"0", b"1", b"2"}

        await run.until(three)
        tell(1)

        async def one():
            return await seen() == {b"1"}

        await run.until(one)
        assert await run.pids() == pids  # by commands, without another worker
        await run.gateway.reload(read_config(text(4, 3, 2, 1), engine="haproxy"))
        assert await seen() == {b"1"}


async def test_tls_to_endpoints_is_verified_and_shows_its_own_certificate(wire, haproxy, tmp_path):
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    own = authority.issue_cert("gateway.example")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("app.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    shown = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await wire.read(reader)
                shown.append(writer.get_extra_info("peercert"))
                writer.write(wire.OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        both = f'certificate = "{tmp_path}/own.pem", key = "{tmp_path}/own.key"'
        tables = {
            "good": f'ca = "{tmp_path}/ca.pem", name = "app.example", {both}',
            "stranger": f'ca = "{tmp_path}/other.pem", name = "app.example"',
            "misnamed": f'ca = "{tmp_path}/ca.pem", name = "else.example"',
            "unverified": "verify = false",
        }
        text = '[gateway]\nlisten = "127.0.0.1:0"\n'
        for name, tls in tables.items():
            text += f'[[pool]]\nname = "{name}"\nendpoints = ["{url}"]\ntls = {{ {tls} }}\n'
            text += f'[[route]]\nname = "{name}"\npath = "/{name}"\npool = "{name}"\n'
        async with haproxy(text) as run:
            found = {name: (await run.ask(wire.get(f"/{name}"))).status for name in tables}
        assert found == {"good": 200, "stranger": 503, "misnamed": 503, "unverified": 200}
        subject = ("subjectAltName", (("DNS", "gateway.example"),))
        assert [each and subject in each.items() for each in shown] == [True, None]
        server.close()
