"""`FromDNS` against a name server of one's own on the loopback, on virtual time."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.balance.discovery import FromDNS
from tenfold.balance.happenings import DiscoveryFailed
from tenfold.testing import FakeClock

pytest.importorskip("dns")

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


class NameServer(asyncio.DatagramProtocol):
    """Answers from ``zone``: (name, kind) to (ttl, records); a name without any records does not exist."""

    def __init__(self, clock):
        self.zone = {}
        self.asked = []
        self.mode = "answer"
        self.clock = clock

    def connection_made(self, transport):
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((round(self.clock.monotonic(), 2), kind))
        if self.mode == "silent":
            return
        if self.mode == "garbage":
            self.transport.sendto(data[:2] + b"\xff" * 20, address)
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if self.mode == "refuse":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(response, name, kind)
        self.transport.sendto(response.to_wire(), address)

    def _fill(self, response, name, kind):
        if (name, "CNAME") in self.zone:
            ttl, (target,) = self.zone[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", target))
            name = target
        if (name, kind) in self.zone:
            ttl, records = self.zone[name, kind]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *records))


@asynccontextmanager
async def name_server(clock):
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(clock), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()


def source(server, clock, name="app.test.", **options):
    """A source that asks that server, and what it tells."""
    told = []
    hub = Hub()
    hub.subscribe(DiscoveryFailed, told.append)
    options = {"port": 8000, **options}
    if options.get("kind") == "SRV":
        del options["port"]
    made = FromDNS(
        name,
        servers=["127.0.0.1"],
        server_port=server.port,
        clock=clock,
        events=hub,
        random=lambda: 0.0,
        **options,
    )
    return made, told


def ids(found):
    return [each.id for each in found]


def later(seconds, server, ttl, address):
    asyncio.get_running_loop().call_later(seconds, server.zone.update, {("app.test.", "A"): (ttl, [address])})


def test_addresses_are_asked_anew_when_their_time_is_over(clock):
    async def main():
        async with name_server(clock) as server:
            server.zone = {("app.test.", "A"): (7, ["10.0.0.2", "10.0.0.1"])}
            made, told = source(server, clock)
            async with aclosing(made.changes()) as changes:
                first = await anext(changes)
                assert ids(first) == ["10.0.0.1:8000", "10.0.0.2:8000"]
                assert first[0].url == "http://10.0.0.1:8000"
                assert first[0].metadata == {"name": "app.test."}
                later(10, server, 60, "10.0.0.3")
                assert ids(await anext(changes)) == ["10.0.0.3:8000"]
                assert server.asked == [(0, "A"), (7, "A"), (14, "A")]
                later(1, server, 60, "10.0.0.4")
                assert ids(await anext(changes)) == ["10.0.0.4:8000"]
                assert server.asked[3:] == [(74, "A")]
            assert told == []

    clock.run(main())


@pytest.mark.parametrize(("name", "after"), [("app.test.", 5), ("storm.test.", 2), ("still.test.", 60)])
def test_the_least_time_along_a_chain_counts_within_bounds(clock, name, after):
    async def main():
        async with name_server(clock) as server:
            server.zone = {
                ("app.test.", "CNAME"): (5, ["real.test."]),
                ("real.test.", "A"): (600, ["10.0.0.1"]),
                ("storm.test.", "A"): (0, ["10.0.0.1"]),
                ("still.test.", "A"): (86400, ["10.0.0.1"]),
            }
            made, _ = source(server, clock, name, least="2s", most="60s")
            async with aclosing(made.changes()) as changes:
                assert ids(await anext(changes)) == ["10.0.0.1:8000"]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(after + 1):
                        await anext(changes)  # the same again is no change
            assert server.asked == [(0, "A"), (after, "A")]

    clock.run(main())


def test_both_families_and_one_is_enough(clock):
    async def main():
        async with name_server(clock) as server:
            server.zone = {("app.test.", "A"): (60, ["10.0.0.1"]), ("app.test.", "AAAA"): (60, ["fd00::1"])}
            made, _ = source(server, clock, kind="both", scheme="https")
            async with aclosing(made.changes()) as changes:
                found = await anext(changes)
            assert [each.url for each in found] == ["https://10.0.0.1:8000", "https://[fd00::1]:8000"]
            del server.zone["app.test.", "AAAA"]
            made, told = source(server, clock, kind="both")
            async with aclosing(made.changes()) as changes:
                assert ids(await anext(changes)) == ["10.0.0.1:8000"]
            assert told == []

    clock.run(main())


def test_srv_records_carry_port_weight_and_priority(clock):
    records = ["10 60 8001 a.test.", "10 0 8002 b.test.", "20 0 9000 c.test.", "20 0 9000 d.test."]

    async def main():
        async with name_server(clock) as server:
            server.zone = {("_http._tcp.test.", "SRV"): (60, records)}
            made, _ = source(server, clock, "_http._tcp.test.", kind="SRV")
            async with aclosing(made.changes()) as changes:
                return await anext(changes)

    found = clock.run(main())
    assert [(each.id, each.weight, each.priority) for each in found] == [
        ("a.test:8001", 60.0, 0),
        ("b.test:8002", 0.6, 0),
        ("c.test:9000", 1.0, 1),
        ("d.test:9000", 1.0, 1),
    ]
    assert found[0].url == "http://a.test:8001"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda server: server.zone.clear(), "there is no name app.test."),
        (lambda server: setattr(server, "zone", {("app.test.", "AAAA"): (60, ["::1"])}), "app.test. has no A records"),
        (lambda server: setattr(server, "mode", "silent"), "no answer from the name servers about app.test."),
        (lambda server: setattr(server, "mode", "garbage"), "app.test."),
        (lambda server: setattr(server, "mode", "refuse"), "app.test."),
    ],
    ids=["no name", "no record", "silent", "garbage", "refuse"],
)
def test_a_failure_keeps_the_old_set_is_told_once_and_asked_again(clock, spoil, why):
    async def main():
        async with name_server(clock) as server:
            server.zone = {("app.test.", "A"): (5, ["10.0.0.1"])}
            made, told = source(server, clock, timeout="1s")

            def heal():
                server.mode, server.zone = "answer", {("app.test.", "A"): (5, ["10.0.0.2"])}

            async with aclosing(made.changes()) as changes:
                assert ids(await anext(changes)) == ["10.0.0.1:8000"]
                spoil(server)
                asyncio.get_running_loop().call_later(20, heal)
                assert ids(await anext(changes)) == ["10.0.0.2:8000"]  # and nothing in between
            assert clock.monotonic() < 50
            assert len(told) == 1
            assert why in told[0].why
            assert made.failures >= 3
            assert made.problem == ""

    clock.run(main())


def test_a_service_that_is_decidedly_not_there(clock):
    async def main():
        async with name_server(clock) as server:
            server.zone = {("_x._tcp.test.", "SRV"): (1, ["0 0 0 ."])}
            made, told = source(server, clock, "_x._tcp.test.", kind="SRV")
            async with aclosing(made.changes()) as changes:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5):
                        await anext(changes)
            assert "decidedly not available" in told[0].why

    clock.run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "MX"},
        {"port": None},
        {"kind": "SRV"},
        {"port": 0},
        {"least": "10s", "most": "5s"},
        {"servers": ["not an address"]},
        {"name": "a..b"},
        {"timeout": 0},
    ],
)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="dns"):
        FromDNS(**{"name": "app.test", "port": 8000, **wrong})
