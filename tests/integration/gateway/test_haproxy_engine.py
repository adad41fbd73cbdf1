"""The engine that is an HAProxy: what it does for requests, and what becomes of it while it runs."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import read_config
from tenfold.gateway.haproxy import HAProxyError

WITHIN = 8.0


@pytest.fixture
def haproxy(haproxy):
    """An HAProxy of a configuration; nothing of it is left afterwards."""

    @contextlib.asynccontextmanager
    async def started(text):
        async with haproxy(text) as run:
            yield run.gateway

    return started


async def processes(gateway):
    present, old = await gateway.keeper.process.workers()
    return [gateway.pid, *present, *old]


async def ask(wire, gateway, data, **how):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.addresses[0].port)
    try:
        writer.write(data)
        return await asyncio.wait_for(wire.read(reader, **how), WITHIN)
    finally:
        writer.transport.abort()


async def until(condition):
    async with asyncio.timeout(WITHIN):
        while not await condition():  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.02)


def named(name):
    """An answer that says who gave it."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nCache-Control: max-age=60\r\n\r\n{name}".encode()


async def call(gateway, method, **params):
    return (await gateway.call_all(method, params, timeout=WITHIN))[0]


async def test_what_a_route_says_of_its_requests_is_done(wire, haproxy):
    more = """
[[pool]]
name = "new"
endpoints = ["{url}"]
[[route]]
name = "answer"
path = "/answer"
respond = {{ status = 418, body = "tea" }}
response_headers = {{ set = {{ X-Own = "a  b" }} }}
[[route]]
name = "moved"
path = "/moved"
redirect = "https://{{host}}/new{{path}}{{query}}"
[[route]]
name = "small"
path = "/small"
pool = "app"
body_max = 4
[[route]]
name = "limited"
path = "/limited"
pool = "app"
rate_limit = {{ rate = "1/m", burst = 2 }}
limit_by = "header:X-User"
[[route]]
name = "cut"
path = "/cut"
pool = "app"
strip_prefix = true
deadline = "200ms"
request_headers = {{ remove = ["X-Gone"], set = {{ X-Set = "100% {{it}}" }}, add = {{ X-More = "1" }} }}
response_headers = {{ set = {{ X-Answer = "yes" }} }}
[[route]]
name = "canary"
path = "/canary"
pool = "app"
canary = {{ pool = "new", weight = 0.5, header = "X-Canary", by = "header:X-User" }}
[[route]]
name = "kept"
path = "/kept"
pool = "app"
edge = {{ ttl = "1m" }}
"""
    async with wire.Backend(named("old")) as old, wire.Backend(named("new")) as new:  # noqa: SIM117 - it needs them
        async with haproxy(wire.toml(old.url, more=more.format(url=new.url))) as gateway:
            answer = await ask(wire, gateway, wire.get("/answer"))
            assert (answer.status, answer.body, answer.get("x-own")) == (418, b"tea", "a  b")
            answer = await ask(wire, gateway, wire.get("/moved/x?a=1"))
            assert (answer.status, answer.get("location")) == (308, "https://shop.example/new/moved/x?a=1")
            assert (await ask(wire, gateway, wire.post(b"1234", path="/small"))).status == 200
            answer = await ask(wire, gateway, wire.post(b"12345", path="/small"))
            assert (answer.status, json.loads(answer.body)["limit"]) == (413, "route.body_max")
            chunked = wire.get("/small", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n0\r\n\r\n"
            assert (await ask(wire, gateway, chunked)).status == 411
            found = [(await ask(wire, gateway, wire.get("/limited", "X-User: a"))).status for _ in range(4)]
            assert found == [200, 200, 429, 429]
            assert (await ask(wire, gateway, wire.get("/limited", "X-User: b"))).status == 200
            answer = await ask(wire, gateway, wire.get("/cut/a?b=1", "X-Gone: 1", "X-Set: 0", "X-More: 0"))
            assert answer.get("x-answer") == "yes"
            seen = old.seen[-1]
            assert seen.start == b"GET /a?b=1 HTTP/1.1"
            assert seen.fields[b"x-more"] == [b"0", b"1"]
            assert (seen.get("x-gone"), seen.get("x-set")) == (None, "100% {it}")
            assert (seen.get("x-forwarded-prefix"), seen.get("tenfold-timeout-ms")) == ("/cut", "200")
            for side in ("always", "never"):
                answer = await ask(wire, gateway, wire.get("/canary", f"X-Canary: {side}"))
                assert answer.body == (b"new" if side == "always" else b"old")
            sides = {}
            for user in [*range(24), *range(24)]:
                got = (await ask(wire, gateway, wire.get("/canary", f"X-User: u{user}"))).body
                assert sides.setdefault(user, got) == got
            assert set(sides.values()) == {b"old", b"new"}
            before = len(old.seen)
            assert [(await ask(wire, gateway, wire.get("/kept"))).body for _ in range(3)] == [b"old"] * 3
            assert len(old.seen) == before + 1
            answer = await ask(wire, gateway, wire.get("/cut/../x"))
            assert (answer.status, json.loads(answer.body)["reason"]) == (400, "dot_segments")
            assert (await call(gateway, "explain", url="/kept/x"))["route"] == "kept"
            with pytest.raises(MisuseError, match="has no purge"):
                await call(gateway, "purge", all=True)


async def test_what_strangers_say_of_the_client_is_dropped_and_what_trusted_hops_say_is_kept(wire, haproxy, tmp_path):
    claims = ("X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "X-Request-Id: mine", "X-Real-IP: 1.1.1.1")
    trace = "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with wire.Backend() as backend:
        async with haproxy(wire.toml(backend.url)) as gateway:
            await ask(wire, gateway, wire.get("/", *claims, trace))
            seen = backend.seen[-1]
            assert seen.fields[b"x-forwarded-for"] == [b"127.0.0.1"]
            assert seen.get("forwarded") == 'proto=http;host="shop.example";for=127.0.0.1'
            assert (seen.get("x-real-ip"), seen.get("traceparent")) == (None, trace.partition(": ")[2])
            assert seen.get("x-request-id") not in (None, "mine")
        trusting = 'trusted = ["127.0.0.0/8"]\nrequest_id = "X-Id"\naccess_log = "{log}"\nforwarded = "x-forwarded"'
        log = tmp_path / "access.log"
        async with haproxy(wire.toml(backend.url, gateway=trusting.format(log=log))) as gateway:
            await ask(wire, gateway, wire.get('/"x', claims[0], "X-Id: mine"))
            seen = backend.seen[-1]
            assert seen.fields[b"x-forwarded-for"] == [b"203.0.113.9", b"127.0.0.1"]
            assert (seen.get("x-id"), seen.get("forwarded")) == ("mine", None)
        line = json.loads(log.read_text())
        told = {name: line[name] for name in ("client", "method", "target", "host", "status", "route")}
        assert told == {"client": "203.0.113.9", "method": "GET", "target": '/"x', "host": "shop.example",
                        "status": 200, "route": "all"}  # fmt: skip


async def test_a_get_is_tried_elsewhere_and_a_post_is_never_sent_twice(wire, haproxy):
    async def gone(request, writer, reader):
        return False

    async with wire.Backend(gone) as broken, wire.Backend(named("ok")) as well:
        text = wire.toml(broken.url, well.url, pool='pick = "round_robin"', route="retries = 3")
        async with haproxy(text) as gateway:
            assert [(await ask(wire, gateway, wire.get())).status for _ in range(4)] == [200] * 4
            before = len(broken.seen), len(well.seen)
            found = [(await ask(wire, gateway, wire.post(b"x"))).status for _ in range(6)]
            assert set(found) == {200, 502}
            assert (len(broken.seen) - before[0], len(well.seen) - before[1]) == (found.count(502), found.count(200))


async def test_full_endpoints_queue_and_then_refuse(wire, haproxy):
    free = asyncio.Event()

    async def waits(request, writer, reader):
        await free.wait()
        writer.write(wire.OK)

    async with wire.Backend(waits) as backend:
        pool = 'max_in_flight = 1\nqueue = 1\nqueue_timeout = "5s"'
        async with haproxy(wire.toml(backend.url, pool=pool)) as gateway:
            first = asyncio.create_task(ask(wire, gateway, wire.get()))
            await asyncio.wait_for(backend.arrived.wait(), WITHIN)
            second = asyncio.create_task(ask(wire, gateway, wire.get()))

            async def queued():
                return (await call(gateway, "state"))["pools"]["app"]["queued"] == 1

            await until(queued)
            third = await ask(wire, gateway, wire.get())
            assert (third.status, json.loads(third.body)["reason"]) == (503, "queue_full")
            free.set()
            assert [(await first).status, (await second).status] == [200, 200]


async def test_rolling_replacement_and_five_reloads_under_load_lose_nothing(wire, haproxy):
    async with contextlib.AsyncExitStack() as stack:
        old = [await stack.enter_async_context(wire.Backend(named(f"old{n}"))) for n in range(2)]
        new = [await stack.enter_async_context(wire.Backend(named(f"new{n}"))) for n in range(2)]

        def text(*backends):
            urls = ", ".join(f'{{ id = "{id}", url = "{each.url}" }}' for id, each in backends)
            return wire.toml(route="retries = 3").replace("endpoints = []", f"endpoints = [{urls}]")

        a, b, c, d = ("a", old[0]), ("b", old[1]), ("c", new[0]), ("d", new[1])
        gateway = await stack.enter_async_context(haproxy(text(a, b)))
        bad, count, over = [], [0], asyncio.Event()

        async def load(keep):
            peer = None
            while not over.is_set():
                try:
                    if peer is None:
                        peer = await asyncio.open_connection("127.0.0.1", gateway.addresses[0].port)
                    peer[1].write(wire.get())
                    answer = await asyncio.wait_for(wire.read(peer[0]), WITHIN)
                    count[0] += 1
                    if answer.status != 200:
                        bad.append(answer.start)
                    if not keep or answer.get("connection") == "close":
                        peer[1].close()
                        peer = None
                except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
                    bad.append(repr(exc))
                    peer = None
            if peer is not None:
                peer[1].close()

        tasks = [asyncio.create_task(load(n % 2)) for n in range(6)]
        for stage in ((a, b, c), (b, c, d), (c, d), (d, c), (c, d)):
            await gateway.reload(read_config(text(*stage), engine="haproxy"))
            goal = count[0] + 60

            async def served(goal=goal):
                return count[0] >= goal

            await until(served)
        seen = [len(each.seen) for each in old]
        over.set()
        await asyncio.gather(*tasks)
        assert bad == []
        assert count[0] > 300
        assert [len(each.seen) for each in old] == seen
        metrics = (await call(gateway, "metrics"))["metrics"]
        total = next(each for each in metrics if each["name"] == "tenfold_gateway_requests_total")
        assert total["value"] == count[0]
        assert total["labels"] == {"pool": "app", "route": "all"}
        assert next(each["value"] for each in metrics if each["name"] == "tenfold_gateway_reloads_total") == 5


async def test_drains_and_weights_outlive_a_reload_and_are_put_right(wire, haproxy):
    async with wire.Backend(named("a")) as a, wire.Backend(named("b")) as b:
        urls = f'endpoints = [{{ id = "a", url = "{a.url}" }}, {{ id = "b", url = "{b.url}" }}]'
        text = wire.toml(pool='pick = "weighted_round_robin"').replace("endpoints = []", urls)
        text += '[engine]\nname = "haproxy"\nreconcile = "50ms"\n'
        async with haproxy(text) as gateway:
            assert (await call(gateway, "endpoint", pool="app", id="a", drain=True))["state"] == "drain"
            await gateway.reload(read_config(text.replace('name = "all"', 'name = "every"')))
            assert {(await ask(wire, gateway, wire.get())).body for _ in range(6)} == {b"b"}
            await call(gateway, "endpoint", pool="app", id="a", ready=True, weight=3)
            got = [(await ask(wire, gateway, wire.get())).body for _ in range(8)]
            assert got.count(b"a") == 6
            await gateway.keeper.process.command("set server pool.app/b state maint")

            async def again():
                return (await call(gateway, "state"))["pools"]["app"]["endpoints"]["b"]["status"] != "MAINT"

            await until(again)
            with pytest.raises(MisuseError, match="expected one of a, b"):
                await call(gateway, "endpoint", pool="app", id="c", drain=True)


def spoil(path):
    """Make it a file that HAProxy refuses."""
    Path(path).write_text("global\n  no such thing\n")


async def test_a_bad_file_leaves_the_old_worker_serving(wire, haproxy):
    async with wire.Backend() as backend:
        text = wire.toml(backend.url)
        async with haproxy(text) as gateway:
            workers = await processes(gateway)
            certificate = 'tls = { certificate = "/nowhere.pem", key = "/nowhere.key" }'
            with pytest.raises(OSError, match="nowhere"):
                await gateway.reload(read_config(wire.toml(backend.url, gateway=certificate), engine="haproxy"))
            spoil(gateway.keeper.process.file)
            with pytest.raises(HAProxyError, match="did not reload"):
                await gateway.keeper.process.reload()
            assert (await ask(wire, gateway, wire.get())).status == 200
            assert set(await processes(gateway)) & set(workers)
            await gateway.reload(read_config(text.replace('name = "all"', 'name = "every"'), engine="haproxy"))
            assert (await ask(wire, gateway, wire.get())).status == 200


@pytest.mark.parametrize("victim", ["worker", "master"])
async def test_a_killed_haproxy_is_started_again(wire, haproxy, victim):
    async with wire.Backend() as backend:
        text = wire.toml(backend.url) + '[engine]\nname = "haproxy"\nreconcile = "50ms"\n'
        async with haproxy(text) as gateway:
            master, worker = await processes(gateway)
            assert (await ask(wire, gateway, wire.get())).status == 200
            await call(gateway, "state")
            os.kill(worker if victim == "worker" else master, signal.SIGKILL)

            async def again():
                return gateway.state()["counters"]["restarts"] == 1

            await until(again)
            assert (await ask(wire, gateway, wire.get())).status == 200
            assert (await call(gateway, "state"))["counters"]["requests"] == 2


async def test_draining_lets_requests_end_and_cuts_them_at_the_deadline(wire, haproxy):
    free = asyncio.Event()

    async def waits(request, writer, reader):
        await free.wait()
        writer.write(wire.OK)

    async with wire.Backend(waits) as backend:
        async with haproxy(wire.toml(backend.url)) as gateway:
            request = asyncio.create_task(ask(wire, gateway, wire.get()))
            await asyncio.wait_for(backend.arrived.wait(), WITHIN)
            draining = asyncio.create_task(gateway.drain())
            await asyncio.sleep(0.1)
            free.set()
            assert (await request).status == 200
            assert await draining is True
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", gateway.addresses[0].port)
        free.clear()
        backend.arrived.clear()
        async with haproxy(wire.toml(backend.url)) as gateway:
            request = asyncio.create_task(ask(wire, gateway, wire.get()))
            await asyncio.wait_for(backend.arrived.wait(), WITHIN)
            assert await gateway.drain("100ms") is False
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await request


async def test_tls_http2_proxy_protocol_and_unix_sockets(wire, haproxy, tmp_path):
    import trustme

    authority = trustme.CA()
    for host in ("shop.example", "other.example"):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(tmp_path / f"{host}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{host}.pem")
    tables = ", ".join(
        f'{{ certificate = "{tmp_path}/{host}.pem", key = "{tmp_path}/{host}.key", names = ["{host}"] }}'
        for host in ("shop.example", "other.example")
    )
    more = f"tls = [{tables}]\nhttp2 = true\nproxy_protocol = true"
    async with wire.Backend() as backend:
        text = wire.toml(backend.url, gateway=more).replace(
            'listen = "127.0.0.1:0"', f'listen = ["127.0.0.1:0", "unix:{tmp_path}/s"]'
        )
        async with haproxy(text) as gateway:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            context.set_alpn_protocols(["h2", "http/1.1"])
            for host, offer in (("shop.example", "h2"), ("other.example", "http/1.1")):
                context.set_alpn_protocols([offer])
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.addresses[0].port)
                writer.write(b"PROXY TCP4 203.0.113.7 127.0.0.1 1000 443\r\n")
                await writer.start_tls(context, server_hostname=host)
                assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == offer
                if offer == "http/1.1":
                    writer.write(wire.get())
                    assert (await asyncio.wait_for(wire.read(reader), WITHIN)).status == 200
                    seen = backend.seen[-1]
                    assert (seen.get("x-forwarded-for"), seen.get("x-forwarded-proto")) == ("203.0.113.7", "https")
                writer.transport.abort()
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
            writer.write(wire.get())
            assert (await asyncio.wait_for(wire.read(reader), WITHIN)).status == 200
            seen = backend.seen[-1]
            assert (seen.get("x-forwarded-for"), seen.get("x-forwarded-proto")) == (None, "http")
            writer.transport.abort()
        assert not (tmp_path / "s").exists()
