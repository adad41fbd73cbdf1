"""What a client transport tells the next service, by the transports of httpx2 itself (and httpx where it is)."""

import importlib
import importlib.util
import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.errors import DeadlineTooShort
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.transports import ResilientSyncTransport, ResilientTransport
from tenfold.resilience.wire import at_priority
from tenfold.testing import FakeClock

LIBRARIES = [name for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]


@pytest.fixture(params=LIBRARIES)
def library(request):
    return importlib.import_module(request.param)


@pytest.fixture
def clock():
    return FakeClock(start=100.0)


@pytest.fixture
def scope():
    token = SCOPE.set(SCOPE.get())
    yield SCOPE.set
    SCOPE.reset(token)


@pytest.fixture
def client(library, clock):
    """A client of that library over our transport, and what the transport beneath it was given."""
    sent = []

    def handle(request):
        sent.append(request)
        return library.Response(200)

    inner = library.MockTransport(handle)
    with library.Client(transport=ResilientSyncTransport(inner, clock=clock), base_url="http://shop.test") as client:
        client.sent = sent
        yield client


def ours(request):
    return {name: value for name, value in request.headers.items() if name.startswith("tenfold-")}


def test_without_a_scope_nothing_is_changed(client):
    client.get("/", timeout=7)
    assert ours(client.sent[0]) == {}
    assert set(client.sent[0].extensions["timeout"].values()) == {7}


def test_the_deadline_is_told_rounded_down_and_kept(client, scope):
    scope((101.23456, False))
    response = client.get("/", timeout=0.5)
    assert ours(client.sent[0]) == {"tenfold-timeout-ms": "1234"}
    assert set(client.sent[0].extensions["timeout"].values()) == {0.5}  # its own is shorter
    client.get("/", timeout=None)
    client.get("/", timeout=9)
    for request in client.sent[1:]:
        assert list(request.extensions["timeout"].values()) == pytest.approx([1.23456] * 4)
    assert ours(response.request) == {}  # the request itself is not touched: it may be sent again


def test_a_request_without_time_outs_gets_ours(library, clock, scope):
    sent = []
    transport = ResilientSyncTransport(
        library.MockTransport(lambda request: sent.append(request) or library.Response(200)), clock=clock
    )
    scope((100.5, False))
    transport.handle_request(library.Request("GET", "http://shop.test/"))
    assert sent[0].extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 0.5)


def test_the_same_request_sent_later_tells_what_is_left_then(library, client, clock, scope):
    scope((101.0, False))
    request = client.build_request("POST", "/pay", content=b"order")
    client.send(request)
    clock.jump(0.5)
    client.send(request)
    assert [ours(each)["tenfold-timeout-ms"] for each in client.sent] == ["1000", "500"]
    assert [each.content for each in client.sent] == [b"order", b"order"]
    assert [each.headers["content-length"] for each in client.sent] == ["5", "5"]


def test_retries_and_priorities_are_told(client, scope):
    scope((math.inf, True))
    with at_priority("batch"):
        client.get("/")
        client.get("/", headers={"Tenfold-Priority": "critical"})
    client.get("/")
    assert [ours(request) for request in client.sent] == [
        {"tenfold-retry": "caller", "tenfold-priority": "batch"},
        {"tenfold-retry": "caller", "tenfold-priority": "critical"},
        {"tenfold-retry": "caller"},
    ]


def test_a_shorter_time_set_by_hand_stays(client, scope):
    scope((102.0, False))
    client.get("/", headers={"Tenfold-Timeout-Ms": "300"})
    client.get("/", headers={"Tenfold-Timeout-Ms": "5000"})
    client.get("/", headers={"Tenfold-Timeout-Ms": "soon"})
    assert [ours(request)["tenfold-timeout-ms"] for request in client.sent] == ["300", "2000", "2000"]


@pytest.mark.parametrize("until", [0.0, 100.0, 100.0009])
def test_nothing_is_sent_when_nothing_is_left(client, scope, until):
    scope((until, False))
    with pytest.raises(DeadlineTooShort, match=r"GET shop.test: .* ms are left; the request was not sent"):
        client.get("/")
    assert client.sent == []


def test_a_margin_is_kept_back(library, clock, scope):
    sent = []
    inner = library.MockTransport(lambda request: sent.append(request) or library.Response(200))
    transport = ResilientSyncTransport(inner, margin="20ms", clock=clock)
    request = library.Request("GET", "http://shop.test/")
    scope((100.1, False))
    transport.handle_request(request)
    assert ours(sent[0]) == {"tenfold-timeout-ms": "79"}  # 100.1 - 100 is a little less than 0.1
    scope((100.0205, False))
    with pytest.raises(DeadlineTooShort, match=r"20.5 ms are left and 20 ms of them are kept back"):
        transport.handle_request(request)


async def test_the_asynchronous_one_does_the_same(library, clock, scope):
    sent, closed = [], []

    class Inner(library.AsyncBaseTransport):
        async def handle_async_request(self, request):
            sent.append(request)
            return library.Response(200)

        async def aclose(self):
            closed.append(True)

    scope((100.25, True))
    transport = ResilientTransport(Inner(), clock=clock)
    async with library.AsyncClient(transport=transport) as client:
        response = await client.post("http://shop.test/", content=b"x")
        clock.jump(0.25)
        with pytest.raises(DeadlineTooShort):
            await client.get("http://shop.test/")
    assert response.status_code == 200
    assert ours(sent[0]) == {"tenfold-timeout-ms": "250", "tenfold-retry": "caller"}
    assert len(sent) == 1
    assert closed == [True]
    assert repr(transport).startswith("ResilientTransport(<")


@pytest.mark.parametrize(
    ("kind", "method"), [(ResilientTransport, "handle_async_request"), (ResilientSyncTransport, "handle_request")]
)
def test_what_is_no_transport_is_refused_in_a_sentence(kind, method):
    with pytest.raises(MisuseError, match=rf"{kind.__name__}: expected a transport such as .*; it has no {method}"):
        kind("http://shop.test")
