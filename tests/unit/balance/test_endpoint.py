"""What an endpoint may be."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Endpoint, Member


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8000", "https://shop.example", "tcp://[::1]:80", "unix:///run/a.sock"]
)
def test_places(url: str) -> None:
    endpoint = Endpoint("a", url, weight=2, zone="eu-1", priority=1, metadata={"rack": "7"})
    assert Member(endpoint).weight == 2.0
    assert hash(endpoint) == hash(Endpoint("a", url, weight=2, zone="eu-1", priority=1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"id": ""}, "expected an id"),
        ({"id": "a\nb"}, "expected an id"),
        ({"url": "10.0.0.1:8000"}, 'expected a url such as "http://10.0.0.1:8000", got'),
        ({"url": "http://["}, "expected a url"),
        ({"url": "http://h:x"}, "expected a url"),
        ({"url": "http://h:0"}, "expected a url"),
        ({"url": "http://:80"}, "expected a url"),
        ({"url": "unix:"}, "expected a url"),
        ({"url": None}, "expected a url"),
        ({"weight": -1}, "expected a weight >= 0, got -1"),
        ({"weight": True}, "expected a weight"),
        ({"weight": float("inf")}, "expected a weight"),
        ({"weight": float("nan")}, "expected a weight"),
        ({"priority": -1}, "expected a priority of 0, 1, 2"),
        ({"zone": None}, "expected a zone"),
    ],
)
def test_misuse(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        Endpoint(**({"id": "a", "url": "http://h:1"} | given))
