"""Limits without a socket: keys of rates, who gets a place, which answers are tried again, what a refusal says."""

from __future__ import annotations

import heapq
import json
import math
import random
import time
from pathlib import Path

import pytest

from tenfold.gateway.config import read_config
from tenfold.gateway.config.options import Gateway
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.rule import Route
from tenfold.gateway.config.tables import keys
from tenfold.gateway.edge.dates import read_date
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.again import wait_for
from tenfold.gateway.engine.concurrency import Concurrency, PoolPlaces
from tenfold.gateway.engine.limits import key_of, policy_field, subscriber
from tenfold.gateway.engine.pool_plan import PRIORITIES
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.engine.problem_reference import reference
from tenfold.gateway.framing import Limits, Reason, Refusal
from tenfold.gateway.framing.head import parse_request
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

ROOT = Path(__file__).parents[3]
CRITICAL, NORMAL, BATCH, SHEDDABLE = range(4)


def head(*lines):
    return parse_request("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines]).encode(), Limits())


# -- rate limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unix", "unix"),
        ("a:b", "a:b"),
    ],
)
def test_an_address_counts_as_what_one_subscriber_has(address, whose):
    assert subscriber(address) == key_of("client", head(), address) == whose


def test_keys_are_bounded_and_nobody_can_use_up_the_limit_of_another_address():
    by = "header:X-Key"
    assert key_of(by, head("X-Key: ann"), "192.0.2.7") == "ann"
    nameless = key_of(by, head(), "192.0.2.7")
    assert nameless == key_of("cookie:k", head("Cookie: j=1"), "192.0.2.7") != key_of(by, head(), "192.0.2.8")
    assert key_of(by, head("X-Key: 192.0.2.7"), "192.0.2.9") != nameless
    assert key_of(by, head(f"X-Key: {nameless}"), "192.0.2.9") != nameless
    long = [key_of(by, head("X-Key: " + "x" * size), "a") for size in (64, 65, 7000)]
    assert len(set(long)) == 3
    assert max(map(len, long)) <= 64
    assert key_of(by, head(f"X-Key: {long[1]}"), "a") != long[1]


@pytest.mark.parametrize(
    ("rate", "burst", "field"),
    [
        ("100/s", None, '"api";q=100;w=1'),
        ("100/s", 10, '"api";q=100;w=1'),
        ("100/s", 250, '"api";q=250;w=3'),
        ("1/m", 1, '"api";q=1;w=60'),
        ("90/m", 1, '"api";q=1;w=1'),
    ],
)
def test_the_policy_is_told_in_whole_seconds_and_never_less_than_the_burst(rate, burst, field):
    options = RateLimit(rate, burst=burst)
    told = policy_field("api", options).decode()
    quota, window = (int(part.split("=")[1]) for part in told.split(";")[1:])
    assert quota >= options.cells
    assert quota <= options.cells + options.cells_a_second * window
    assert told == field or burst == 250  # 300 in 3 s are let through as well
    assert window >= 1


# -- adaptive concurrency ---------------------------------------------------------------------------------------------


def places(limit, **options):
    return PoolPlaces("app", AdaptiveLimit(initial=limit, minimum=limit, maximum=limit, **options), PRIORITIES)


def test_a_full_pool_says_so_with_its_number_and_whoever_matters_least_uses_all_of_it_alone():
    pool = places(10)
    tokens = [pool.enter(0.0, SHEDDABLE) for _ in range(10)]
    assert not any(isinstance(token, Fault) for token in tokens)
    refused = pool.enter(0.0, SHEDDABLE)
    assert (refused.status, refused.limit, refused.value, refused.reason) == (503, "route.adaptive", 10, "concurrency")
    assert refused.retry_after is not None
    for token in tokens:
        pool.places.leave(token, 0.1, True)
    assert pool.places.in_flight == 0
    assert not isinstance(pool.enter(0.2, SHEDDABLE), Fault)  # its own refusals keep nothing free of itself


def test_a_place_is_kept_free_of_those_who_matter_less_and_that_fades():
    pool = places(10)
    tokens = [pool.enter(0.0, NORMAL) for _ in range(10)]
    for now in (0.0, 0.05, 0.2):  # the second is within a round trip of the first, and keeps nothing more
        assert isinstance(pool.enter(now, CRITICAL), Fault)
    assert pool.state()["kept"]["critical"] == pytest.approx(0.1, abs=0.005)
    pool.places.leave(tokens.pop(), 0.2, True)
    lesser = pool.enter(0.2, SHEDDABLE)
    assert (lesser.reason, lesser.limit, lesser.value) == ("concurrency_priority", "route.priority", "sheddable")
    assert lesser.retry_after == pytest.approx(0.2)
    assert isinstance(pool.enter(0.2, NORMAL), Fault)
    assert not isinstance(pool.enter(0.2, CRITICAL), Fault)
    pool.places.leave(tokens.pop(), 0.3, True)
    assert not isinstance(pool.enter(60.0, SHEDDABLE), Fault)
    assert pool.state()["refused_by_priority"] == {"critical": 3, "normal": 1, "batch": 0, "sheddable": 1}


@pytest.mark.parametrize(("above", "below"), [(CRITICAL, SHEDDABLE), (NORMAL, BATCH), (NORMAL, NORMAL)])
def test_under_overload_the_sheddable_go_first_and_the_important_hardly_ever(above, below):
    """Arrivals at chance, twice what 20 places can take; a fifth of it matters more than the rest."""
    pool, now, ends, chance = places(20), 0.0, [], random.Random(7)
    asked, refused = [0, 0], [0, 0]
    for n in range(30_000):
        now += chance.expovariate(4000)  # each takes 10 ms
        while ends and ends[0][0] <= now:
            at, _, token = heapq.heappop(ends)
            pool.places.leave(token, at, True)
        lesser = chance.random() < 0.8
        found = pool.enter(now, below if lesser else above)
        asked[lesser] += 1
        if isinstance(found, Fault):
            refused[lesser] += 1
        else:
            heapq.heappush(ends, (now + chance.expovariate(100), n, found))
    share = [few / all_ for few, all_ in zip(refused, asked, strict=True)]
    if above == below:
        assert share[0] == pytest.approx(share[1], abs=0.05)
        assert share[0] > 0.4
    else:
        assert share[0] < 0.01
        assert share[1] < 0.9
        assert pool.places.admitted > 0.6 * 15_000  # and what is kept free wastes no more than that


def test_the_limit_follows_the_latency_of_what_is_let_through():
    """A pool that answers eight at once and queues the rest, asked by many who never stop: found from both sides."""
    for start in (2, 60):
        options = AdaptiveLimit(initial=start, maximum=200)
        pool = PoolPlaces("app", options, PRIORITIES)
        now, ends, free = 0.0, [], [0.0] * 8
        for n in range(30_000):
            while True:
                found = pool.enter(now, NORMAL)
                if not isinstance(found, Fault):
                    break
                at, _, token = heapq.heappop(ends)
                now = max(now, at)
                pool.places.leave(token, now, True)
            at = max(now, heapq.heappop(free)) + 0.008 + 0.004 * math.sin(n * 12.9898) ** 2
            heapq.heappush(free, at)
            heapq.heappush(ends, (at, n, found))
        assert 5 <= pool.places.limit <= 24, (start, pool.places.limit)
        assert pool.places.experiments > 10


def test_a_reload_keeps_the_estimate_within_the_new_bounds():
    first = Concurrency(PRIORITIES, None)
    old = AdaptiveLimit(initial=50)
    pool = first.places("app", old)
    assert first.places("app", old) is pool
    assert first.places("other", old) is not pool
    pool.places.leave(pool.enter(0.0, NORMAL), 0.1, True)
    same = Concurrency(PRIORITIES, first)
    assert same.places("app", AdaptiveLimit(initial=50)) is pool
    other = Concurrency(PRIORITIES, same)
    assert other.places("app", AdaptiveLimit(initial=5, maximum=30)) is pool
    assert pool.places.limit == 30


# -- answers that are tried again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "scatter", "longest", "left", "wait"),
    [
        (None, 0.1, "30s", math.inf, 0.1),
        (2.0, 0.1, "30s", math.inf, 2.1),
        (31.0, 0.1, "30s", math.inf, None),
        (30.0, 0.1, "30s", math.inf, 30.1),
        (2.0, 0.1, "30s", 2.0, None),
        (None, 0.1, "30s", 0.1, None),
        (0.0, 0.0, "0s", 1.0, 0.0),
        (1.0, 0.0, "0s", 9.0, None),
    ],
)
def test_a_retry_after_is_waited_for_unless_it_is_too_long_or_past_the_deadline(said, scatter, longest, left, wait):
    found = wait_for(said, scatter, Retry(2, retry_after=longest), left)
    assert found == (None if wait is None else pytest.approx(wait))


def test_statuses_want_retries_beside_them():
    text = '[gateway]\nlisten = "127.0.0.1:0"\n[[pool]]\nname = "a"\nendpoints = ["http://127.0.0.1:1"]\n[[route]]\n'
    with pytest.raises(Exception, match="retry_statuses: means nothing without retries"):
        read_config(text + 'pool = "a"\nretry_statuses = 503', environ={})
    config = read_config(text + 'pool = "a"\nretries = 2\nretry_statuses = [502, 503]', environ={})
    assert config.routes[0].retry_statuses == (502, 503)


# -- what a refusal says ----------------------------------------------------------------------------------------------


def test_the_reference_of_problems_is_that_of_the_table():
    assert (ROOT / "docs/reference/gateway-problems.md").read_text(encoding="utf-8") == reference()


def test_every_limit_of_the_table_is_an_option():
    known = {f"{table}.{name}" for table, cls in (("gateway", Gateway), ("pool", Pool), ("route", Route))
             for name, _ in keys(cls)}  # fmt: skip
    for reason, row in problem.PROBLEMS.items():
        assert not row.limit or ".".join(row.limit.split(".")[:2]) in known, reason
        assert 400 <= row.status <= 599
        assert row.title[0].isupper()


def test_every_fault_that_is_made_is_in_the_table():
    faults = [each for each in vars(problem).values() if isinstance(each, Fault)]
    assert len(faults) >= 15
    for fault in faults:
        row = problem.PROBLEMS[fault.reason]
        assert (fault.status, fault.limit) == (row.status, row.limit)


def test_an_answer_of_the_gateway_s_own_has_a_date():
    head = problem.render(problem.NO_ROUTE, close=False).partition(b"\r\n\r\n")[0]
    (date,) = [line[6:] for line in head.split(b"\r\n") if line.startswith(b"Date: ")]
    assert abs(read_date(date) - time.time()) < 60


def told(fault):
    return json.loads(problem.render(fault, close=False).partition(b"\r\n\r\n")[2])


def test_a_problem_names_type_title_limit_and_number():
    route = Route(name="a", pool="a", deadline=2.5)
    got = told(problem.measured(problem.DEADLINE, lambda _: route))
    assert got == {
        "type": "urn:problem-type:tenfold:gateway:deadline",
        "title": "No answer before the deadline",
        "status": 504,
        "detail": "no answer before the deadline (route.deadline is 2.5 s)",
        "reason": "deadline",
        "limit": "route.deadline",
        "limit_value": 2.5,
    }


@pytest.mark.parametrize(("route", "limit", "value"), [(7, "route.body_max", 7), (None, "gateway.body_max", 99)])
def test_the_body_s_limit_is_named_where_it_was_set(route, limit, value):
    scope = {"route": Route(name="a", pool="a", body_max=route), "gateway": Gateway(listen="127.0.0.1:0", body_max=99)}
    got = told(problem.measured(problem.BODY_MAX, scope.__getitem__))
    assert (got["limit"], got["limit_value"]) == (limit, value)


@pytest.mark.parametrize("reason", list(Reason))
def test_refused_requests_share_a_type_and_keep_their_reason(reason):
    got = told(problem.fault_of(Refusal(reason.status, reason)))
    assert got["reason"] == reason.token
    own = reason.token if reason.token in problem.PROBLEMS else "not_http"
    assert got["type"] == problem.TYPE + own
    assert told(problem.unreadable(Refusal(502, reason)))["type"] == problem.TYPE + "upstream_invalid"
