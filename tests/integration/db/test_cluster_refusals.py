"""What the cluster cannot serve is refused when it is made, in a sentence; passwords are not repeated."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.routing import order

URL = "postgresql://user:secret@127.0.0.1:1/shop"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: create_async_cluster("mysql://x/y"), r"primary: expected postgresql://"),
        (lambda: create_async_cluster("nonsense"), r"primary: expected a URL"),
        (lambda: create_async_cluster(URL, ["sqlite://"]), r"replicas\[0\]: expected postgresql://"),
        (lambda: create_async_cluster(URL, URL), r"replicas: expected a list"),
        (lambda: create_async_cluster(URL, max_lag="2s"), r"max_lag: lag is not measured yet"),
        (lambda: create_async_cluster(URL, pool_size=0), r"pool_size: expected a whole number"),
        (lambda: create_async_cluster(URL, pool_timeout="x"), r"pool_timeout: expected a duration"),
        (
            lambda: create_async_cluster(URL).sessionmaker(bind=None),
            r"sessionmaker: bind= is the cluster's own",
        ),
    ],
)
def test_refusals(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence) as caught:
        make()
    assert "secret" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(create_async_cluster(URL))


class Replica:
    def __init__(self, name: str, in_flight: int, up: bool = True) -> None:
        self.name, self.in_flight, self.up = name, in_flight, up

    def usable(self, now: float) -> bool:
        return self.up


def test_the_busier_of_two_comes_second_and_the_dead_not_at_all() -> None:
    idle, busy, dead = Replica("idle", 0), Replica("busy", 5), Replica("dead", 0, up=False)
    for seed in range(20):
        assert [one.name for one in order([busy, dead, idle], 0.0, Random(seed))] == ["idle", "busy"]
    assert order([dead], 0.0, Random(1)) == []


def test_equal_replicas_share_the_load() -> None:
    random, replicas = Random(3), [Replica(str(number), 0) for number in range(4)]
    firsts = [order(replicas, 0.0, random)[0].name for _ in range(2000)]
    assert all(400 < firsts.count(one.name) < 600 for one in replicas)
