"""Laws of the edge's parts: bounds and indexes, purges, ranges, flights, and that nothing raises on rubbish."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.gateway.edge import Action, Decision, Edge, EdgeOptions, Filling, Request, Response, Turn, fold
from tenfold.gateway.edge.control import dictionary, directives, of_request, of_response
from tenfold.gateway.edge.dates import read_date, write_date
from tenfold.gateway.edge.ranges import cut, multipart, spans
from tenfold.gateway.edge.vary import codings

WALL, NOW = 1_800_000_000.0, 1_000.0
KEYS = (b"k0", b"k1", b"k2")


def check(edge: Edge) -> None:
    """What must hold of the store at any time."""
    store, options = edge._store, edge.options
    living = [one for resource in store.resources.values() for one in resource.variants.values()]
    assert store.entries == len(living) <= options.max_items
    assert store.bytes == sum(one.weight for one in living)
    assert 0 <= store.reserved * 2 <= options.bytes
    assert store.bytes + store.reserved <= options.bytes
    assert all(resource.variants for resource in store.resources.values())
    carried = {key for one in living for key in one.keys}
    assert store.keys.keys() == carried
    for key, carriers in store.keys.items():
        assert carriers == {one for one in living if key in one.keys}
    for one in living:
        assert one.entry is not None
        assert one.entry.value is one
        assert one.entry.size == one.weight
    for resource in store.resources.values():
        assert set(resource.names) == {names for names, _ in resource.variants}
    queued = [
        entry.value for queue in (store._fifo.small, store._fifo.main) for entry in queue if entry.value is not None
    ]
    assert sorted(map(id, queued)) == sorted(map(id, living))


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "put", "get", "begin", "write", "end", "url", "keys", "prefix", "soft"]),
        st.integers(0, 11),
        st.integers(0, 7),
        st.integers(0, 9_000),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(operations, st.sampled_from([4, 50]), st.sampled_from([64_000, 200_000]))
def test_bytes_stay_below_the_bound_and_indexes_are_clean(
    history: list[tuple[str, int, int, int]], items: int, most: int
) -> None:
    edge = Edge(EdgeOptions(max_bytes=most, max_items=items, max_variants=2, largest_share=0.2))
    under_way: list[Filling] = []
    for kind, n, bits, count in history:
        url = b"http://shop.test/%d" % n
        if kind in ("put", "begin"):
            keys = b" ".join(key for bit, key in enumerate(KEYS) if bits >> bit & 1)
            pairs = [(b"Cache-Control", b"max-age=60"), (b"Surrogate-Key", keys)]
            if bits & 4:
                pairs.append((b"Vary", b"foo"))
            if count % 2:
                pairs.append((b"Content-Length", b"%d" % count))
            request = Request(b"GET", url, {b"foo": b"%d" % (count % 3), b"if-none-match": b'"x"'})
            filling = edge.begin_store(edge.lookup(request, NOW), Response(200, pairs), NOW, WALL)
            if filling is not None and kind == "put":
                filling.write(b"x" * count)
                filling.finish()
            elif filling is not None:
                under_way.append(filling)
        elif kind == "get":
            edge.lookup(Request(b"GET", url, {b"foo": b"%d" % (count % 3)}), NOW)
        elif kind == "write" and under_way:
            under_way[n % len(under_way)].write(b"x" * count)
        elif kind == "end" and under_way:
            filling = under_way.pop(n % len(under_way))
            if bits & 1:
                filling.finish()
            else:
                filling.abort()
        elif kind == "url":
            edge.purge_url(url)
            assert url not in edge._store.resources
        elif kind == "keys":
            edge.purge_keys([KEYS[bits % 3]])
            assert KEYS[bits % 3] not in edge._store.keys
        elif kind == "prefix":
            edge.purge_prefix(url)
            assert not any(one.startswith(url) for one in edge._store.resources)
        elif kind == "soft":
            edge.purge_keys([KEYS[bits % 3]], soft=NOW)
            assert all(one.plain_until <= NOW for one in edge._store.of_keys([KEYS[bits % 3]]))
        check(edge)
    for filling in under_way:
        filling.abort()
    edge.purge_all()
    check(edge)
    assert (edge.stats().bytes, edge.stats().arriving, edge.stats().entries) == (0, 0, 0)
    assert not edge._store.keys


# -- ranges

bodies = st.lists(st.binary(max_size=9), max_size=9)


@given(bodies, st.data())
def test_a_cut_is_a_slice(pieces: list[bytes], data: st.DataObject) -> None:
    body = b"".join(pieces)
    start = data.draw(st.integers(0, len(body)))
    stop = data.draw(st.integers(start, len(body)))
    assert b"".join(cut(pieces, start, stop)) == body[start:stop]


@given(bodies, st.lists(st.integers(1, 80), max_size=12))
def test_ranges_reassemble_to_the_body(pieces: list[bytes], edges: list[int]) -> None:
    body = b"".join(pieces)
    marks = sorted({0, len(body), *[mark for mark in edges if mark < len(body)]})
    asked = list(pairwise(marks))
    field = b"bytes=" + b", ".join(b"%d-%d" % (start, stop - 1) for start, stop in asked)
    wanted = spans(field, len(body))
    if not body:
        assert not wanted
        return
    assert wanted == asked
    assert b"".join(b"".join(cut(pieces, *span)) for span in wanted) == body
    kind, parts = multipart(pieces, wanted, len(body), b"text/plain")
    whole, boundary = b"".join(parts), kind.partition(b"boundary=")[2]
    assert boundary not in body
    read = [part.partition(b"\r\n\r\n")[2] for part in whole.split(b"--" + boundary)[1:-1]]
    assert b"".join(part.removesuffix(b"\r\n") for part in read) == body


@given(
    st.one_of(st.binary(max_size=40), st.text("bytes=0123456789-, ", max_size=40).map(str.encode)), st.integers(0, 99)
)
def test_spans_lie_within_the_body_and_do_not_overlap(field: bytes, length: int) -> None:
    last = 0
    for start, stop in sorted(spans(field, length) or []):
        assert last <= start < stop <= length
        last = stop


# -- rubbish

NAMES = (
    b"cache-control cdn-cache-control tenfold-cache-control pragma expires date age vary etag last-modified location "
    b"content-location content-length content-type connection surrogate-key set-cookie authorization range if-range "
    b"if-none-match if-modified-since if-match accept-encoding cache-status transfer-encoding"
).split()
VALUES = (
    b'max-age=60 s-maxage no-cache no-store "x" W/"x" "x public 99999999999999999999999 -1 * a, b , ,, = bytes=0-1 '
    b'bytes=- gzip;q=0 http://[ //x /b stale-while-revalidate=5 \xff\xfe GMT private="a,b'
).split(b" ")
rubbish = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from(VALUES), max_size=4).map(b" ".join),
    st.lists(st.sampled_from(VALUES), max_size=4).map(b", ".join),
    st.integers(-(10**9), 4 * 10**9).map(write_date),
)
headers = st.lists(st.tuples(st.sampled_from(NAMES), rubbish), max_size=8)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([b"GET", b"HEAD", b"POST", b"\xff"]), headers, headers), min_size=1, max_size=5),
    st.sampled_from([200, 200, 204, 206, 304, 404, 416, 503, 999]),
    st.binary(max_size=20),
)
def test_nothing_raises_on_rubbish(exchanges: list[Any], status: int, body: bytes) -> None:
    edge, now = Edge(EdgeOptions(set_cookie="store", stale_if_error="1h")), NOW
    for method, asked, said in exchanges:
        now += 7
        decision = edge.lookup(Request(method, b"http://shop.test/", fold(asked)), now)
        assert edge.cache_status(decision, now).startswith(b"Cache-Status: tenfold; ")
        if decision.action in (Action.SERVE, Action.SERVE_STALE_WHILE_REVALIDATE):
            answer = edge.answer(decision, now)
            assert answer is not None
            assert answer.head.endswith(b"\r\n\r\n")
        if decision.conditions and status == 304:
            edge.revalidated(decision, Response(304, said), now, WALL)
            continue
        filling = edge.begin_store(decision, Response(status, said), now, WALL)
        if filling is not None:
            filling.write(body)
            filling.finish()
        edge.failed(decision, now, status)
        check(edge)


@given(st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(VALUES), max_size=6).map(b",".join)))
def test_no_field_raises_by_itself(field: bytes) -> None:
    directives(field)
    dictionary(field)
    read_date(field)
    codings(field)
    of_request({b"cache-control": field})
    of_response({b"cdn-cache-control": field, b"cache-control": field})


@given(
    st.lists(st.tuples(st.from_regex(rb"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True), st.integers(-99, 10**9)), max_size=5)
)
def test_a_dictionary_reads_what_was_written(members: list[tuple[bytes, int]]) -> None:
    field = b", ".join(b"%b=%d;p" % member for member in members)
    assert dictionary(field) == {name: b"%d" % value for name, value in members}


@given(st.integers(-(10**9), 10**10))
def test_a_date_reads_what_was_written(wall: int) -> None:
    assert read_date(write_date(wall)) == wall


# -- collapsed forwarding

moves = st.lists(
    st.tuples(
        st.sampled_from(
            ["join", "join", "range", "head", "write", "write", "finish", "abort", "take", "leave", "fail"]
        ),
        st.integers(0, 9),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(moves, st.booleans(), st.booleans())
def test_every_follower_gets_the_whole_body_or_is_told(steps: list[tuple[str, int]], known: bool, share: bool) -> None:
    edge = Edge()
    request = Request(b"GET", b"http://shop.test/", {})
    leader: Decision | None = edge.lookup(request, NOW)
    filling: Filling | None = None
    body = b"0123456789"
    waiting: list[Decision] = []
    streams: dict[int, tuple[Decision, list[bytes]]] = {}
    woken: set[int] = set()
    sent = 0
    for n, (kind, where) in enumerate(steps):
        if kind in ("join", "range"):
            pairs = {b"range": b"bytes=0-1"} if kind == "range" else {}
            one = edge.lookup(Request(b"GET", request.url, pairs), NOW)
            if one.action is Action.WAIT and one.follower is not None:
                one.follower.wake = lambda n=n: woken.add(n)  # type: ignore[misc]
                waiting.append(one)
            elif one.flight is not None:
                assert leader is None  # never two for the same
                leader = one
        elif kind == "head" and leader is not None and filling is None:
            pairs_said = [(b"Cache-Control", b"max-age=60" if share else b"private")]
            if known:
                pairs_said.append((b"Content-Length", b"10"))
            filling = edge.begin_store(leader, Response(200, pairs_said), NOW, WALL)
            sent = 0
            if filling is None:
                leader = None
        elif kind == "write" and filling is not None and sent < 10:
            filling.write(body[sent : sent + 1 + where % 3])
            sent = min(10, sent + 1 + where % 3)
        elif kind == "finish" and filling is not None and sent == 10:
            filling.finish()
            leader = filling = None
        elif kind == "abort" and leader is not None:
            if filling is not None:
                filling.abort()
            else:
                edge.cancelled(leader)
            leader = filling = None
        elif kind == "fail" and leader is not None and filling is None:
            edge.failed(leader, NOW)
            leader = None
        elif kind == "leave" and waiting:
            edge.cancelled(waiting.pop(where % len(waiting)))
        elif kind == "take" and streams:
            decision, got = list(streams.values())[where % len(streams)]
            assert decision.follower is not None
            if decision.follower.turn is Turn.STREAM:
                got.extend(decision.follower.take())
                assert body.startswith(b"".join(got))
                assert not decision.follower.ended or b"".join(got) == body
        for one in [one for one in waiting if one.follower is not None and one.follower.turn is not Turn.WAIT]:
            waiting.remove(one)
            assert one.follower is not None
            turn = one.follower.turn
            resumed = edge.resume(one, NOW)
            assert turn in (Turn.SERVE, Turn.STREAM, Turn.LEAD, Turn.ALONE, Turn.FAILED)
            if turn is Turn.LEAD:
                assert leader is None
                leader = resumed
            elif turn is Turn.STREAM:
                streams[n * 100 + where] = (resumed, [])
            elif turn is Turn.SERVE:
                answer = edge.answer(resumed, NOW)
                assert answer is not None
                assert b"".join(answer.body) in (body, body[:2])
        check(edge)
    # An end of the leader, and of those who lead after it, is an end for all who wait.
    if filling is not None:
        filling.abort()
    elif leader is not None:
        edge.failed(leader, NOW)
    while waiting:
        ready = [one for one in waiting if one.follower is not None and one.follower.turn is not Turn.WAIT]
        assert ready
        for one in ready:
            waiting.remove(one)
            edge.failed(edge.resume(one, NOW), NOW)
    assert (edge.stats().arriving, edge.stats().flights) == (0, 0)
