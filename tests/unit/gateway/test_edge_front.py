"""The front of the edge: what it answers with, revalidation, errors, collapsing, purging, and its bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.gateway.edge import (
    Action,
    Answer,
    Decision,
    Edge,
    EdgeOptions,
    Filling,
    Request,
    Response,
    Turn,
    fold,
    url_key,
)
from tenfold.gateway.edge.control import dictionary, directives
from tenfold.gateway.edge.dates import read_date, write_date
from tenfold.gateway.edge.ranges import spans

WALL, NOW, URL = 1_800_000_000.0, 5_000.0, b"http://shop.test/a"
BODY = bytes(range(256)) * 4
FRESH = (b"Cache-Control", b"max-age=60")
TAG = (b"ETag", b'"v1"')
DATE = (b"Date", write_date(WALL))
GRANT = (b"Cache-Control", b"max-age=60, stale-while-revalidate=30, stale-if-error=100")


def get(*pairs: tuple[bytes, bytes], method: bytes = b"GET", url: bytes = URL) -> Request:
    return Request(method, url, fold(pairs))


def start(edge: Edge, decision: Decision, *pairs: tuple[bytes, bytes], now: float = NOW, status: int = 200) -> Filling:
    filling = edge.begin_store(decision, Response(status, (DATE, *pairs)), now, WALL + now - NOW)
    assert filling is not None
    return filling


def put(edge: Edge, *pairs: tuple[bytes, bytes], body: bytes = BODY, url: bytes = URL, now: float = NOW) -> None:
    filling = start(edge, edge.lookup(get(url=url), now), *pairs, now=now)
    filling.write(body)
    assert filling.finish() is not None


def ask(edge: Edge, request: Request, now: float = NOW + 5) -> tuple[Answer, dict[bytes, bytes]]:
    decision = edge.lookup(request, now)
    assert decision.action is Action.SERVE, decision
    return read(edge.answer(decision, now))


def read(answer: Answer | None) -> tuple[Answer, dict[bytes, bytes]]:
    assert answer is not None
    first, *rest = answer.head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % answer.status)
    return answer, fold([(line.partition(b": ")[0], line.partition(b": ")[2]) for line in rest])


# -- the answer


def test_a_hit_has_the_stored_fields_its_length_an_age_and_a_status() -> None:
    edge = Edge()
    put(
        edge, FRESH, TAG, (b"Surrogate-Key", b"a b"), (b"Connection", b"x-hop"), (b"X-Hop", b"1"),
        (b"Keep-Alive", b"5"),
        (b"Tenfold-Cache-Control", b"max-age=100"), (b"X-Own", b"1"), (b"Age", b"3"),
    )  # fmt: skip
    answer, fields = ask(edge, get(), NOW + 5.9)
    assert answer.status == 200
    assert b"".join(answer.body) == BODY
    assert fields == {
        b"date": DATE[1], b"cache-control": b"max-age=60", b"etag": b'"v1"', b"x-own": b"1", b"content-length": b"1024",
        b"age": b"8", b"cache-status": b"tenfold; hit; ttl=91",
    }  # fmt: skip


def test_the_slow_way_says_the_same_as_the_fast_one() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    fast = edge.answer(edge.lookup(get(), NOW + 5.5), NOW + 5.5, b"Connection: close\r\n")
    slow = edge.answer(edge.lookup(get((b"cache-control", b"x")), NOW + 5.5), NOW + 5.5, b"Connection: close\r\n")
    assert fast == slow
    assert fast is not None
    assert fast.head.endswith(b"\r\nConnection: close\r\n\r\n")


def test_a_date_is_added_where_none_came() -> None:
    edge = Edge()
    filling = edge.begin_store(edge.lookup(get(), NOW), Response(200, [FRESH]), NOW, WALL)
    assert filling is not None
    filling.finish()
    answer, fields = ask(edge, get())
    assert fields[b"date"] == DATE[1]
    assert fields[b"content-length"] == b"0"
    assert answer.body == ()


def test_head_is_answered_out_of_a_get() -> None:
    edge = Edge()
    put(edge, FRESH)
    answer, fields = ask(edge, get(method=b"HEAD"))
    assert (answer.status, answer.body, fields[b"content-length"]) == (200, (), b"1024")


def test_a_204_has_no_length() -> None:
    edge = Edge()
    start(edge, edge.lookup(get(), NOW), FRESH, status=204).finish()
    answer, fields = ask(edge, get())
    assert answer.status == 204
    assert b"content-length" not in fields


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ((b"If-None-Match", b'"v1"'), 304),
        ((b"If-None-Match", b'W/"v1"'), 304),
        ((b"If-None-Match", b'"v0", "v1"'), 304),
        ((b"If-None-Match", b"*"), 304),
        ((b"If-None-Match", b'"v2"'), 200),
        ((b"If-None-Match", b"v1"), 200),
        ((b"If-None-Match", b'"v1'), 200),
        ((b"If-Modified-Since", write_date(WALL - 100)), 304),
        ((b"If-Modified-Since", write_date(WALL - 99)), 304),
        ((b"If-Modified-Since", write_date(WALL - 101)), 200),
        ((b"If-Modified-Since", b"yesterday"), 200),
    ],
)
def test_conditions_are_answered_here(condition: tuple[bytes, bytes], status: int) -> None:
    edge = Edge()
    put(edge, FRESH, TAG, (b"Last-Modified", write_date(WALL - 100)), (b"Content-Type", b"text/html"))
    answer, fields = ask(edge, get(condition))
    assert answer.status == status
    assert (b"content-type" in fields, bool(answer.body), b"last-modified" in fields) == (status == 200,) * 3
    assert fields[b"etag"] == b'"v1"'
    assert fields[b"age"] == b"5"


def test_if_none_match_goes_before_the_date() -> None:
    edge = Edge()
    put(edge, FRESH, TAG, (b"Last-Modified", write_date(WALL - 100)))
    both = get((b"If-None-Match", b'"v2"'), (b"If-Modified-Since", write_date(WALL)))
    assert ask(edge, both)[0].status == 200


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"bytes=0-0", [(0, 1)]),
        (b"bytes=10-", [(10, 100)]),
        (b"bytes=-10", [(90, 100)]),
        (b"bytes=-1000", [(0, 100)]),
        (b"bytes=90-1000", [(90, 100)]),
        (b"BYTES=0-1", [(0, 2)]),
        (b"bytes=0-1,5-6", [(0, 2), (5, 7)]),
        (b"bytes=5-6 , 0-1", [(5, 7), (0, 2)]),
        (b"bytes=0-1,,5-6", [(0, 2), (5, 7)]),
        (b"bytes=0-1,200-300", [(0, 2)]),
        (b"bytes=100-", []),
        (b"bytes=-0", []),
        (b"bytes=0-5,3-8", None),
        (b"bytes=5-3", None),
        (b"bytes=a-b", None),
        (b"bytes=", None),
        (b"bytes", None),
        (b"lines=0-1", None),
        (b"bytes=1-2-3", None),
        (b"bytes=" + b",".join(b"%d-%d" % (n * 2, n * 2) for n in range(17)), None),
    ],
)
def test_spans(field: bytes, expected: list[tuple[int, int]] | None) -> None:
    assert spans(field, 100) == expected


def test_one_range() -> None:
    edge = Edge()
    put(edge, FRESH, (b"Content-Type", b"text/plain"))
    answer, fields = ask(edge, get((b"Range", b"bytes=10-19")))
    assert (answer.status, b"".join(answer.body)) == (206, BODY[10:20])
    assert (fields[b"content-range"], fields[b"content-length"]) == (b"bytes 10-19/1024", b"10")
    assert fields[b"content-type"] == b"text/plain"


def test_no_range_that_can_be_given() -> None:
    edge = Edge()
    put(edge, FRESH)
    answer, fields = ask(edge, get((b"Range", b"bytes=5000-")))
    assert (answer.status, answer.body) == (416, ())
    assert (fields[b"content-range"], fields[b"content-length"]) == (b"bytes */1024", b"0")


def test_several_ranges() -> None:
    edge = Edge()
    put(edge, FRESH, (b"Content-Type", b"text/plain"))
    answer, fields = ask(edge, get((b"Range", b"bytes=0-9, -5")))
    body = b"".join(answer.body)
    assert answer.status == 206
    assert int(fields[b"content-length"]) == len(body)
    boundary = fields[b"content-type"].partition(b"boundary=")[2]
    parts = body.split(b"--" + boundary)
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]] == [BODY[:10], BODY[-5:]]
    assert b"Content-Range: bytes 1019-1023/1024\r\n" in parts[2]
    assert b"Content-Type: text/plain\r\n" in parts[1]


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (b'"v1"', 206),
        (b'"v2"', 200),
        (b'W/"v1"', 200),
        (write_date(WALL - 100), 206),
        (write_date(WALL - 99), 200),
        (b"rubbish", 200),
    ],
)
def test_if_range(condition: bytes, status: int) -> None:
    edge = Edge()
    put(edge, FRESH, TAG, (b"Last-Modified", write_date(WALL - 100)))
    assert ask(edge, get((b"Range", b"bytes=0-1"), (b"If-Range", condition)))[0].status == status


def test_a_weak_date_is_no_condition_for_a_range() -> None:
    edge = Edge()
    put(edge, FRESH, (b"Last-Modified", DATE[1]))
    assert ask(edge, get((b"Range", b"bytes=0-1"), (b"If-Range", DATE[1])))[0].status == 200


def test_only_a_200_is_given_in_parts_or_compared() -> None:
    edge = Edge()
    filling = start(edge, edge.lookup(get(), NOW), FRESH, TAG, status=404)
    filling.write(BODY)
    filling.finish()
    assert ask(edge, get((b"Range", b"bytes=0-1"), (b"If-None-Match", b'"v1"')))[0].status == 404


# -- Cache-Status (RFC 9211)


def line(edge: Edge, decision: Decision, now: float = NOW) -> bytes:
    return edge.cache_status(decision, now).removeprefix(b"Cache-Status: ").removesuffix(b"\r\n")


def test_cache_status_tells_what_happened() -> None:
    edge = Edge(EdgeOptions(name="edge-1"))
    decision = edge.lookup(get(), NOW)
    assert line(edge, decision) == b"edge-1; fwd=uri-miss"
    filling = start(edge, decision, GRANT, TAG)
    assert line(edge, decision) == b"edge-1; fwd=uri-miss; ttl=60; stored"
    filling.finish()
    assert line(edge, edge.lookup(get(), NOW + 9.5), NOW + 9.5) == b"edge-1; hit; ttl=50"
    stale = edge.lookup(get(), NOW + 70)
    assert line(edge, stale, NOW + 70) == b"edge-1; hit; ttl=-10; detail=stale-while-revalidate"
    assert line(edge, edge.lookup(get(method=b"POST"), NOW)) == b"edge-1; fwd=method"
    assert line(edge, edge.lookup(get((b"cache-control", b"no-cache")), NOW)) == b"edge-1; fwd=request"
    nothing = edge.lookup(get((b"cache-control", b"only-if-cached"), url=b"http://x/"), NOW)
    assert line(edge, nothing) == b"edge-1; fwd=uri-miss; detail=only-if-cached"


def test_cache_status_tells_why_it_is_not_stored() -> None:
    edge = Edge()
    decision = edge.lookup(get(), NOW)
    assert edge.begin_store(decision, Response(200, [(b"Cache-Control", b"private")]), NOW, WALL) is None
    assert line(edge, decision) == b"tenfold; fwd=uri-miss; detail=private"


# -- revalidation and errors


def test_a_304_makes_it_fresh_again() -> None:
    edge = Edge()
    put(edge, FRESH, TAG, (b"X-Old", b"1"), (b"X-Same", b"1"), (b"Surrogate-Key", b"k"), (b"Content-Type", b"a/b"))
    late = NOW + 100
    decision = edge.lookup(get((b"Range", b"bytes=0-4")), late)
    assert decision.action is Action.REVALIDATE
    assert decision.conditions == ((b"If-None-Match", b'"v1"'),)
    assert set(decision.drop) >= {b"range", b"if-none-match"}
    again = Response(304, [(b"Date", write_date(WALL + 100)), TAG, (b"X-Same", b"2"), (b"Content-Length", b"7"), FRESH])
    served = edge.revalidated(decision, again, late, WALL + 100)
    assert served is not None
    answer, fields = read(edge.answer(served, late))
    assert (answer.status, b"".join(answer.body)) == (206, BODY[:5])
    assert fields[b"cache-status"] == b"tenfold; fwd=stale; fwd-status=304; ttl=60; stored"
    answer, fields = ask(edge, get(), late + 59)
    assert b"".join(answer.body) == BODY
    assert (fields[b"x-old"], fields[b"x-same"], fields[b"content-type"]) == (b"1", b"2", b"a/b")
    assert (fields[b"content-length"], fields[b"age"]) == (b"1024", b"59")
    assert edge.purge_keys([b"k"]) == 1
    assert edge.stats().revalidated == 1


def test_a_304_of_something_else_is_not_believed() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    decision = edge.lookup(get(), NOW + 100)
    again = edge.revalidated(decision, Response(304, [(b"ETag", b'"v2"')]), NOW + 100, WALL + 100)
    assert again is not None
    assert (again.action, again.conditions, again.flight) == (Action.FORWARD, (), decision.flight)
    assert edge.stats().entries == 0


def test_a_304_that_forbids_storing_serves_once_and_forgets() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    decision = edge.lookup(get(), NOW + 100)
    served = edge.revalidated(decision, Response(304, [TAG, (b"Cache-Control", b"no-store")]), NOW + 100, WALL + 100)
    assert served is not None
    assert served.action is Action.SERVE
    assert edge.stats().entries == 0


def test_a_304_to_the_clients_own_condition_is_passed_on() -> None:
    edge = Edge()
    decision = edge.lookup(get((b"If-None-Match", b'"x"')), NOW)
    assert (decision.action, decision.drop, decision.flight) == (Action.FORWARD, (), None)
    assert edge.revalidated(decision, Response(304, []), NOW, WALL) is None


def test_a_200_takes_the_place_of_what_was_revalidated() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    filling = start(
        edge, edge.lookup(get(), NOW + 100), (b"ETag", b'"v2"'), (b"Cache-Control", b"max-age=200"), now=NOW + 100
    )
    filling.write(b"new")
    filling.finish()
    assert ask(edge, get(), NOW + 101)[0].body == (b"new",)
    assert edge.stats().entries == 1


def test_a_response_that_is_not_stored_ends_the_one_that_is() -> None:
    edge = Edge()
    put(edge, GRANT, TAG)
    decision = edge.lookup(get(), NOW + 1000)
    assert edge.begin_store(decision, Response(200, [(b"Cache-Control", b"no-store")]), NOW, WALL) is None
    assert edge.stats().entries == 0


def test_a_head_that_differs_makes_it_stale() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    head = edge.lookup(get((b"cache-control", b"no-cache"), method=b"HEAD"), NOW + 1)
    edge.begin_store(head, Response(200, [TAG, (b"Content-Length", b"1024")]), NOW + 1, WALL)
    assert edge.lookup(get(), NOW + 1).action is Action.SERVE
    edge.begin_store(head, Response(200, [TAG, (b"Content-Length", b"1")]), NOW + 1, WALL)
    assert edge.lookup(get(), NOW + 1).action is Action.REVALIDATE


def test_stale_if_error() -> None:
    edge = Edge()
    put(edge, GRANT, TAG)
    decision = edge.lookup(get(), NOW + 100)
    served = edge.failed(decision, NOW + 100, 503)
    assert served is not None
    answer, fields = read(edge.answer(served, NOW + 100))
    assert answer.status == 200
    assert fields[b"cache-status"] == b"tenfold; fwd=stale; fwd-status=503; detail=stale-if-error"
    assert edge.failed(edge.lookup(get(), NOW + 160), NOW + 160, 503) is None
    assert edge.stats().flights == 0


@pytest.mark.parametrize("more", [b", must-revalidate", b", proxy-revalidate", b", no-cache"])
def test_stale_if_error_is_forbidden(more: bytes) -> None:
    edge = Edge(EdgeOptions(stale_if_error="1h"))
    put(edge, (b"Cache-Control", GRANT[1] + more), TAG)
    assert edge.failed(edge.lookup(get(), NOW + 65), NOW + 65, 503) is None


def test_stale_while_revalidate_asks_once() -> None:
    edge = Edge()
    put(edge, GRANT, TAG)
    first, second = edge.lookup(get(), NOW + 70), edge.lookup(get(), NOW + 70)
    assert (first.action, second.action) == (Action.SERVE_STALE_WHILE_REVALIDATE, Action.SERVE)
    assert first.conditions == ((b"If-None-Match", b'"v1"'),)
    assert edge.failed(first, NOW + 71) is None
    assert edge.lookup(get(), NOW + 72).action is Action.SERVE_STALE_WHILE_REVALIDATE
    assert edge.stats().stale == 3


def test_what_revalidates_in_the_background_may_be_answered_late() -> None:
    edge = Edge()
    put(edge, GRANT)
    decision = edge.lookup(get(), NOW + 70)
    start(edge, decision, FRESH, now=NOW + 70).write(b"half")
    answer = edge.answer(decision, NOW + 70)
    assert answer is not None
    assert b"".join(answer.body) == BODY


# -- bodies


@pytest.mark.parametrize(("length", "body"), [(b"5", b"1234"), (b"5", b"123456"), (b"x", b"")])
def test_a_body_of_another_length_is_not_stored(length: bytes, body: bytes) -> None:
    edge = Edge()
    filling = start(edge, edge.lookup(get(), NOW), FRESH, (b"Content-Length", length))
    filling.write(body)
    stored = filling.finish()
    assert (stored is None) == (length != b"x")
    assert edge.stats().arriving == 0


def test_what_is_too_large_is_let_go_of() -> None:
    edge = Edge(EdgeOptions(max_bytes=100_000))
    known = edge.lookup(get(), NOW)
    assert edge.begin_store(known, Response(200, [DATE, FRESH, (b"Content-Length", b"20000")]), NOW, WALL) is None
    assert known.detail == b"too-large"
    filling = start(edge, edge.lookup(get(url=URL + b"b"), NOW), FRESH)
    assert filling.write(b"x" * 5000)
    assert not filling.write(b"x" * 5000)
    assert not filling.write(b"x")
    assert filling.finish() is None
    assert (edge.stats().bytes, edge.stats().arriving, edge.stats().too_large) == (0, 0, 2)


def test_pieces_are_copied_and_large_bodies_stay_in_pieces() -> None:
    edge = Edge()
    piece = bytearray(b"a" * 200_000)
    filling = start(edge, edge.lookup(get(), NOW), FRESH)
    for letter in b"bc":
        piece[0] = letter
        assert filling.write(memoryview(piece))
    filling.finish()
    assert [chunk[:2] for chunk in ask(edge, get())[0].body] == [b"ba", b"ca"]


# -- collapsed forwarding


def wait(edge: Edge, *pairs: tuple[bytes, bytes], method: bytes = b"GET") -> Decision:
    decision = edge.lookup(get(*pairs, method=method), NOW)
    assert decision.action is Action.WAIT, decision
    return decision


def turn(decision: Decision) -> Turn:
    assert decision.follower is not None
    return decision.follower.turn


def test_followers_are_served_when_the_body_is_whole() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    followers = [wait(edge), wait(edge, method=b"HEAD"), wait(edge, (b"Range", b"bytes=0-1"))]
    woken: list[int] = []
    for n, one in enumerate(followers):
        assert one.follower is not None
        one.follower.wake = lambda n=n: woken.append(n)  # type: ignore[misc]
    filling = start(edge, leader, FRESH)
    filling.write(BODY)
    assert [turn(one) for one in followers] == [Turn.WAIT] * 3
    filling.finish()
    assert set(woken) == {0, 1, 2}
    answers = [edge.answer(edge.resume(one, NOW), NOW) for one in followers]
    assert [(a.status, b"".join(a.body)) for a in answers if a] == [(200, BODY), (200, b""), (206, BODY[:2])]
    assert read(answers[0])[1][b"cache-status"] == b"tenfold; fwd=uri-miss; ttl=60; collapsed"
    assert (edge.stats().collapsed, edge.stats().flights) == (3, 0)


def test_followers_stream_a_body_of_known_length() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    early, ranged = wait(edge), wait(edge, (b"Range", b"bytes=0-1"))
    filling = start(edge, leader, FRESH, (b"Content-Length", b"6"))
    assert (turn(early), turn(ranged)) == (Turn.STREAM, Turn.WAIT)
    streamed = edge.resume(early, NOW)
    answer, fields = read(edge.answer(streamed, NOW))
    assert (answer.status, answer.body, fields[b"content-length"]) == (200, (), b"6")
    follower = streamed.follower
    assert follower is not None
    filling.write(b"abc")
    assert follower.take() == [b"abc"]
    late = wait(edge)
    filling.write(b"def")
    assert not follower.ended
    filling.finish()
    assert (follower.turn, follower.take(), follower.ended) == (Turn.STREAM, [b"def"], True)
    assert (turn(late), turn(ranged)) == (Turn.SERVE, Turn.SERVE)


@pytest.mark.parametrize("said", [b"no-store", b"private", b"no-cache", b"max-age=0"])
def test_what_cannot_be_shared_sends_all_on_their_own_and_collapses_no_more(said: bytes) -> None:
    edge = Edge(EdgeOptions(uncollapsed="10s"))
    leader = edge.lookup(get(), NOW)
    followers = [wait(edge) for _ in range(3)]
    edge.begin_store(leader, Response(200, [DATE, TAG, (b"Cache-Control", said)]), NOW, WALL)
    assert [turn(one) for one in followers] == [Turn.ALONE] * 3
    assert all(edge.resume(one, NOW).action is Action.FORWARD for one in followers)
    assert [edge.lookup(get(), NOW + 1).flight for _ in range(2)] == [None, None]
    assert edge.lookup(get(), NOW + 11).flight is not None


def test_an_unknown_length_that_becomes_too_large_sends_them_on_their_own() -> None:
    edge = Edge(EdgeOptions(max_bytes=100_000))
    leader = edge.lookup(get(), NOW)
    follower = wait(edge)
    assert not start(edge, leader, FRESH).write(b"x" * 20_000)
    assert turn(follower) is Turn.ALONE


def test_another_vary_sends_on_alone() -> None:
    edge = Edge()
    leader = edge.lookup(get((b"Accept-Language", b"en")), NOW)
    same, other = wait(edge, (b"Accept-Language", b"en")), wait(edge, (b"Accept-Language", b"de"))
    start(edge, leader, FRESH, (b"Vary", b"Accept-Language")).finish()
    assert (turn(same), turn(other)) == (Turn.SERVE, Turn.ALONE)


def test_a_leader_that_leaves_hands_on() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    ranged, first, second = wait(edge, (b"Range", b"bytes=0-1")), wait(edge), wait(edge)
    edge.cancelled(leader)
    assert [turn(one) for one in (ranged, first, second)] == [Turn.WAIT, Turn.LEAD, Turn.WAIT]
    edge.cancelled(first)  # it leaves as well, before it has begun
    assert turn(second) is Turn.LEAD
    heir = edge.resume(second, NOW)
    assert (heir.action, heir.flight) == (Action.FORWARD, leader.flight)
    start(edge, heir, FRESH).finish()
    assert turn(ranged) is Turn.SERVE


def test_nobody_can_lead() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    ranged = wait(edge, (b"Range", b"bytes=0-1"))
    edge.cancelled(leader)
    assert turn(ranged) is Turn.ALONE
    assert edge.stats().flights == 0


def test_a_body_that_breaks_off_breaks_only_who_has_begun() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    begun, waiting = wait(edge), wait(edge)
    filling = start(edge, leader, FRESH, (b"Content-Length", b"6"))
    streamed = edge.resume(begun, NOW)
    filling.write(b"abc")
    filling.abort()
    assert streamed.follower is not None
    assert streamed.follower.turn is Turn.BROKEN
    assert turn(waiting) is Turn.LEAD
    assert edge.stats().entries == edge.stats().arriving == 0


def test_a_failure_is_shared_and_stale_if_error_hides_it() -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    follower = wait(edge)
    assert edge.failed(leader, NOW, 503) is None
    told = edge.resume(follower, NOW)
    assert (told.action, told.fwd_status) == (Action.FAILED, 503)
    put(edge, GRANT, TAG)
    leader = edge.lookup(get(), NOW + 100)
    follower = edge.lookup(get(), NOW + 100)
    assert follower.action is Action.WAIT
    assert edge.failed(leader, NOW + 100, 503) is not None
    assert edge.resume(follower, NOW + 100).action is Action.SERVE


def test_a_304_serves_those_who_wait() -> None:
    edge = Edge()
    put(edge, FRESH, TAG)
    leader, follower = edge.lookup(get(), NOW + 100), edge.lookup(get(), NOW + 100)
    assert (leader.action, follower.action) == (Action.REVALIDATE, Action.WAIT)
    edge.revalidated(leader, Response(304, [TAG, (b"Date", write_date(WALL + 100))]), NOW + 100, WALL + 100)
    answer, _ = read(edge.answer(edge.resume(follower, NOW + 100), NOW + 100))
    assert b"".join(answer.body) == BODY


@pytest.mark.parametrize(
    "pair", [(b"Authorization", b"x"), (b"Cache-Control", b"no-cache"), (b"Cache-Control", b"no-store")]
)
def test_who_neither_leads_nor_follows(pair: tuple[bytes, bytes]) -> None:
    edge = Edge()
    assert edge.lookup(get(pair), NOW).flight is None
    edge.lookup(get(), NOW)
    assert edge.lookup(get(pair), NOW).action is Action.FORWARD


def test_a_wait_that_takes_too_long_goes_on_alone() -> None:
    edge = Edge(EdgeOptions(max_followers=1))
    edge.lookup(get(), NOW)
    follower = wait(edge)
    assert edge.lookup(get(), NOW).action is Action.FORWARD  # one follower is all there may be
    alone = edge.resume(follower, NOW + 3)
    assert (alone.action, alone.flight) == (Action.FORWARD, None)
    assert wait(edge)


# -- purging


def fill_shop(edge: Edge) -> None:
    for n in range(10):
        put(edge, FRESH, TAG, (b"Surrogate-Key", b"all even" if n % 2 == 0 else b"all"), url=URL + b"%d" % n)
    put(edge, FRESH, url=b"http://other.test/")


@pytest.mark.parametrize(
    ("purge", "count"),
    [
        (lambda edge: edge.purge_url(URL + b"3"), 1),
        (lambda edge: edge.purge_url("http://shop.test/a3"), 1),
        (lambda edge: edge.purge_url(URL), 0),
        (lambda edge: edge.purge_keys(["even"]), 5),
        (lambda edge: edge.purge_keys([b"even", b"all", b"none"]), 10),
        (lambda edge: edge.purge_prefix("http://shop.test/"), 10),
        (lambda edge: edge.purge_tagged(), 10),
        (lambda edge: edge.purge_all(), 11),
    ],
)
def test_purges(purge: Callable[[Edge], int], count: int) -> None:
    edge = Edge()
    fill_shop(edge)
    assert purge(edge) == count
    assert edge.stats().entries == 11 - count
    assert purge(edge) == 0


def test_a_soft_purge_makes_stale() -> None:
    edge = Edge()
    put(edge, GRANT, TAG, (b"Surrogate-Key", b"k"))
    assert edge.purge_keys(["k"], soft=NOW + 10) == 1
    assert edge.lookup(get(), NOW + 39).action is Action.SERVE_STALE_WHILE_REVALIDATE
    edge.purge_all(soft=NOW + 39)
    assert edge.lookup(get(), NOW + 41).action is Action.REVALIDATE


@pytest.mark.parametrize(
    "purge",
    [
        lambda edge: edge.purge_url(URL),
        lambda edge: edge.purge_keys([b"k"]),
        lambda edge: edge.purge_prefix(b"http://shop"),
        lambda edge: edge.purge_url(URL, soft=NOW),
    ],
)
@pytest.mark.parametrize("when", ["before the head", "before the end"])
def test_what_was_asked_for_before_a_purge_is_not_stored_after_it(purge: Callable[[Edge], Any], when: str) -> None:
    edge = Edge()
    leader = edge.lookup(get(), NOW)
    follower = wait(edge)
    if when == "before the head":
        purge(edge)
    filling = start(edge, leader, FRESH, (b"Surrogate-Key", b"k"))
    if when == "before the end":
        purge(edge)
    assert edge.lookup(get(), NOW).action is Action.FORWARD  # asked after the purge: it does not follow
    filling.write(BODY)
    assert filling.finish() is None
    assert turn(follower) is Turn.SERVE  # asked before the purge
    assert edge.stats().entries == 0


def test_a_purge_of_something_else_does_not_matter() -> None:
    edge = Edge()
    filling = start(edge, edge.lookup(get(), NOW), FRESH, (b"Surrogate-Key", b"k"))
    edge.purge_keys([b"other"])
    edge.purge_url(URL + b"b")
    assert wait(edge)
    assert filling.finish() is not None


# -- odds and ends


def test_variants_of_a_url_are_bounded() -> None:
    edge = Edge(EdgeOptions(max_variants=3))
    for n in range(5):
        decision = edge.lookup(get((b"Foo", b"%d" % n)), NOW)
        start(edge, decision, FRESH, (b"Vary", b"Foo")).finish()
    assert [edge.lookup(get((b"Foo", b"%d" % n)), NOW).action is Action.SERVE for n in range(5)] == [False] * 2 + [
        True
    ] * 3
    assert edge.stats().entries == 3


@pytest.mark.parametrize(
    ("scheme", "host", "target", "key"),
    [
        (b"HTTP", b"Shop.Test:80", b"/A?b", b"http://shop.test/A?b"),
        (b"https", b"shop.test:443", b"/", b"https://shop.test/"),
        (b"https", b"shop.test:80", b"/", b"https://shop.test:80/"),
        (b"http", b"[::1]:8080", b"/a#b", b"http://[::1]:8080/a"),
    ],
)
def test_url_key(scheme: bytes, host: bytes, target: bytes, key: bytes) -> None:
    assert url_key(scheme, host, target) == key


def test_dates() -> None:
    assert read_date(b"Sun, 06 Nov 1994 08:49:37 GMT") == 784111777
    assert read_date(b"Sunday, 06-Nov-94 08:49:37 GMT") == 784111777
    assert read_date(b"Sun Nov  6 08:49:37 1994") == 784111777
    assert write_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    for bad in (
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"",
    ):
        assert read_date(bad) is None


def test_directives_and_dictionaries() -> None:
    assert directives(b'a, B=1, c="x,y", ,=, d="open') == {b"a": None, b"b": b"1", b"c": b"x,y", b"d": b"?"}
    assert directives(b"a" * 9000) == {b"no-store": None}
    assert dictionary(b'a, b=1;x=2, c=(1 "2");y') == {b"a": None, b"b": b"1", b"c": b'(1 "2")'}
    for bad in (b"a,", b"a b", b"A", b"a=", b'a="', b"a=(1", b"a=1..2", b"a;", b",a"):
        assert dictionary(bad) is None


@pytest.mark.parametrize(
    "options",
    [
        {"name": "two words"}, {"name": 1}, {"max_bytes": "1kB"}, {"max_items": 0}, {"largest_share": 0.0},
        {"largest_share": 0.6}, {"max_variants": 0}, {"set_cookie": "maybe"}, {"honour_request": 1},
        {"uncollapsed": -1}, {"max_followers": -1}, {"heuristic_share": 2},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match=re.escape(f"edge {next(iter(options))}")):
        EdgeOptions(**options)


def test_representations() -> None:
    edge = Edge()
    put(edge, FRESH)
    assert repr(edge).startswith("<Edge <Store 1/100000 responses")
    assert "hit" not in repr(edge.lookup(get(method=b"POST"), NOW))
