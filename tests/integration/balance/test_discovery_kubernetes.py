"""`FromKubernetes` against an API served locally, in the form that Kubernetes has recorded in its documentation."""

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
from contextlib import aclosing, asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.balance.discovery import FromKubernetes
from tenfold.balance.happenings import DiscoveryFailed
from tenfold.testing import FakeClock

pytest.importorskip("httpx2")


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


def pod(name, address, *, ready=True, serving=None, terminating=None, zone="eu-1a"):
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
        "nodeName": f"node-{zone}",
        "targetRef": {"kind": "Pod", "name": name, "namespace": "shop", "uid": "6b3f8b9c"},
        "zone": zone,
    }


def slice_of(name, version, *pods, ports=(("http", 8080),), family="IPv4"):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": "checkout"},
        },
        "addressType": family,
        "endpoints": list(pods) or None,
        "ports": [{"name": port, "port": number, "protocol": "TCP"} for port, number in ports],
    }


def page(version, *slices, following=""):
    metadata = {"resourceVersion": version, **({"continue": following} if following else {})}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": metadata, "items": slices}


def change(kind, thing):
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version):
    return change("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": version}})


ERROR_410 = change("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"})


class Api:
    """Gives one answer after the other: a list (dict), a status (int), or the parts of a watch (list).

    In a watch, bytes are sent, a number is waited for, and "hang" keeps the connection open.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.connections = set()

    async def handle(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    await self.answer(head, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.connections.discard(asyncio.current_task())
            writer.close()

    async def answer(self, head, writer):
        target = head.split(" ")[1]
        query = {key: value[0] for key, value in parse_qs(urlsplit(target).query).items()}
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        self.asked.append((urlsplit(target).path, query, fields))
        answer = self.answers.pop(0) if self.answers else ["hang"]
        if isinstance(answer, list):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            for part in answer:
                if part == "hang":
                    await asyncio.Event().wait()
                elif part == "cut":
                    writer.transport.abort()
                elif isinstance(part, bytes):
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await writer.drain()
                else:
                    await asyncio.sleep(part)
            writer.write(b"0\r\n\r\n")
        else:
            status, body = (
                (200, answer) if isinstance(answer, dict) else (answer, {"code": answer, "message": "so it is"})
            )
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))
        await writer.drain()

    def watches(self):
        """The versions from which watches were begun; None for a list."""
        return [query.get("resourceVersion") if "watch" in query else None for _, query, _ in self.asked]


@asynccontextmanager
async def serving(api, tls=None):
    server = await asyncio.start_server(api.handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        tasks = list(api.connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)


def source(url, clock, **options):
    told = []
    hub = Hub()
    hub.subscribe(DiscoveryFailed, told.append)
    options = {"token": None, "ca": None, "namespace": "shop", **options}
    return FromKubernetes("checkout", api=url, clock=clock, events=hub, random=lambda: 0.0, **options), told


def follow(clock, api, count, **options):
    """The first ``count`` sets, as they came, with the source and what it told."""
    given = []

    async def main():
        async with serving(api) as url:
            made, told = source(url, clock, **options)
            async with aclosing(made.changes()) as changes:
                while len(given) < count:
                    given.append(await anext(changes))
            return made, told

    made, told = clock.run(main())
    return given, made, told


def ids(sets):
    return [[each.id for each in found] for found in sets]


def test_lists_all_pages_and_asks_for_the_one_service(clock):
    api = Api(
        page("100", slice_of("s-1", "90", pod("web-0", "10.1.0.4")), following="more"),
        page("100", slice_of("s-2", "95", pod("web-1", "10.1.0.5", zone="eu-1b"))),
    )
    (found,), _, told = follow(clock, api, 1)
    assert [(each.id, each.url, each.zone, dict(each.metadata)) for each in found] == [
        ("web-0", "http://10.1.0.4:8080", "eu-1a", {"node": "node-eu-1a"}),
        ("web-1", "http://10.1.0.5:8080", "eu-1b", {"node": "node-eu-1b"}),
    ]
    path, query, _ = api.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
    assert query == {"labelSelector": "kubernetes.io/service-name=checkout", "limit": "500"}
    assert api.asked[1][1]["continue"] == "more"
    assert told == []


def test_follows_what_is_added_modified_and_deleted(clock):
    api = Api(
        page("100", slice_of("s-1", "90", pod("web-0", "10.1.0.4"))),
        [
            change("ADDED", slice_of("s-2", "101", pod("web-1", "10.1.0.5"))),
            0.5,
            change("MODIFIED", slice_of("s-1", "102", pod("web-0", "10.1.0.4", ready=False))),
            0.5,
            change("MODIFIED", slice_of("s-1", "103", pod("web-0", "10.1.0.9"))),  # moved, and still itself
            0.5,
            change("DELETED", slice_of("s-2", "104")),
            0.5,
            change("DELETED", slice_of("s-1", "105")),
            "hang",
        ],
    )
    sets, _, told = follow(clock, api, 6)
    assert ids(sets) == [["web-0"], ["web-0", "web-1"], ["web-1"], ["web-0", "web-1"], ["web-0"], []]
    assert sets[3][0].url == "http://10.1.0.9:8080"
    assert told == []


def test_a_change_cut_into_pieces_and_several_at_once(clock):
    line = change("ADDED", slice_of("s-2", "101", pod("web-1", "10.1.0.5")))
    both = line + change("ADDED", slice_of("s-3", "102", pod("web-2", "10.1.0.6")))
    api = Api(page("100"), [line[:30], 0.2, line[30:-1], 0.2, both[len(line) - 1 :], "hang"])
    sets, _, _ = follow(clock, api, 3)
    assert ids(sets) == [[], ["web-1"], ["web-1", "web-2"]]


@pytest.mark.parametrize(
    ("pods", "used"),
    [
        ([{"ready": True}, {"ready": False}], ["p0"]),
        ([{"ready": None}], ["p0"]),  # not known means ready
        ([{"ready": False, "serving": True, "terminating": True}, {"ready": True}], ["p1"]),
        ([{"ready": False, "serving": True, "terminating": True}, {"ready": False}], ["p0"]),  # all of them end
        ([{"ready": False, "serving": False, "terminating": True}], []),
        ([{"ready": False, "serving": True}], []),
    ],
)
def test_conditions(clock, pods, used):
    made = [pod(f"p{number}", f"10.1.0.{number}", **conditions) for number, conditions in enumerate(pods)]
    sets, _, _ = follow(clock, Api(page("1", slice_of("s", "1", *made))), 1)
    assert ids(sets) == [used]


def test_an_endpoint_in_two_slices_is_taken_once_and_the_other_family_is_not(clock):
    api = Api(
        page(
            "1",
            slice_of("s-1", "1", pod("web-0", "10.1.0.4")),
            slice_of("s-2", "1", pod("web-0", "10.1.0.4")),
            slice_of("s-6", "1", pod("web-0", "fd00::4"), family="IPv6"),
        )
    )
    sets, _, _ = follow(clock, api, 1)
    assert [each.url for each in sets[0]] == ["http://10.1.0.4:8080"]
    api = Api(page("1", slice_of("s-6", "1", pod("web-0", "fd00::4"), family="IPv6")))
    sets, _, _ = follow(clock, api, 1, family="IPv6", scheme="https")
    assert [each.url for each in sets[0]] == ["https://[fd00::4]:8080"]


@pytest.mark.parametrize("port", ["metrics", 9090])
def test_one_of_several_ports(clock, port):
    two = slice_of("s", "1", pod("web-0", "10.1.0.4"), ports=(("http", 8080), ("metrics", 9090)))
    sets, _, _ = follow(clock, Api(page("1", two)), 1, port=port)
    assert sets[0][0].url == "http://10.1.0.4:9090"


def test_several_ports_and_none_named_is_told(clock):
    two = slice_of("s", "1", pod("web-0", "10.1.0.4"), ports=(("http", 8080), ("metrics", 9090)))
    one = slice_of("s", "2", pod("web-0", "10.1.0.4"))
    sets, _, told = follow(clock, Api(page("1", two), [change("MODIFIED", one), "hang"]), 1)
    assert ids(sets) == [["web-0"]]
    assert [each.why for each in told] == [
        "kubernetes shop/checkout has several ports (http, metrics); say which by `port=`"
    ]


def test_a_watch_that_ends_goes_on_from_the_last_version(clock):
    api = Api(
        page("100"),
        [2.0, change("ADDED", slice_of("s-1", "107", pod("web-0", "10.1.0.4"))), bookmark("150")],
        [1.5],
        [change("ADDED", slice_of("s-2", "160", pod("web-1", "10.1.0.5"))), "hang"],
    )
    sets, made, told = follow(clock, api, 3)
    assert ids(sets) == [[], ["web-0"], ["web-0", "web-1"]]
    assert api.watches() == [None, "100", "150", "150"]
    assert told == []
    assert (made.lists, made.watches) == (1, 3)
    assert api.asked[1][1]["allowWatchBookmarks"] == "true"
    assert api.asked[1][1]["timeoutSeconds"] == "120"


@pytest.mark.parametrize("gone", [410, [bookmark("101"), ERROR_410]], ids=["status", "within the stream"])
def test_410_lists_again_and_is_no_failure(clock, gone):
    api = Api(
        page("100", slice_of("s-1", "90", pod("web-0", "10.1.0.4"))),
        gone,
        page("200", slice_of("s-2", "190", pod("web-1", "10.1.0.5"))),  # s-1 went while nobody looked
    )
    sets, made, told = follow(clock, api, 2)
    assert ids(sets) == [["web-0"], ["web-1"]]
    assert api.watches()[2] is None
    assert (made.lists, told) == (2, [])


def test_410_over_and_over_makes_no_storm(clock):
    api = Api(
        *[page("100") if number % 2 == 0 else 410 for number in range(12)],
        page("1", slice_of("s", "1", pod("p", "10.1.0.1"))),
    )
    sets, made, _ = follow(clock, api, 2)
    assert ids(sets) == [[], ["p"]]
    assert made.lists == 7
    assert clock.monotonic() >= 1 + 2 + 4 + 8 + 16


def test_watches_that_end_at_once_make_no_storm(clock):
    api = Api(page("100"), *[[] for _ in range(5)], [change("ADDED", slice_of("s", "1", pod("p", "10.1.0.1"))), "hang"])
    sets, _, _ = follow(clock, api, 2)
    assert ids(sets) == [[], ["p"]]
    assert clock.monotonic() >= 1 + 2 + 4 + 8


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (403, "the API answered 403 so it is; give the service account `list` and `watch` of `endpointslices`"),
        (500, "the API answered 500 so it is"),
        ([change("ERROR", {"code": 500, "message": "etcd is away"})], "the watch ended with 500: etcd is away"),
        ([bookmark("101"), "cut"], "cannot talk to"),
        ([b"not json\n"], "the API sent what cannot be read"),
        ([change("ADDED", {"metadata": {"name": 7}})], "the API sent what cannot be read"),
        (["hang"], "cannot talk to"),
    ],
    ids=["403", "500", "error", "cut", "garbage", "wrong form", "frozen"],
)
def test_a_watch_that_fails_keeps_the_set_and_is_begun_again(clock, bad, why):
    first = page("100", slice_of("s-1", "90", pod("web-0", "10.1.0.4")))
    news = slice_of("s-1", "200", pod("web-1", "10.1.0.5"))
    # After what leaves open what was missed it lists again, else it goes on watching: both find the news.
    again = (
        page("200", news) if why.startswith(("the API sent", "the watch ended")) else [change("MODIFIED", news), "hang"]
    )
    api = Api(first, bad, again)
    sets, made, told = follow(clock, api, 2)
    assert ids(sets) == [["web-0"], ["web-1"]]
    assert len(told) == 1
    assert told[0].why.startswith(why)
    assert made.failures == 1
    assert clock.monotonic() >= 1


def test_an_api_that_is_away_at_the_start_is_tried_less_and_less_often(clock):
    api = Api(500, 500, 500, 500, page("1", slice_of("s", "1", pod("p", "10.1.0.1"))))
    sets, made, told = follow(clock, api, 1)
    assert ids(sets) == [["p"]]
    assert made.failures == 4
    assert [each.failures for each in told] == [1]
    assert 15 <= clock.monotonic() < 20


def test_the_token_is_read_at_every_request(clock, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    api = Api(page("100"), [1.5], [change("ADDED", slice_of("s", "1", pod("p", "10.1.0.1"))), "hang"])

    async def main():
        async with serving(api) as url:
            made, _ = source(url, clock, token=token)
            async with aclosing(made.changes()) as changes:
                await anext(changes)
                asyncio.get_running_loop().call_later(1, token.write_text, "second")
                await anext(changes)

    clock.run(main())
    assert [fields["Authorization"] for _, _, fields in api.asked] == ["Bearer first", "Bearer first", "Bearer second"]


def test_a_token_that_is_gone_is_a_failure(clock, tmp_path):
    async def main():
        async with serving(Api()) as url:
            made, told = source(url, clock, token=tmp_path / "token")
            async with aclosing(made.changes()) as changes:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5):
                        await anext(changes)
            assert "cannot read the token" in told[0].why

    clock.run(main())


def test_cancelled_in_the_middle_of_a_watch_it_lets_go_of_its_connection(clock):
    api = Api(page("100"), ["hang"])

    async def main():
        async with serving(api) as url:
            made, _ = source(url, clock)
            first = asyncio.Event()

            async def read():
                async for _ in made.changes():
                    first.set()

            reader = asyncio.create_task(read())
            await first.wait()
            await asyncio.sleep(1)
            assert len(api.asked) == 2
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert [task for task in asyncio.all_tasks() if task not in api.connections] == [asyncio.current_task()]

    clock.run(main())


def test_tls_by_the_authority_of_the_cluster(clock, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def main():
        api = Api(page("1", slice_of("s", "1", pod("p", "10.1.0.1"))))
        async with serving(api, context) as url:
            made, _ = source(url, clock, ca=cert)
            async with aclosing(made.changes()) as changes:
                assert ids([await anext(changes)]) == [["p"]]
            stranger, told = source(url, clock)
            async with aclosing(stranger.changes()) as changes:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2):
                        await anext(changes)
            assert "CERTIFICATE_VERIFY_FAILED" in told[0].why
        missing, _ = source("https://127.0.0.1:1", clock, ca=tmp_path / "none")
        with pytest.raises(MisuseError, match="kubernetes ca"):
            await anext(missing.changes())

    clock.run(main())


def test_within_a_cluster_the_address_is_known(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert FromKubernetes("checkout")._api == "https://10.96.0.1:6443"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert FromKubernetes("checkout")._api == "https://[fd00::1]:6443"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(MisuseError, match="not within a cluster"):
        FromKubernetes("checkout")


@pytest.mark.parametrize(
    "wrong",
    [
        {"service": "Check Out"},
        {"service": "a,b"},
        {"namespace": "../x"},
        {"api": "10.0.0.1"},
        {"family": "IPv5"},
        {"watch": 0},
        {"timeout": "no"},
    ],
)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="kubernetes"):
        FromKubernetes(**{"service": "checkout", "api": "http://127.0.0.1:1", "namespace": "shop", **wrong})
