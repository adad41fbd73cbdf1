"""RFC 9111 as a table: what a shared cache does with a second request, after it saw a first response.

The behaviours are those that public test suites of HTTP caches look at, in words of our own. Each row is one exchange
that may have been stored and one request ``after`` seconds later.
"""
# ruff: noqa: E501 - a table: one row, one line

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tenfold.gateway.edge import Action, Decision, Edge, EdgeOptions, Request, Response, fold
from tenfold.gateway.edge.dates import write_date

WALL = 1_800_000_000.0
NOW = 5_000.0
URL = b"http://shop.test/a"


def date(offset: float) -> str:
    return write_date(WALL + offset).decode()


def lines(text: str) -> list[tuple[bytes, bytes]]:
    pairs = []
    for line in filter(None, (one.strip() for one in text.split("\n"))):
        name, _, value = line.partition(":")
        pairs.append((name.encode(), value.strip().encode()))
    return pairs


def request(text: str = "", method: bytes = b"GET", url: bytes = URL) -> Request:
    return Request(method, url, fold(lines(text)))


def exchange(
    edge: Edge, asked: Request, response: Response, body: bytes = b"0123456789", *, now: float = NOW, took: float = 0.0
) -> Decision:
    """One request that goes to the origin, and its whole response."""
    decision = edge.lookup(asked, now - took)
    filling = edge.begin_store(decision, response, now, WALL + now - NOW)
    if filling is not None:
        filling.write(body)
        filling.finish()
    return decision


def outcome(decision: Decision, now: float) -> str:
    if decision.action is Action.SERVE:
        assert decision.stored is not None
        return "hit" if decision.stored.fresh_until > now else "stale"
    if decision.action is Action.SERVE_STALE_WHILE_REVALIDATE:
        return "swr"
    if decision.action is Action.ONLY_IF_CACHED_504:
        return "504"
    assert decision.fwd is not None
    kind = {Action.REVALIDATE: "ask", Action.FORWARD: "fwd"}[decision.action]
    return f"{kind}:{decision.fwd.value.decode()}"


@dataclass(frozen=True)
class Row:
    name: str
    then: str
    expect: str
    first: str = ""
    second: str = ""
    after: float = 1.0
    status: int = 200
    method: bytes = b"GET"
    took: float = 0.0
    options: EdgeOptions = field(default_factory=EdgeOptions)


E = 'ETag: "v1"\n'
D = f"Date: {date(0)}\n"
MISS = "fwd:uri-miss"

ROWS = [
    # -- explicit freshness
    Row("max-age is fresh", D + "Cache-Control: max-age=60", "hit", after=59),
    Row("max-age is over", D + "Cache-Control: max-age=60", "fwd:stale", after=60),
    Row("max-age is over, with a tag", E + D + "Cache-Control: max-age=60", "ask:stale", after=60),
    Row("max-age without Date counts from arrival", "Cache-Control: max-age=60", "hit", after=59),
    Row("max-age=0 with a validator is stored and asked", E + D + "Cache-Control: max-age=0", "ask:stale"),
    Row("max-age=0 without a validator is of no use", D + "Cache-Control: max-age=0", MISS),
    Row("s-maxage beats max-age", D + "Cache-Control: max-age=1, s-maxage=60", "hit", after=30),
    Row("s-maxage beats max-age, also downwards", E + D + "Cache-Control: s-maxage=1, max-age=60", "ask:stale", after=9),
    Row("max-age beats Expires", D + f"Expires: {date(-10)}\nCache-Control: max-age=60", "hit", after=30),
    Row("max-age beats a later Expires", E + D + f"Expires: {date(900)}\nCache-Control: max-age=5", "ask:stale", after=9),
    Row("Expires is fresh", D + f"Expires: {date(60)}", "hit", after=59),
    Row("Expires is over", E + D + f"Expires: {date(60)}", "ask:stale", after=60),
    Row("Expires without Date", f"Expires: {date(60)}", "hit", after=59),
    Row("Expires: 0 is over", E + D + "Expires: 0", "ask:stale"),
    Row("Expires: -1 is over, whatever Last-Modified says", D + f"Last-Modified: {date(-9e6)}\nExpires: -1", "ask:stale"),
    Row("Expires that is no date is over", E + D + "Expires: tomorrow", "ask:stale"),
    Row("Expires with another time zone is over", E + D + "Expires: Thu, 18 Aug 2050 02:01:18 CET", "ask:stale"),
    Row("Expires of RFC 850", D + "Expires: Friday, 15-Jan-60 08:00:00 GMT", "hit"),
    Row("Expires of asctime", D + "Expires: Thu Jan 15 08:00:00 2060", "hit"),
    Row("Expires with a single digit for the day is over", E + D + "Expires: Thu, 1 Jan 2060 08:00:00 GMT", "ask:stale"),
    Row("Expires twice is over", E + D + f"Expires: {date(60)}\nExpires: {date(90)}", "ask:stale"),
    Row("Expires is measured from Date, not from here", f"Date: {date(-50)}\nExpires: {date(10)}", "hit", after=9),
    Row("Expires measured from Date ends", E + f"Date: {date(-50)}\nExpires: {date(10)}", "ask:stale", after=10),
    Row("Expires far away", D + "Expires: Fri, 31 Dec 9999 23:59:59 GMT", "hit", after=1e6),
    # -- odd numbers
    Row("max-age in quotes", D + 'Cache-Control: max-age="60"', "hit", after=30),
    Row("max-age with leading zeros", D + "Cache-Control: max-age=0000000000000000000000060", "hit", after=30),
    Row("max-age beyond 2^31", D + "Cache-Control: max-age=99999999999", "hit", after=1e6),
    Row("max-age of a hundred digits", D + "Cache-Control: max-age=" + "9" * 100, "hit", after=1e6),
    Row("max-age below zero is stale", E + D + "Cache-Control: max-age=-60", "ask:stale"),
    Row("max-age with a fraction is stale", E + D + "Cache-Control: max-age=60.5", "ask:stale"),
    Row("max-age of letters is stale", E + D + "Cache-Control: max-age=abc", "ask:stale"),
    Row("max-age without a value is stale", E + D + "Cache-Control: max-age", "ask:stale"),
    Row("max-age with a space before = is stale", E + D + "Cache-Control: max-age =60", "ask:stale"),
    Row("max-age with rubbish after it is stale", E + D + 'Cache-Control: max-age=60 "x', "ask:stale"),
    Row("max-age twice: the first counts", D + "Cache-Control: max-age=60, max-age=1", "hit", after=30),
    Row("max-age twice: the first counts, also downwards", E + D + "Cache-Control: max-age=1, max-age=60", "ask:stale", after=9),
    Row("max-age in two lines", D + "Cache-Control: public\nCache-Control: max-age=60", "hit", after=30),
    Row("max-age in capitals", D + "CACHE-CONTROL: MAX-AGE=60", "hit", after=30),
    Row("max-age among strangers", D + "Cache-Control: foo, bar=baz, max-age=60", "hit", after=30),
    Row("max-age inside a stranger's quotes", E + D + 'Cache-Control: foo="max-age=60"', "ask:stale"),
    Row("max-age after a quoted comma", D + 'Cache-Control: foo="a,b", max-age=60', "hit", after=30),
    Row("max-age after an escaped quote", D + 'Cache-Control: foo="a\\",b", max-age=60', "hit", after=30),
    Row("no-store after an open quote", D + 'Cache-Control: max-age=60, foo="bar, no-store', MISS),
    # -- Age
    Row("Age is counted", D + "Age: 50\nCache-Control: max-age=60", "hit", after=9),
    Row("Age uses the life up", E + D + "Age: 50\nCache-Control: max-age=60", "ask:stale", after=10),
    Row("Age beyond the life", E + D + "Age: 7200\nCache-Control: max-age=60", "ask:stale", after=0),
    Row("Age that is no number is not there", D + "Age: abc\nCache-Control: max-age=60", "hit"),
    Row("Age below zero is not there", D + "Age: -50\nCache-Control: max-age=60", "hit", after=30),
    Row("Age with a fraction is not there", D + "Age: 70.5\nCache-Control: max-age=60", "hit", after=30),
    Row("Age twice: the first counts", D + "Age: 0, 7200\nCache-Control: max-age=60", "hit"),
    Row("Age beyond 2^31 is stale", E + D + "Age: 99999999999\nCache-Control: max-age=60", "ask:stale"),
    Row("an old Date is an age", E + f"Date: {date(-70)}\nCache-Control: max-age=60", "ask:stale"),
    Row("a Date in the future is none", f"Date: {date(70)}\nCache-Control: max-age=60", "hit", after=59),
    Row("the larger of Date and Age", E + f"Date: {date(-20)}\nAge: 55\nCache-Control: max-age=60", "ask:stale", after=5),
    Row("the time of the exchange is age", E + D + "Age: 1\nCache-Control: max-age=60", "ask:stale", took=50, after=9),
    # -- heuristics
    Row("a tenth of the time since Last-Modified", D + f"Last-Modified: {date(-1000)}", "hit", after=99),
    Row("and then it is over", D + f"Last-Modified: {date(-1000)}", "ask:stale", after=100),
    Row("a day at most", D + f"Last-Modified: {date(-9e7)}", "ask:stale", after=86_400),
    Row("heuristics can be turned off", D + f"Last-Modified: {date(-1000)}", "ask:stale", options=EdgeOptions(heuristic_share=0)),
    Row("no Last-Modified, no guess", D, MISS),
    Row("Last-Modified in the future", D + f"Last-Modified: {date(100)}", "ask:stale"),
    Row("Last-Modified that is no date", D + "Last-Modified: once", MISS),
    *[
        Row(f"{code} may be guessed", D + f"Last-Modified: {date(-1000)}", "hit", status=code)
        for code in (203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
    ],
    *[
        Row(f"{code} may not be guessed", D + f"Last-Modified: {date(-1000)}", MISS, status=code)
        for code in (201, 202, 302, 307, 403, 429, 500, 503, 599)
    ],
    Row("302 may be guessed if public", D + f"Last-Modified: {date(-1000)}\nCache-Control: public", "hit", status=302),
    *[
        Row(f"{code} with max-age is stored", D + "Cache-Control: max-age=60", "hit", status=code)
        for code in (201, 204, 301, 302, 307, 404, 410, 500, 503, 599)
    ],
    *[
        Row(f"{code} is never stored", D + "Cache-Control: max-age=60", MISS, status=code)
        for code in (206, 304, 412, 416)
    ],
    # -- may it be stored
    Row("no-store", D + "Cache-Control: no-store, max-age=60", MISS),
    Row("no-store in capitals", D + "Cache-Control: No-Store, max-age=60", MISS),
    Row("no-store with must-understand of a status that is known", D + "Cache-Control: no-store, must-understand, max-age=60", "hit"),
    Row("must-understand of a status that is not", D + "Cache-Control: must-understand, max-age=60", MISS, status=299),
    Row("private", D + "Cache-Control: private, max-age=60", MISS),
    Row("private with fields", D + 'Cache-Control: private="x-user", max-age=60', MISS),
    Row("a request with no-store", D + "Cache-Control: max-age=60", MISS, first="Cache-Control: no-store"),
    Row("Set-Cookie", D + "Set-Cookie: a=b\nCache-Control: max-age=60", MISS),
    Row("Set-Cookie and public", D + "Set-Cookie: a=b\nCache-Control: public, max-age=60", MISS),
    Row("Set-Cookie, stripped", D + "Set-Cookie: a=b\nCache-Control: max-age=60", "hit", options=EdgeOptions(set_cookie="strip")),
    Row("Set-Cookie, by the letter", D + "Set-Cookie: a=b\nCache-Control: max-age=60", "hit", options=EdgeOptions(set_cookie="store")),
    Row("Vary: *", D + "Vary: *\nCache-Control: max-age=60", MISS),
    Row("Vary: * among others", D + "Vary: accept, *\nCache-Control: max-age=60", MISS),
    Row("POST is not stored", D + "Cache-Control: max-age=60", MISS, method=b"POST"),
    Row("HEAD is not stored", D + "Cache-Control: max-age=60", MISS, method=b"HEAD"),
    Row("an unknown method is not stored", D + "Cache-Control: max-age=60", MISS, method=b"FOO"),
    # -- Authorization
    Row("Authorization", D + "Cache-Control: max-age=60", MISS, first="Authorization: x"),
    Row("Authorization and public", D + "Cache-Control: public, max-age=60", "hit", first="Authorization: x", second="Authorization: y"),
    Row("Authorization and s-maxage", D + "Cache-Control: s-maxage=60", "hit", first="Authorization: x", second="Authorization: y"),
    Row("Authorization and must-revalidate", D + "Cache-Control: must-revalidate, max-age=60", "hit", first="Authorization: x"),
    Row("stored for nobody, asked with Authorization", D + "Cache-Control: max-age=60", "fwd:bypass", second="Authorization: x"),
    # -- no-cache, and stale use
    Row("no-cache is asked each time", E + D + "Cache-Control: no-cache, max-age=60", "ask:stale"),
    Row("no-cache with fields counts as no-cache", E + D + 'Cache-Control: no-cache="set-cookie", max-age=60', "ask:stale"),
    Row("no-cache without a validator is of no use", D + "Cache-Control: no-cache, max-age=60", MISS),
    Row("must-revalidate while fresh", D + "Cache-Control: must-revalidate, max-age=60", "hit"),
    Row("stale-while-revalidate", E + D + "Cache-Control: max-age=60, stale-while-revalidate=30", "swr", after=89),
    Row("stale-while-revalidate is over", E + D + "Cache-Control: max-age=60, stale-while-revalidate=30", "ask:stale", after=90),
    Row("must-revalidate forbids it", E + D + "Cache-Control: max-age=60, must-revalidate, stale-while-revalidate=30", "ask:stale", after=61),
    Row("proxy-revalidate forbids it", E + D + "Cache-Control: max-age=60, proxy-revalidate, stale-while-revalidate=30", "ask:stale", after=61),
    Row("s-maxage with a grant of its own", E + D + "Cache-Control: s-maxage=60, stale-while-revalidate=30", "swr", after=61),
    Row("a grant by default", E + D + "Cache-Control: max-age=60", "swr", after=61, options=EdgeOptions(stale_while_revalidate="30s")),
    Row("s-maxage forbids a grant by default", E + D + "Cache-Control: s-maxage=60", "ask:stale", after=61, options=EdgeOptions(stale_while_revalidate="30s")),
    Row("the response overrules the default", E + D + "Cache-Control: max-age=60, stale-while-revalidate=0", "ask:stale", after=61, options=EdgeOptions(stale_while_revalidate="30s")),
    # -- what the request says
    Row("request no-cache", E + D + "Cache-Control: max-age=60", "ask:request", second="Cache-Control: no-cache"),
    Row("request no-cache without a validator", D + "Cache-Control: max-age=60", "fwd:request", second="Cache-Control: no-cache"),
    Row("Pragma: no-cache", E + D + "Cache-Control: max-age=60", "ask:request", second="Pragma: no-cache"),
    Row("Pragma beside Cache-Control is nothing", D + "Cache-Control: max-age=60", "hit", second="Pragma: no-cache\nCache-Control: x"),
    Row("Pragma in a response is nothing", D + "Pragma: no-cache\nCache-Control: max-age=60", "hit"),
    Row("request max-age=0", E + D + "Cache-Control: max-age=60", "ask:request", second="Cache-Control: max-age=0"),
    Row("request max-age above the age", D + "Cache-Control: max-age=60", "hit", second="Cache-Control: max-age=20", after=20),
    Row("request max-age below the age", E + D + "Cache-Control: max-age=60", "ask:request", second="Cache-Control: max-age=20", after=21),
    Row("request max-age that is no number", E + D + "Cache-Control: max-age=60", "ask:request", second="Cache-Control: max-age=x"),
    Row("immutable is not asked for max-age=0", D + "Cache-Control: max-age=60, immutable", "hit", second="Cache-Control: max-age=0"),
    Row("immutable is asked for no-cache", E + D + "Cache-Control: max-age=60, immutable", "ask:request", second="Cache-Control: no-cache"),
    Row("min-fresh that is there", D + "Cache-Control: max-age=60", "hit", second="Cache-Control: min-fresh=30", after=30),
    Row("min-fresh that is not", E + D + "Cache-Control: max-age=60", "ask:request", second="Cache-Control: min-fresh=31", after=30),
    Row("max-stale", D + "Cache-Control: max-age=60", "stale", second="Cache-Control: max-stale=10", after=70),
    Row("max-stale, too stale", E + D + "Cache-Control: max-age=60", "ask:stale", second="Cache-Control: max-stale=10", after=71),
    Row("max-stale without a number", D + "Cache-Control: max-age=60", "stale", second="Cache-Control: max-stale", after=1e6),
    Row("max-stale against must-revalidate", E + D + "Cache-Control: max-age=60, must-revalidate", "ask:stale", second="Cache-Control: max-stale", after=70),
    Row("max-stale against s-maxage", E + D + "Cache-Control: s-maxage=60", "ask:stale", second="Cache-Control: max-stale", after=70),
    Row("max-stale against no-cache", E + D + "Cache-Control: max-age=60, no-cache", "ask:stale", second="Cache-Control: max-stale", after=70),
    Row("request no-store may be answered", D + "Cache-Control: max-age=60", "hit", second="Cache-Control: no-store"),
    Row("only-if-cached, and it is", D + "Cache-Control: max-age=60", "hit", second="Cache-Control: only-if-cached"),
    Row("only-if-cached, and it is stale", E + D + "Cache-Control: max-age=60", "504", second="Cache-Control: only-if-cached", after=61),
    Row("only-if-cached, and it is not", D + "Cache-Control: no-store", "504", second="Cache-Control: only-if-cached"),
    Row("a request that is not obeyed", D + "Cache-Control: max-age=60", "hit", second="Cache-Control: no-cache, max-age=0", options=EdgeOptions(honour_request=False)),
    Row("If-Match is the origin's", D + E + "Cache-Control: max-age=60", "fwd:bypass", second='If-Match: "v1"'),
    Row("If-Unmodified-Since is the origin's", D + "Cache-Control: max-age=60", "fwd:bypass", second=f"If-Unmodified-Since: {date(0)}"),
    # -- Vary
    Row("Vary, the same", D + "Vary: foo\nCache-Control: max-age=60", "hit", first="Foo: 1", second="foo: 1"),
    Row("Vary, another", D + "Vary: foo\nCache-Control: max-age=60", "fwd:vary-miss", first="Foo: 1", second="Foo: 2"),
    Row("Vary, absent both times", D + "Vary: Foo\nCache-Control: max-age=60", "hit"),
    Row("Vary, absent now", D + "Vary: foo\nCache-Control: max-age=60", "fwd:vary-miss", first="Foo: 1"),
    Row("Vary, absent before", D + "Vary: foo\nCache-Control: max-age=60", "fwd:vary-miss", second="Foo: 1"),
    Row("Vary, empty is not absent", D + "Vary: foo\nCache-Control: max-age=60", "fwd:vary-miss", second="Foo:"),
    Row("Vary of two, both the same", D + "Vary: foo, bar\nCache-Control: max-age=60", "hit", first="Foo: 1\nBar: 2", second="Bar: 2\nFoo: 1"),
    Row("Vary of two, one differs", D + "Vary: foo, bar\nCache-Control: max-age=60", "fwd:vary-miss", first="Foo: 1\nBar: 2", second="Bar: 3\nFoo: 1"),
    Row("Vary in two lines", D + "Vary: foo\nVary: bar\nCache-Control: max-age=60", "fwd:vary-miss", first="Foo: 1\nBar: 2", second="Bar: 3\nFoo: 1"),
    Row("Vary, white space around commas", D + "Vary: foo\nCache-Control: max-age=60", "hit", first="Foo: 1,  2", second="Foo: 1,2"),
    Row("Vary, two lines are one", D + "Vary: foo\nCache-Control: max-age=60", "hit", first="Foo: 1\nFoo: 2", second="Foo: 1, 2"),
    Row("Vary, case of the value counts", D + "Vary: foo\nCache-Control: max-age=60", "fwd:vary-miss", first="Foo: a", second="Foo: A"),
    Row("Accept-Encoding in another order", D + "Vary: accept-encoding\nCache-Control: max-age=60", "hit", first="Accept-Encoding: gzip, br;q=0.5", second="Accept-Encoding: br, gzip"),
    Row("Accept-Encoding with one refused", D + "Vary: accept-encoding\nCache-Control: max-age=60", "fwd:vary-miss", first="Accept-Encoding: gzip, br", second="Accept-Encoding: br;q=0, gzip"),
    Row("Accept-Encoding without identity is kept as it is", D + "Vary: accept-encoding\nCache-Control: max-age=60", "fwd:vary-miss", first="Accept-Encoding: gzip", second="Accept-Encoding: gzip, identity;q=0"),
    Row("Accept-Encoding by the letter", D + "Vary: accept-encoding\nCache-Control: max-age=60", "fwd:vary-miss", first="Accept-Encoding: gzip, br", second="Accept-Encoding: br, gzip", options=EdgeOptions(normalise_encoding=False)),
    # -- targeted fields (RFC 9213)
    Row("CDN-Cache-Control beats Cache-Control", D + "CDN-Cache-Control: max-age=60\nCache-Control: no-store", "hit", after=30),
    Row("CDN-Cache-Control beats it downwards", D + "CDN-Cache-Control: no-store\nCache-Control: max-age=60", MISS),
    Row("CDN-Cache-Control beats Expires", E + D + f"CDN-Cache-Control: max-age=5\nExpires: {date(60)}", "ask:stale", after=9),
    Row("Expires does not count beside it", E + D + f"CDN-Cache-Control: public\nExpires: {date(60)}", "ask:stale"),
    Row("Tenfold-Cache-Control beats both", D + "Tenfold-Cache-Control: max-age=60\nCDN-Cache-Control: no-store\nCache-Control: private", "hit", after=30),
    Row("an empty targeted field is none", D + "CDN-Cache-Control:\nCache-Control: max-age=60", "hit", after=30),
    Row("a targeted field with a mistake is none", D + "CDN-Cache-Control: max-age=60, &&\nCache-Control: no-store", MISS),
    Row("a targeted field with a comma at its end is none", D + "CDN-Cache-Control: no-store,\nCache-Control: max-age=60", "hit"),
    Row("a targeted field in capitals is a mistake", D + "CDN-Cache-Control: NO-STORE\nCache-Control: max-age=60", "hit"),
    Row("of two members the last counts", D + "CDN-Cache-Control: max-age=1, max-age=60", "hit", after=30),
    Row("parameters do not count", D + 'CDN-Cache-Control: max-age=60;foo="bar";x', "hit", after=30),
    Row("strangers of all types", D + 'CDN-Cache-Control: a=(1 2);b, c=:YQ==:, d=?1, e=tok, f="s", g=1.5, max-age=60', "hit", after=30),
    Row("a text is no number", E + D + 'CDN-Cache-Control: max-age="60"', "ask:stale"),
    Row("false is absent", D + "CDN-Cache-Control: no-store=?0, max-age=60", "hit", after=30),
    Row("a targeted field in two lines", D + "CDN-Cache-Control: max-age=60\nCDN-Cache-Control: no-store", MISS),
    Row("a targeted field with no-cache", E + D + "CDN-Cache-Control: no-cache\nCache-Control: max-age=60", "ask:stale"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rfc9111(row: Row) -> None:
    edge = Edge(row.options)
    exchange(edge, request(row.first, row.method), Response(row.status, lines(row.then)), took=row.took)
    now = NOW + row.after
    assert outcome(edge.lookup(request(row.second), now), now) == row.expect


def test_the_table_is_as_large_as_it_says() -> None:
    assert len(ROWS) >= 120
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ("", URL),
        ("Location: /b", b"http://shop.test/b"),
        ("Location: http://shop.test/b?c=1", b"http://shop.test/b?c=1"),
        ("Location: HTTP://SHOP.TEST:80/b", b"http://shop.test/b"),
        ("Location: b#part", b"http://shop.test/b"),
        ("Content-Location: /b", b"http://shop.test/b"),
        ("Location: //shop.test/b", b"http://shop.test/b"),
    ],
)
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"FOO"])
def test_what_an_unsafe_method_makes_invalid(said: str, target: bytes, method: bytes) -> None:
    edge = Edge()
    keep = Response(200, lines(D + "Cache-Control: max-age=60"))
    exchange(edge, request(url=target), keep)
    exchange(edge, request(method=method), Response(500, lines(said)))
    assert edge.lookup(request(url=target), NOW).action is Action.SERVE  # it went wrong, so nothing has changed
    exchange(edge, request(method=method), Response(201, lines(said)))
    assert edge.lookup(request(url=target), NOW).action is Action.FORWARD


@pytest.mark.parametrize(
    "said", ["Location: http://other.test/b", "Location: https://shop.test/b", "Location: http://[x/b"]
)
def test_another_origin_stays_valid(said: str) -> None:
    edge = Edge()
    urls = (b"http://other.test/b", b"https://shop.test/b")
    for url in urls:
        exchange(edge, request(url=url), Response(200, lines(D + "Cache-Control: max-age=60")))
    exchange(edge, request(method=b"POST"), Response(201, lines(said)))
    assert all(edge.lookup(request(url=url), NOW).action is Action.SERVE for url in urls)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
def test_safe_methods_make_nothing_invalid(method: bytes) -> None:
    edge = Edge()
    exchange(edge, request(), Response(200, lines(D + "Cache-Control: max-age=60")))
    edge.begin_store(edge.lookup(request("Cache-Control: no-cache", method), NOW), Response(200, lines(D)), NOW, WALL)
    exchange(edge, request(), Response(200, lines(D + "Cache-Control: max-age=60")))
    assert edge.lookup(request(), NOW).action is Action.SERVE
