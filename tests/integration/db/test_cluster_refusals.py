"""What the cluster cannot serve is refused when it is made, in a sentence; passwords are not repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster

URL = "postgresql://user:secret@127.0.0.1:1/shop"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: create_async_cluster("mysql://x/y"), r"primary: expected postgresql://"),
        (lambda: create_async_cluster("nonsense"), r"primary: expected a URL"),
        (lambda: create_async_cluster(URL, ["sqlite://"]), r"replicas\[0\]: expected postgresql://"),
        (lambda: create_async_cluster(URL, URL), r"replicas: expected a list"),
        (lambda: create_async_cluster(URL, max_lag="soon"), r"max_lag: expected a duration"),
        (lambda: create_async_cluster(URL, pool_size="auto"), r'pool_size="auto": expected rate= and held='),
        (lambda: create_async_cluster(URL, rate="5/s"), r'rate and held: expected them with pool_size="auto"'),
        (lambda: create_async_cluster(URL, pooler="odd"), r"pooler: expected"),
        (lambda: create_async_cluster(URL, watch_period=0), r"watch_period: expected a duration above 0"),
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
