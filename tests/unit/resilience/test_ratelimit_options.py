"""`RateLimit`: what a person writes becomes plain numbers, and nonsense is refused in one sentence."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.distributed import SharedMeter
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.ratelimit_script import record_name

STORE = "redis://127.0.0.1:1/0"


def test_units_become_numbers() -> None:
    limit = RateLimit("3000/m", store=STORE, lease_time="250ms", on_store_error="local", local_share="25%")
    assert (limit.rate, limit.burst, limit.lease_time, limit.local_share) == (50.0, 50, 0.25, 0.25)


def test_the_burst_defaults_to_a_second_and_at_least_one() -> None:
    assert RateLimit("100/s").cells == 100
    assert RateLimit("5/h").cells == 1
    assert RateLimit(0.5, burst=7).cells == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 0}, "above 0"),
        ({"rate": "-5/s"}, "3000/m"),
        ({"rate": "fast"}, '"500/s"'),
        ({"rate": "5/fortnight"}, '"500/s"'),
        ({"rate": "5/s", "burst": 0}, "1 or more"),
        ({"rate": "5/s", "burst": 1.5}, "whole number"),
        ({"rate": "5/s", "max_keys": 0}, "1 or more"),
        ({"rate": "5/s", "key": "user"}, "function"),
        ({"rate": "5/s", "lease": 3}, "only means something with store="),
        ({"rate": "5/s", "on_store_error": "closed"}, "only means something with store="),
        ({"rate": "5/s", "local_share": 0.5}, "only means something with store="),
        ({"rate": "5/s", "store": "memcached://x"}, "redis://"),
        ({"rate": "5/s", "store": STORE, "lease": 6}, "at most the burst"),
        ({"rate": "5/s", "store": STORE, "lease": -1}, "0 or more"),
        ({"rate": "5/s", "store": STORE, "on_store_error": "maybe"}, '"open", "closed" or "local"'),
        ({"rate": "5/s", "store": STORE, "on_store_error": "local"}, "belong together"),
        ({"rate": "5/s", "store": STORE, "local_share": 0.5}, "belong together"),
        ({"rate": "5/s", "store": STORE, "on_store_error": "local", "local_share": 0}, "above 0"),
        ({"rate": "5/s", "store": STORE, "on_store_error": "local", "local_share": "150%"}, "between 0 and 1"),
        ({"rate": "5/s", "store": STORE, "store_timeout": 0}, "longer than zero"),
        ({"rate": "5/s", "store": STORE, "lease_time": "soon"}, "30s"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MisuseError, match=says) as refusal:
        RateLimit(**options)
    assert "\n" not in str(refusal.value)


def test_a_shared_limit_needs_a_name() -> None:
    with pytest.raises(MisuseError, match="needs a name"):
        SharedMeter(RateLimit("5/s", store=STORE))


def test_without_the_redis_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.connection", None)
    with pytest.raises(MisuseError, match=r"pip install 'tenfold\[redis\]'"):
        SharedMeter(RateLimit("5/s", store=STORE), name="payments")


@pytest.mark.parametrize("key", [3.5, object(), ("a", None)])
def test_a_key_that_other_processes_would_not_know_is_refused(key: Any) -> None:
    meter = SharedMeter(RateLimit("5/s", store=STORE), name="payments")
    with pytest.raises(MisuseError, match="other processes"):
        meter.admit(0.0, key)


def test_keys_that_look_alike_are_not_the_same() -> None:
    names = {record_name("payments", key) for key in (None, "a", b"a", ("a",), ("a", "b"), "x" * 500, "x" * 501)}
    assert len(names) == 7
    assert max(map(len, names)) < 80
