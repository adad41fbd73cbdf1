"""Conditional requests and Cache-Control, rule by rule of RFC 9110 §13, RFC 9111 §5.2 and RFC 5861."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache.http_rules import (
    CacheControl,
    entity_tags,
    not_modified,
    strong_etag,
    strongly,
    surrogate_keys,
    vary,
    verdict,
    weakly,
)

EARLY, LATE = "Sat, 29 Oct 2024 19:43:31 GMT", "Sun, 30 Oct 2024 19:43:31 GMT"


@pytest.mark.parametrize(
    ("one", "two", "strong", "weak"),
    [  # the table of RFC 9110 §8.8.3.2
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_the_two_comparisons(one: str, two: str, strong: bool, weak: bool) -> None:
    for listed, etag in ((one, two), (two, one)):
        assert strongly(listed, etag) is strong
        assert weakly(listed, etag) is weak


def test_lists_of_entity_tags() -> None:
    assert entity_tags('"xyzzy", W/"r2,d2" ,"c3piozzzz",""') == [
        (False, '"xyzzy"'),
        (True, '"r2,d2"'),
        (False, '"c3piozzzz"'),
        (False, '""'),
    ]
    assert entity_tags(" * ") is None
    assert entity_tags('nonsense, w/"1"') == [(False, '"1"')]  # the W is case-sensitive


@pytest.mark.parametrize(
    ("method", "conditions", "expected"),
    [
        ("GET", {}, None),
        ("GET", {"if-none-match": '"a"'}, 304),
        ("HEAD", {"if-none-match": '"a"'}, 304),
        ("GET", {"if-none-match": '"b", W/"a"'}, 304),
        ("GET", {"if-none-match": "*"}, 304),
        ("GET", {"if-none-match": '"b"'}, None),
        ("GET", {"if-none-match": "a"}, None),  # no tag: not quoted
        # §13.1.3: with If-None-Match, If-Modified-Since is ignored
        ("GET", {"if-none-match": '"b"', "if-modified-since": LATE}, None),
        ("GET", {"if-modified-since": EARLY}, 304),
        ("GET", {"if-modified-since": LATE}, 304),
        ("GET", {"if-modified-since": "Sat, 22 Oct 2024 19:43:31 GMT"}, None),
        ("GET", {"if-modified-since": "yesterday"}, None),
        # §13.1.1 and §13.1.4; §13.2.2: they come first, and the first hides the second
        ("GET", {"if-match": '"a"'}, None),
        ("GET", {"if-match": "*"}, None),
        ("GET", {"if-match": 'W/"a"'}, 412),
        ("GET", {"if-match": '"b"', "if-none-match": '"a"'}, 412),
        ("GET", {"if-match": '"a"', "if-none-match": '"a"'}, 304),
        ("GET", {"if-unmodified-since": "Sat, 22 Oct 2024 19:43:31 GMT"}, 412),
        ("GET", {"if-unmodified-since": LATE}, None),
        ("GET", {"if-match": '"a"', "if-unmodified-since": "Sat, 22 Oct 2024 19:43:31 GMT"}, None),
        # never for what changes something
        *[
            (method, {"if-none-match": '"a"', "if-match": '"b"'}, None)
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        ],
    ],
)
def test_preconditions(method: str, conditions: dict[str, str], expected: int | None) -> None:
    assert verdict(method, conditions, '"a"', EARLY) == expected


def test_without_validators_nothing_is_known() -> None:
    assert verdict("GET", {"if-none-match": '"a"', "if-modified-since": LATE}, None) is None
    assert verdict("GET", {"if-modified-since": LATE}, None, "nonsense") is None
    assert verdict("GET", {"if-match": "*"}, None) is None


def test_a_strong_tag_changes_with_content_and_type() -> None:
    tags = {
        strong_etag(b"a", b"text/html", b""),
        strong_etag(b"b", b"text/html", b""),
        strong_etag(b"a", b"text/plain", b""),
        strong_etag(b"a", b"", b"text/html"),
        strong_etag(b"", b"a"),
        strong_etag(b"a"),
    }
    assert len(tags) == 6
    assert strong_etag(b"a", b"b") == strong_etag(b"a", b"b")
    assert entity_tags(strong_etag(b"a")) == [(False, strong_etag(b"a"))]


def test_cache_control_is_written_in_one_order_and_whole_seconds() -> None:
    assert str(CacheControl()) == ""
    assert str(CacheControl(max_age="1m", s_maxage="1h", stale_while_revalidate="1.9s", stale_if_error="1d")) == (
        "max-age=60, s-maxage=3600, stale-while-revalidate=1, stale-if-error=86400"
    )
    assert str(CacheControl(private=True, no_cache=True, max_age=0)) == "private, no-cache, max-age=0"
    assert str(CacheControl(no_store=True)) == "no-store"
    assert str(CacheControl(max_age="52w", immutable=True)) == "immutable, max-age=31449600"
    assert str(CacheControl(must_revalidate=True, max_age=1)) == "must-revalidate, max-age=1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"private": True, "s_maxage": 1}, "expected private or s_maxage, got both"),
        ({"no_store": True, "max_age": 1}, "expected no_store alone"),
        ({"must_revalidate": True, "stale_if_error": 1}, "expected must_revalidate or a stale_… time"),
        ({"max_age": "soon"}, "max_age: expected a duration"),
        ({"stale_if_error": -1}, "stale_if_error: expected a finite number"),
    ],
)
def test_contradictions_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        CacheControl(**options)


def test_vary_is_one_list() -> None:
    assert vary("Accept, Accept-Encoding", "accept-encoding", "Origin") == "Accept, Accept-Encoding, Origin"
    assert vary("Accept", "*") == "*"
    assert vary("", " , ") == ""


def test_tags_are_words() -> None:
    assert surrogate_keys(["product:7", "catalog", "product:7"]) == "product:7 catalog"
    assert surrogate_keys(["a b", "ü", "50%", "a,b"]) == "a%20b %C3%BC 50%25 a%2Cb"


def test_a_304_says_what_a_200_would_have_said_and_nothing_of_its_content() -> None:
    headers = [
        (b"Content-Type", b"text/html"),
        (b"content-length", b"5"),
        (b"content-encoding", b"gzip"),
        (b"last-modified", EARLY.encode()),
        (b"etag", b'"a"'),
        (b"cache-control", b"max-age=1"),
        (b"content-location", b"/a"),
        (b"date", EARLY.encode()),
        (b"expires", LATE.encode()),
        (b"vary", b"Accept"),
        (b"access-control-allow-origin", b"*"),
        (b"content-security-policy", b"default-src 'self'"),
    ]
    assert [name for name, _ in not_modified(headers)] == [
        b"etag",
        b"cache-control",
        b"content-location",
        b"date",
        b"expires",
        b"vary",
        b"access-control-allow-origin",
        b"content-security-policy",
    ]
    assert (b"last-modified", EARLY.encode()) in not_modified([(b"last-modified", EARLY.encode())])
