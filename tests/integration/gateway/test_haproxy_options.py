"""What single options mean to HAProxy: picks, threads, the size of heads, the host endpoints see, both time-outs."""

import asyncio

from tenfold.gateway.config.engines import HAPROXY_PICKS


def named(name):
    """An answer that says who gave it."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()


async def test_every_pick_that_haproxy_has_is_carried_out(wire, haproxy):
    async with wire.Backend(named("a")) as a, wire.Backend(named("b")) as b:
        text = '[gateway]\nlisten = "127.0.0.1:0"\nprocesses = 2\nheader_max = "64 KiB"\n'
        for pick in HAPROXY_PICKS:
            text += f'[[pool]]\nname = "{pick}"\npick = "{pick}"\nendpoints = ['
            text += f'{{ id = "a", url = "{a.url}", weight = 3 }}, {{ id = "b", url = "{b.url}" }}]\n'
            text += f'[[route]]\nname = "{pick}"\npath = "/{pick}"\npool = "{pick}"\n'
        async with haproxy(text) as run:
            reader, writer = await run.connect()
            counts = {}
            for pick in HAPROXY_PICKS:
                got = []
                for _ in range(48):
                    writer.write(wire.get(f"/{pick}"))
                    got.append((await asyncio.wait_for(wire.read(reader), 8)).body)
                counts[pick] = got.count(b"a")
            writer.transport.abort()
            assert (counts["round_robin"], counts["weighted_round_robin"]) == (24, 36)
            assert counts["ip_hash"] in (0, 48)
            assert counts["ring_hash"] in (0, 48)  # by the client, where no key is said
            for pick, least, most in (("random", 8, 40), ("weighted_random", 22, 47), ("p2c", 12, 47)):
                assert least <= counts[pick] <= most, counts  # five standard deviations and more
            assert 24 <= counts["least_request"] <= 47
            info = await run.keeper.process.command("show info")
            assert "Nbthread: 2" in info
            assert (await run.ask(wire.get("/p2c", "X-Long: " + "x" * 50_000))).status == 200
            assert (await run.ask(wire.get("/p2c", "X-Long: " + "x" * 70_000))).status == 400


async def test_the_host_that_endpoints_see_and_the_longer_of_two_time_outs(wire, haproxy):
    async def halting(request, writer, reader):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.sleep(0.4)
        writer.write(b"k")

    async with wire.Backend(halting) as halts, wire.Backend() as backend:
        text = f"""
[gateway]
listen = "127.0.0.1:0"
request_id = "X-Own-Id"
[[pool]]
name = "own"
endpoints = ["{backend.url}"]
preserve_host = false
[[pool]]
name = "halts"
endpoints = ["{halts.url}"]
first_byte_timeout = "100ms"
body_timeout = "2s"
[[route]]
name = "own"
path = "/own"
pool = "own"
[[route]]
name = "halts"
pool = "halts"
"""
        async with haproxy(text) as run:
            await run.ask(wire.get("/own"))
            seen = backend.seen[-1]
            assert (seen.get("host"), seen.get("x-forwarded-host")) == (f"127.0.0.1:{backend.port}", "shop.example")
            assert len(seen.get("x-own-id")) == 36
            assert (await run.ask(wire.get("/"))).body == b"ok"
