"""The engine's short ways change nothing: the same bytes to endpoints and clients, and the same counts, as without.

The protocols are called here as a loop calls them, with transports that keep what is written, because no socket lets a
test say how the bytes are cut.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.gateway.config import read_config
from tenfold.gateway.engine.client_side import Client
from tenfold.gateway.engine.plan import Plan
from tenfold.gateway.engine.site import Site
from tenfold.gateway.engine.upstream import UpstreamConnection

PEERS = ("192.0.2.1", "198.51.100.7", "10.0.0.9")

ROUTES = [
    "",
    "retries = 3",
    'deadline = "30s"',
    "retry_statuses = [503]\nretries = 2",
    'response_headers = { set = { "X-Set" = "1" } }',
    'request_headers = { set = { "X-Set" = "1", "Host" = "inner.example" } }',
    "edge = true",
]
GATEWAYS = ['trusted = ["10.0.0.0/8"]', 'forwarded = "both"\nrequest_id = "X-Correlation-Id"']
FIELDS = [
    ["Host: a.example"],
    ["Host: a.example", "Cookie: a=b", "Accept: */*", "Connection: keep-alive"],
    ["Host: b.example:80", "X-Forwarded-For: 203.0.113.5", "X-Request-Id: mine", "Tenfold-Timeout-Ms: 9000"],
    ["Host: a.example", "Connection: close"],
]
METHODS = ["GET", "GET", "GET", "HEAD", "DELETE", "POST", "OLD"]
"""OLD: GET of HTTP/1.0, with a connection that is to be kept."""
ANSWERS = [
    ("200 OK", ["Server: x", "Content-Length: 5"], b"hello"),
    ("200 OK", ["Content-Length: 5", "Connection: keep-alive", "Keep-Alive: timeout=5"], b"hello"),
    ("200 OK", ["content-length: 9000", "connection: keep-alive", "cache-control: max-age=60"], b"x" * 9000),
    ("404 Not Found", ["Content-Length: 0", "X-Request-Id: theirs", "Via: 1.1 x"], b""),
    ("503 Busy", ["Content-Length: 4"], b"busy"),
    ("304 Not Modified", ["ETag: a"], b""),
    ("204 No Content", ["Content-Length: 0"], b""),
    ("200 OK", ["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ("200 OK", ["Connection: close", "Content-Length: 2"], b"ok"),
    ("200 OK", ["Connection: X-Hop", "X-Hop: 1", "Content-Length: 2"], b"ok"),
    ("200 OK", ["Content-Length: 2", "Content-Length: 2"], b"ok"),
    ("200 OK", ["Content-Length: 2"], b"ok, and what nobody asked for"),
]
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 2]),
        st.sampled_from([0, 1, 1, 1, 2, 3]),
        st.sampled_from(METHODS),
        st.integers(0, len(ANSWERS) - 1),
        st.integers(1, 60),
        st.booleans(),
    ),
    max_size=12,
)


class Transport:
    """Keeps what is written."""

    def __init__(self):
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True

    close = write_eof = abort

    def can_write_eof(self):
        return False

    def pause_reading(self):
        pass

    resume_reading = pause_reading

    def take(self):
        data, self.written = self.written, b""
        return data


def toml(route, gateway):
    return f"""
[gateway]
listen = "127.0.0.1:0"
{gateway}
[[pool]]
name = "app"
endpoints = ["http://192.0.2.99:8000"]
[[route]]
name = "all"
pool = "app"
{route}
"""


class World:
    """A gateway without sockets: some clients, and connections to one endpoint that are there when they are needed."""

    def __init__(self, route, *, cut):
        self.route = route
        self.cut = cut
        self.site = Site(read_config(toml(route, GATEWAYS[0]), environ={}))
        self.site.random.seed(1)
        self.site.clock = self.site.wall = lambda: 1000.0
        self.site.now = 1000.0
        self.clients = [self.client(peer) for peer in PEERS]

    def client(self, peer):
        made = Client(self.site, peer=peer)
        made.connection_made(Transport())
        return made

    def step(self, who, fields, method, answer, place, reload):
        """What the endpoint got and the client was answered."""
        site = self.site
        if reload:
            site.plan = Plan(site, read_config(toml(self.route, GATEWAYS[1]), environ={}), site.plan)
        client = self.clients[who]
        if client.transport.closed:
            client.connection_lost(None)
            client = self.clients[who] = self.client(PEERS[who])
        body = "Content-Length: 2\r\n" if method == "POST" else ""
        start = f"GET /{place} HTTP/1.0\r\nConnection: keep-alive" if method == "OLD" else f"{method} /{place} HTTP/1.1"
        raw = "\r\n".join([start, *FIELDS[fields], body]).encode()
        raw += b"\r\nok" if body else b"\r\n"
        (endpoint,) = site.plan.pools["app"].balancer.endpoints
        upstream = site.plan.pools["app"].upstream(endpoint)
        connection = next((each for each in upstream.idle), None)
        if connection is None:
            connection = UpstreamConnection(upstream)
            connection.connection_made(Transport())
            upstream.put(connection)
        if self.cut:
            client._links = (None, None)  # nothing of it is known
        self.deliver(client.data_received, raw, place)
        site.flush()
        asked = connection.transport.take()
        if asked:
            status, lines, text = ANSWERS[answer]
            text = b"" if method == "HEAD" else text
            told = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + text
            self.deliver(lambda data: connection.open and connection.data_received(data), told, place)
            site.flush()
        return asked, client.transport.take(), client.transport.closed

    def deliver(self, to, raw, place):
        """The head in one piece, or cut; a long body in two."""
        mark = min(place, raw.find(b"\r\n\r\n")) if self.cut else 0
        end = len(raw) - 100 if len(raw) > 1000 else len(raw)
        for piece in (raw[:mark], raw[mark:end], raw[end:]):
            if piece:
                to(piece)

    def counts(self):
        site = self.site
        (balancer,) = (pool.balancer for pool in site.plan.pools.values())
        (plan,) = site.plan.routes.values()
        (pool,) = site.plan.pools.values()
        return (
            site.counters.state(),
            balancer.counters.state(),
            plan.answers,
            sum(pool.times.counts),
            balancer.in_flight,
        )


@settings(max_examples=100, deadline=None)
@given(route=st.sampled_from(ROUTES), steps=steps)
def test_the_short_ways_change_nothing(route, steps) -> None:
    async def played():
        one, other = World(route, cut=False), World(route, cut=True)
        for number, (*step, reload) in enumerate(steps):
            short, long = (each.step(*step, reload and number > 4) for each in (one, other))
            assert short == long
            asked = short[0]
            for peer in PEERS:
                assert (peer.encode() in asked) <= (peer == PEERS[step[0]])
        assert one.counts() == other.counts()
        for each in (one, other):
            for client in each.clients:
                client.connection_lost(None)
            assert each.counts()[0]["in_flight"] == each.counts()[-1] == 0

    asyncio.run(played())
