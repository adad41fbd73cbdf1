"""What `tenfold serve` is told, and what it refuses with a sentence."""

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Target
from tenfold.balance import Endpoint
from tenfold.gateway.config import Address
from tenfold.serve import ServeOptions, schedule
from tenfold.serve.setting import gateway_config


def options(**given):
    return ServeOptions(app="shop.main:app", **given)


def test_it_is_called_by_its_module():
    assert options().name == "shop"
    assert options(name="checkout").name == "checkout"


def test_a_fixed_number_needs_no_policy():
    for given in (4, "4", "4..4"):
        found = options(workers=given)
        assert (found.least, found.most, found.policy()) == (4, 4, None)


def test_a_range_without_a_target_follows_requests_in_flight():
    found = options(workers="2..8")
    policy = found.policy()
    assert (policy.least, policy.most, policy.targets) == (2, 8, (Target.in_flight(20),))
    assert not found.by_latency
    assert options(workers="2..8", targets=(Target.p95("100ms"),)).by_latency


def test_a_schedule_alone_will_do():
    opening = schedule("0 8 * * mon-fri..0 20 * * mon-fri=6", 1, "Europe/Berlin")
    assert (opening.start, opening.end, opening.workers) == ("0 8 * * mon-fri", "0 20 * * mon-fri", 6)
    policy = options(workers="1..8", schedules=(opening,)).policy()
    assert policy.targets == ()
    assert policy.schedules == (opening,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"workers": "8..2"}, "lower number first"),
        ({"workers": 0}, "expected 1 to 1000"),
        ({"workers": "two"}, "a range such as 2..8"),
        ({"workers": True}, "a range such as 2..8"),
        ({"workers": 4, "targets": (Target.in_flight(20),)}, "fixed number 4"),
        ({"server": "gunicorn"}, "granian or uvicorn"),
        ({"admin": "0.0.0.0:9000"}, "an address of this machine"),
        ({"listen": "8000"}, "listen: expected an address"),
        ({"warm": ("products",)}, "a path such as"),
        ({"max_inflight": 0}, "max in flight"),
        ({"memory_limit": "much"}, "memory limit"),
        ({"max_requests": 0}, "max requests"),
        ({"period": "1ms"}, "50ms or more"),
        ({"workers": "1..4", "schedules": (schedule("0 8 * * *..0 9 * * *=5"),)}, "at most 4 workers"),
    ],
)
def test_what_makes_no_sense(given, says):
    with pytest.raises(MisuseError, match=says):
        options(**given)


@pytest.mark.parametrize("app", ["shop", "shop:", ":app", "shop.py:app:x", "a b:app"])
def test_an_app_is_a_module_and_a_name(app):
    with pytest.raises(MisuseError, match=r"shop\.main:app"):
        ServeOptions(app=app)


@pytest.mark.parametrize("text", ["0 8 * * *=6", "0 8 * * *..0 20 * * *", "0 8 * * *..0 20 * * *=many", ""])
def test_a_schedule_has_a_start_an_end_and_a_number(text):
    with pytest.raises(MisuseError, match=r"START\.\.END=WORKERS"):
        schedule(text)


def test_the_front_pays_for_the_retries_of_a_whole_worker():
    """A worker that dies takes as many requests with it as it may have; the budget must have that many tokens."""
    given = options(max_inflight=300, edge=True)
    config = gateway_config(
        given, [Endpoint("1", "unix:///s")], listen=Address("127.0.0.1"), admin=Address("127.0.0.1"), token="x" * 16
    )
    (route,), (pool,) = config.routes, config.pools
    assert route.retries.budget.burst == pool.max_in_flight == 300
    assert route.edge is not None
    assert pool.queue == given.queue
