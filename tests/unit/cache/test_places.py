"""URLs of level 2: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.cluster import slots_of
from tenfold.cache.partitions import namespace_of, partition_of
from tenfold.cache.places import parsed


def test_a_plain_url_is_left_to_redis_py() -> None:
    found = parsed("rediss://user:secret@h:1/2?ssl_cert_reqs=none")
    assert (found.kind, found.base) == ("single", "rediss://user:secret@h:1/2?ssl_cert_reqs=none")


def test_a_sentinel_url() -> None:
    found = parsed("rediss+sentinel://us%7Ber:p@a,b:1,[::1]:2/my%20master/3?sentinel_password=s&ssl_cert_reqs=none")
    assert (found.kind, found.master, found.tls) == ("sentinel", "my master", True)
    assert found.addresses == (("a", 26379), ("b", 1), ("::1", 2))
    assert found.sentinel_options == (("password", "s"),)
    assert found.at(("c", 9)) == "rediss://us%7Ber:p@c:9/3?ssl_cert_reqs=none"
    assert found.at(("::1", 9)) == "rediss://us%7Ber:p@[::1]:9/3?ssl_cert_reqs=none"


def test_a_cluster_url() -> None:
    found = parsed("redis+cluster://:p@a:7000,b?partitions=64")
    assert (found.kind, found.partitions) == ("cluster", 64)
    assert found.addresses == (("a", 7000), ("b", 6379))
    assert found.at(("c", 9)) == "redis://:p@c:9/0"
    assert parsed("redis+cluster://a").partitions == 16


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis+sentinel://a:1", "the path is the master's name"),
        ("redis+sentinel://a:1/", "the path is the master's name"),
        ("redis+sentinel://a:1/m/x", "a database's number"),
        ("redis+sentinel://a:x/m", "redis\\+sentinel://127.0.0.1:26379,127.0.0.1:26380/mymaster"),
        ("redis+sentinel://a,,b/m", "a host is missing"),
        ("redis+sentinel:///m", "a host is missing"),
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://a/1", "the one database 0"),
        ("redis+cluster://a:99999", "redis\\+cluster://127.0.0.1:7000"),
        ("redis+cluster://a?partitions=0", "1 to 1024"),
        ("redis+cluster://a?partitions=many", "many"),
        ("redis+proxy://a", "redis\\+sentinel://"),
        ("unix+cluster:///tmp/x", "redis\\+cluster://"),
    ],
)
def test_a_url_that_means_nothing_is_refused_at_once(url: str, sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        Cache("shop", redis=url)


def test_a_refusal_does_not_tell_the_password() -> None:
    with pytest.raises(MisuseError) as refused:
        Cache("shop", redis="redis+sentinel://user:secret@a:1?sentinel_password=hidden")
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_credentials_and_a_user_in_the_url_are_one_too_many() -> None:
    class Provider:
        def get_credentials(self) -> tuple[str, str]:
            return "user", "token"

    for url in ("redis+sentinel://user:p@a/m", "redis+cluster://user:p@a"):
        with pytest.raises(MisuseError, match="no user in the URL"):
            Cache("shop", redis=url, credentials=Provider())
    for url in ("redis+sentinel://a/m", "redis+cluster://a"):
        Cache("shop", redis=url, credentials=Provider())


def test_which_partition_a_key_has_is_part_of_the_format() -> None:
    """Programs of other versions must look at the same place."""
    keys = ["f(1)", "f(2)", 'page("ä")', "half \ud800"]
    assert [partition_of(key, 16) for key in keys] == [5, 6, 14, 14]
    assert namespace_of("shop", 3, 16) == "{shop:3/16}"
    assert key_slot(b"tenfold:1:{shop:3/16}:e:f(1)") == key_slot(b"tenfold:1:{shop:3/16}:t:tag{x}")


def test_the_map_of_slots() -> None:
    asked = ("asked", 1)
    answer = [[0, 5, [b"h", 7, b"id", []], [b"replica", 8, b"id"]], [6, 9, [b"", 7, b"id"]], [10, 11, [None, 9]]]
    assert slots_of(answer, asked) == [(0, 5, ("h", 7)), (6, 9, ("asked", 7)), (10, 11, ("asked", 9))]
    for garbage in (b"text", None, 3, [[0, 1]], [[0, 1, []]], ["x"], Exception("ERR This instance has cluster off")):
        assert slots_of(garbage, asked) == []
