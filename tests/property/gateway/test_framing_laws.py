"""Laws of the framing: cuts change nothing, nothing is read in two ways, and what is passed on says the same.

The oracles are a strict parser written as plainly as can be, below, which knows nothing of pieces, reasons or speed,
and llhttp through httptools, which others wrote.
"""

import random
import re
import tomllib
from pathlib import Path

import httptools
from hypothesis import given
from hypothesis import strategies as st

from tenfold.gateway.framing import (
    End,
    Forwarder,
    Forwarding,
    Limits,
    Refusal,
    RequestReader,
    ResponseHead,
    ResponseReader,
    chunk,
    last_chunk,
)

CORPORA = Path(__file__).parents[2] / "unit" / "gateway"


def seeds(name):
    corpus = tomllib.loads((CORPORA / name).read_text(encoding="utf-8"))
    return [case["raw"].encode("latin-1") for fate in ("accepted", "refused") for case in corpus[fate]]


REQUESTS = seeds("corpus_requests.toml")
RESPONSES = seeds("corpus_responses.toml")
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"0", b"5", b"+", b"_", b";", b",", b"x", b"\xe9", b"\x0b", b"/",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"\r\n\r\n",
    b"Host: a\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"Connection: x\r\n", b"X: y\r\n", b" X\r\n", b"hello",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b";a=b", b"HTTP/1.0", b"GET / HTTP/1.1\r\n", b"http://a",
    b"Expect: 100-continue\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"POST ", b"OPTIONS * ",
]  # fmt: skip
SMALL = Limits(head=240, line=64, fields=6, body=64, extension=12, trailer=24, interim=2)


@st.composite
def mutated(draw, bases):
    """A message of the corpus after a few strokes: pieces put in, taken out, doubled or moved to its end."""
    raw = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        to = min(len(raw), at + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)))
        stroke = draw(st.integers(0, 3))
        if stroke == 0:
            raw = raw[:at] + piece + raw[at:]
        elif stroke == 1:
            raw = raw[:at] + raw[to:]
        elif stroke == 2:
            raw = raw[:at] + raw[at:to] + raw[at:]
        else:
            raw = raw[:at] + piece + raw[to:]
    return raw


def cut(raw, places):
    marks = sorted({place % (len(raw) + 1) for place in places})
    return [raw[a:b] for a, b in zip([0, *marks], [*marks, len(raw)], strict=True)]


def essence(events):
    found = []
    for event in events:
        if isinstance(event, bytes):
            if found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        elif isinstance(event, End):
            found.append(("end", event.trailers))
        elif isinstance(event, Refusal):
            found.append(event)
        else:
            names = ("lines", "plain", "claims", "length", "keep_alive", "upgrade", "http10")
            found.append((type(event).__name__, *(getattr(event, name) for name in names)))
    return found


def requests(pieces, limits, decoded):
    """The events of all requests in the pieces: after each the next is read at once."""
    reader = RequestReader(limits, decoded=decoded)
    events = []
    for piece in pieces:
        events += reader.feed(piece)
        while reader.ended:
            more = reader.next()
            events += more
            if not more:
                break
    return events, reader.eof()


places = st.lists(st.integers(0, 400), max_size=8)


@given(raw=mutated(REQUESTS), places=places, small=st.booleans(), decoded=st.booleans())
def test_cuts_change_nothing_about_requests(raw, places, small, decoded):
    limits = SMALL if small else Limits()
    events, end = requests([raw], limits, decoded)
    whole = essence(events)
    for pieces in (cut(raw, places), [bytes([byte]) for byte in raw]):
        events, ended = requests(pieces, limits, decoded)
        assert (essence(events), ended) == (whole, end)


@given(
    raw=mutated(RESPONSES),
    places=places,
    small=st.booleans(),
    decoded=st.booleans(),
    method=st.sampled_from([b"GET", b"HEAD"]),
    upgrade=st.sampled_from([None, b"websocket"]),
)
def test_cuts_change_nothing_about_responses(raw, places, small, decoded, method, upgrade):
    def read(pieces):
        reader = ResponseReader(SMALL if small else Limits())
        reader.expect(method, upgrade=upgrade, decoded=decoded)
        events = [event for piece in pieces for event in reader.feed(piece)]
        keep = reader.reusable
        return essence(events + reader.eof()), keep

    whole = read([raw])
    assert read(cut(raw, places)) == whole
    assert read([bytes([byte]) for byte in raw]) == whole


# ---- The plain parser. It returns None where the request is refused, "more" where it is incomplete, and otherwise
# method, target, fields, body and what follows.

NAME = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
FRAMERS = (
    b"host content-length transfer-encoding connection upgrade expect keep-alive te forwarded traceparent tracestate "
    b"proxy-connection proxy-authorization proxy-authenticate proxy-authentication-info http2-settings x-request-id "
    b"x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-ssl x-forwarded-scheme x-real-ip"
).split()
KNOWN = (
    b"GET HEAD POST PUT DELETE PATCH OPTIONS QUERY PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH"
).split()
NOT_IN_TRAILERS = (
    FRAMERS
    + (
        b"authorization cookie set-cookie www-authenticate cache-control content-encoding content-range content-type "
        b"location max-forwards range trailer vary age date expires if-match if-none-match if-modified-since "
        b"if-unmodified-since if-range pragma retry-after"
    ).split()
)


def plain_parser(raw):
    if raw[:2] == b"\r\n":
        raw = raw[2:]
    head, mark, rest = raw.partition(b"\r\n\r\n")
    if not mark:
        # Whether a beginning can still become a head is the reader's business; here only whole ones are judged.
        return "more"
    if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", head.replace(b"\r\n", b"")):
        return None
    line, *lines = head.split(b"\r\n")
    start = re.fullmatch(rb"(" + NAME + rb") ([!-\x22\x24-~]+) HTTP/1\.([01])", line)
    if start is None or start[1] not in KNOWN or len(lines) > 100:
        return None
    method, target, minor = start.groups()
    fields = []
    for field in lines:
        parts = re.fullmatch(rb"(" + NAME + rb"):[ \t]*(.*?)[ \t]*", field, re.DOTALL)
        if parts is None:
            return None
        name = parts[1].lower()
        if name not in FRAMERS and name.replace(b"_", b"-") in FRAMERS:
            return None
        fields.append((name, parts[2]))
    of = {}
    for name, value in fields:
        of.setdefault(name, []).append(value)
    hosts, lengths, codings = (of.get(name, []) for name in (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) > 1 or len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        return None
    if not hosts and minor == b"1":
        return None
    if hosts:
        host = re.fullmatch(rb"([\w.~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:(\d{1,5}))?", hosts[0])
        if host is None or int(host[3] or 0) > 65535:
            return None
    url = re.fullmatch(rb"https?://([^/?]+)(.*)", target, re.IGNORECASE)
    if url:
        if not hosts or url[1].lower() != hosts[0].lower():
            return None
        target = url[2] if url[2][:1] == b"/" else b"/" + url[2]
        if not url[2] and method == b"OPTIONS":
            target = b"*"
    elif target[:1] != b"/" and (method, target) != (b"OPTIONS", b"*"):
        return None
    if of.get(b"expect") and minor == b"1" and [value.lower() for value in of[b"expect"]] != [b"100-continue"]:
        return None
    for value in of.get(b"connection", []):
        for member in value.split(b","):
            name = member.strip(b" \t").lower()
            if name and not re.fullmatch(NAME, name):
                return None
            if name in (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"):
                return None
    if codings:
        if codings != [b"chunked"] or minor == b"0":
            return None
        body = plain_chunks(rest)
        return body if not isinstance(body, tuple) else (method, target, fields, *body)
    if lengths:
        if not re.fullmatch(rb"0|[1-9][0-9]{0,17}", lengths[0]):
            return None
        size = int(lengths[0])
        return "more" if len(rest) < size else (method, target, fields, rest[:size], rest[size:])
    return method, target, fields, b"", rest


def plain_chunks(rest):
    body = b""
    token = NAME
    quoted = rb'"([\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -~\x80-\xff])*"'
    while True:
        line, mark, after = rest.partition(b"\r\n")
        if not mark:
            return "more"
        found = re.fullmatch(rb"([0-9A-Fa-f]{1,15})(;" + token + rb"(=(" + token + rb"|" + quoted + rb"))?)*", line)
        if found is None:
            return None
        size = int(found[1], 16)
        rest = after
        if size == 0:
            break
        if len(rest) < size + 2:
            return None if len(rest) > size and rest[size:] != b"\r" else "more"
        if rest[size : size + 2] != b"\r\n":
            return None
        body += rest[:size]
        rest = rest[size + 2 :]
    if rest[:2] == b"\r\n":
        return body, rest[2:]
    trailers, mark, after = rest.partition(b"\r\n\r\n")
    if not mark:
        return "more"
    for line in trailers.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not re.fullmatch(NAME, name) or re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            return None
        if name.lower().replace(b"_", b"-") in NOT_IN_TRAILERS:
            return None
    return body, after


class Listener:
    """What llhttp hears."""

    def __init__(self):
        self.url, self.fields, self.body, self.complete = b"", [], b"", 0

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        if not self.complete:
            self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body):
        if not self.complete:
            self.body += body

    def on_message_complete(self):
        self.complete += 1


def llhttp(raw):
    heard = Listener()
    parser = httptools.HttpRequestParser(heard)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        heard.complete = heard.complete or 1
    return parser.get_method(), heard


@given(raw=mutated(REQUESTS))
def test_what_is_accepted_has_the_framing_that_the_plain_parser_and_llhttp_see(raw):
    reader = RequestReader(Limits(), decoded=True)
    events = reader.feed(raw)
    refused = bool(events) and isinstance(events[-1], Refusal)
    expected = plain_parser(raw)
    if expected is None:
        assert refused
        return
    if expected == "more":
        assert not reader.ended
        return
    assert not refused, events
    assert reader.ended
    head = events[0]
    method, target, fields, body, rest = expected
    assert (head.method, head.target) == (method, target)
    assert [(name, value) for name, values in head.fields.items() for value in values] == sorted(
        fields, key=lambda field: list(head.fields).index(field[0])
    )
    assert b"".join(event for event in events if isinstance(event, bytes)) == body
    assert reader.held == len(rest)
    taken = raw[: len(raw) - len(rest)]
    heard_method, heard = llhttp(taken)
    assert heard.complete == 1
    assert (heard_method, heard.body) == (method, body)


@given(raw=mutated(RESPONSES))
def test_a_response_that_is_accepted_is_the_same_to_llhttp(raw):
    reader = ResponseReader(Limits())
    reader.expect(b"GET", decoded=True)
    events = reader.feed(raw)
    if not events or isinstance(events[-1], Refusal):
        return
    events += reader.eof()
    heads = [event for event in events if isinstance(event, ResponseHead)]
    if heads[-1].interim or isinstance(events[-1], Refusal):
        return  # cut off
    if heads[-1].length == 0:
        return  # llhttp does not know that 204 and its like have none, and is told of no method
    heard = Listener()
    parser = httptools.HttpResponseParser(heard)
    # llhttp takes an interim response for a whole message: it hears of the final one only.
    final = raw
    for _ in heads[:-1]:
        final = final[final.index(b"\r\n\r\n") + 4 :]
    parser.feed_data(final)
    assert parser.get_status_code() == heads[-1].status
    assert heard.body == b"".join(event for event in events if isinstance(event, bytes))
    assert heard.fields[: sum(map(len, heads[-1].fields.values()))] == [
        (line.partition(b":")[0].lower(), line.partition(b":")[2].strip(b" \t")) for line in heads[-1].lines[1:]
    ]


# ---- What is passed on.

token = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ-", min_size=1, max_size=12).map(str.encode)
value = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b >= 0x20 and b != 0x7F).strip(b" \t"))
field = st.tuples(token.filter(lambda name: name.lower() not in FRAMERS), value)
hop = st.sampled_from(
    [(b"Connection", b"close"), (b"Connection", b"x-hop, keep-alive"), (b"X-Hop", b"1"), (b"Keep-Alive", b"timeout=5"),
     (b"TE", b"trailers"), (b"Proxy-Authorization", b"Basic eA=="), (b"Forwarded", b"for=9.9.9.9"),
     (b"X-Forwarded-For", b"9.9.9.9"), (b"X-Real-IP", b"9.9.9.9"), (b"Upgrade", b"h2c")]
)  # fmt: skip


@st.composite
def exchanges(draw):
    fields = draw(st.lists(field, max_size=6)) + draw(st.lists(hop, max_size=4))
    fields = draw(st.permutations(fields))
    body = draw(st.one_of(st.none(), st.binary(max_size=60)))
    chunked = body is not None and draw(st.booleans())
    return fields, body, chunked, draw(places)


def wire(start, fields, body, chunked, places):
    lines = [start, *(name + b": " + text for name, text in fields)]
    if body is not None:
        lines.append(b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body))
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    if chunked:
        return raw + b"".join(chunk(part) for part in cut(body, places)) + last_chunk()
    return raw + (body or b"")


def end_to_end(fields):
    dropped = {b"connection", b"keep-alive", b"te", b"proxy-authorization", b"upgrade"}
    if any(name == b"Connection" and b"x-hop" in text for name, text in fields):
        dropped.add(b"x-hop")
    return sorted((name.lower(), text) for name, text in fields if name.lower() not in dropped)


@given(exchange=exchanges(), decoded=st.booleans())
def test_a_request_that_is_passed_on_says_the_same_and_the_truth_of_the_client(exchange, decoded):
    fields, body, chunked, places = exchange
    raw = wire(b"POST /x?y HTTP/1.1", [(b"Host", b"shop:80"), *fields], body, chunked, places)
    reader = RequestReader(Limits(), decoded=decoded)
    events = [event for piece in cut(raw, places) for event in reader.feed(piece)]
    head = events[0]
    assert isinstance(events[-1], End)
    link = Forwarder(Forwarding()).link("192.0.2.1", "https")
    sent = link.request(head, link.identify(head, random.Random(1).getrandbits), b"10.0.0.1:9000")
    for event in events[1:-1]:
        sent += chunk(event) if decoded and chunked else event
    if decoded and chunked:
        sent += last_chunk()
    method, heard = llhttp(sent)
    assert (method, heard.url, heard.body, heard.complete) == (b"POST", b"/x?y", body or b"", 1)
    plain = plain_parser(sent)
    assert plain[0:2] == (b"POST", b"/x?y")
    assert plain[3:] == (body or b"", b"")
    added = {
        b"host": b"shop:80",
        b"x-forwarded-for": b"192.0.2.1",
        b"x-forwarded-proto": b"https",
        b"x-forwarded-host": b"shop:80",
    }
    got = dict(heard.fields)
    assert {name: got[name] for name in added} == added
    assert len(got[b"x-request-id"]) == 32
    made = {*added, b"x-request-id", b"traceparent", b"content-length", b"transfer-encoding"}
    expected = [pair for pair in end_to_end(fields) if pair[0] not in (b"forwarded", b"x-forwarded-for", b"x-real-ip")]
    assert sorted(pair for pair in heard.fields if pair[0] not in made) == expected
    assert sorted(pair for pair in plain[2] if pair[0] not in made) == expected


@given(exchange=exchanges(), decoded=st.booleans(), close=st.booleans())
def test_a_response_that_is_passed_on_says_the_same(exchange, decoded, close):
    fields, body, chunked, places = exchange
    raw = wire(b"HTTP/1.1 200 Fine", fields, body or b"", chunked, places)
    reader = ResponseReader(Limits())
    reader.expect(b"GET", decoded=decoded)
    events = [event for piece in cut(raw, places) for event in reader.feed(piece)]
    head = events[0]
    assert isinstance(head, ResponseHead)
    assert isinstance(events[-1], End)
    sent = Forwarder(Forwarding()).link("192.0.2.1", "http").response(head, close=close)
    for event in events[1:-1]:
        sent += chunk(event) if decoded and chunked else event
    if decoded and chunked:
        sent += last_chunk()
    heard = Listener()
    parser = httptools.HttpResponseParser(heard)
    parser.feed_data(sent)
    assert (parser.get_status_code(), heard.body, heard.complete) == (200, body or b"", 1)
    assert ((b"connection", b"close") in heard.fields) is close
    made = {b"connection", b"content-length", b"transfer-encoding"}
    assert sorted(pair for pair in heard.fields if pair[0] not in made) == end_to_end(fields)
    again = ResponseReader(Limits())
    again.expect(b"GET", decoded=True)
    assert b"".join(event for event in again.feed(sent) if isinstance(event, bytes)) == (body or b"")
