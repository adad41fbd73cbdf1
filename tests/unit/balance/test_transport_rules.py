"""When a transport sends again, and where: the whole table, and what is refused."""

from __future__ import annotations

from itertools import product

import httpx2
import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.transports import RetryRules
from tenfold.balance.transports.address import base_of
from tenfold.balance.transports.family import Replay, family_of
from tenfold.balance.transports.rules import Failure, Next, after


def test_what_may_be_done_after_each_failure() -> None:
    for failure, idempotent, replayable, reused, refreshed in product(Failure, *[(True, False)] * 4):
        step = after(failure, idempotent=idempotent, replayable=replayable, reused=reused, refreshed=refreshed)
        if failure is Failure.OURS:
            assert step is Next.RAISE
        elif failure in (Failure.UNSENT, Failure.NOT_HERS):
            assert step is Next.OTHER
        elif not (idempotent and replayable):
            assert step is Next.RAISE  # a byte may be out
        elif failure is Failure.BROKEN and reused and not refreshed:
            assert step is Next.FRESH
        else:
            assert step is Next.OTHER


def test_every_failure_of_the_library_has_its_kind() -> None:
    family = family_of(httpx2.Request("GET", "http://shop"))
    kinds = {
        "ConnectError": Failure.UNSENT,
        "ConnectTimeout": Failure.UNSENT,
        "PoolTimeout": Failure.NOT_HERS,
        "ReadTimeout": Failure.NO_ANSWER,
        "ReadError": Failure.BROKEN,
        "WriteError": Failure.BROKEN,
        "RemoteProtocolError": Failure.BROKEN,
        "LocalProtocolError": Failure.OURS,
        "UnsupportedProtocol": Failure.OURS,
    }
    assert {name: family.failure(getattr(httpx2, name)("so")) for name in kinds} == kinds
    assert family.failure(ValueError()) is Failure.OURS


def test_methods_by_the_standard_and_by_the_callers_word() -> None:
    rules = RetryRules()
    assert {method for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "PATCH") if rules.idempotent(method)} == {
        "GET", "HEAD", "PUT", "DELETE",
    }  # fmt: skip
    assert rules.idempotent("POST", True)
    assert not rules.idempotent("GET", False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ["GET", "POST"]}, "POST is not idempotent"),
        ({"methods": ["get"]}, "methods: expected names"),
        ({"statuses": [99]}, "statuses: expected HTTP statuses"),
        ({"failures": ["500"]}, "failures: expected HTTP statuses"),
        ({"replay": "much"}, "replay: expected a size"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        RetryRules(**options)  # type: ignore[arg-type]


def test_where_an_endpoint_is() -> None:
    assert base_of(Endpoint("a", "http://10.0.0.1:8000")) == {
        "scheme": "http", "host": "10.0.0.1", "port": 8000, "authority": "10.0.0.1:8000",
    }  # fmt: skip
    assert base_of(Endpoint("a", "https://[::1]/"))["authority"] == "[::1]"
    assert base_of(Endpoint("a", "unix:///run/app.sock"))["host"] == "localhost"
    for url in ("http://10.0.0.1/base", "tcp://10.0.0.1:80", "http://10.0.0.1?x=1"):
        with pytest.raises(MisuseError, match="expected a url of scheme, host and port"):
            base_of(Endpoint("a", url))


def test_a_body_is_kept_up_to_its_bound_and_goes_on_where_it_broke_off() -> None:
    overflows = list[int]()
    body = Replay(iter([b"abc", b"def", b"gh"]), 8, lambda: overflows.append(1))
    first = body.parts()
    assert next(first) == b"abc"  # the connection breaks here …
    assert list(body.parts()) == [b"abc", b"def", b"gh"]  # … and the next one gets all of it
    assert list(body.parts()) == [b"abc", b"def", b"gh"]
    assert body.replayable
    assert overflows == []
    long = Replay(iter([b"abc", b"def", b"ghi", b"j"]), 8, lambda: overflows.append(1))
    assert b"".join(long.parts()) == b"abcdefghij"
    assert not long.replayable
    assert overflows == [1]
