"""Every message of the corpora meets the fate it is listed with, whole, byte by byte and cut in two anywhere."""

import tomllib
from pathlib import Path

import pytest

from tenfold.gateway.framing import (
    END,
    End,
    Limits,
    Reason,
    Refusal,
    RequestHead,
    RequestReader,
    ResponseHead,
    ResponseReader,
)

HERE = Path(__file__).parent
REQUESTS = tomllib.loads((HERE / "corpus_requests.toml").read_text(encoding="utf-8"))
RESPONSES = tomllib.loads((HERE / "corpus_responses.toml").read_text(encoding="utf-8"))


def cases(corpus, fate):
    return [pytest.param(case, id=f"{number}-{case['why']}") for number, case in enumerate(corpus[fate])]


def cuts(raw):
    """The bytes whole, one by one, and in two pieces for each place between them."""
    yield [raw]
    yield [raw[at : at + 1] for at in range(len(raw))]
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]


def merged(events):
    """The events with neighbouring slices joined, and what can be compared of the heads."""
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
            found.append((event.status, event.reason))
        else:
            found.append((type(event).__name__, event.lines, event.length, event.keep_alive, event.plain))
    return found


def read_request(pieces, decoded=True):
    reader = RequestReader(Limits(), decoded=decoded)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, events


def read_response(pieces, method, decoded=True):
    reader = ResponseReader(Limits())
    reader.expect(method, decoded=decoded)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, events + reader.eof()


def test_the_corpora_are_as_large_as_promised():
    assert sum(len(corpus["refused"]) for corpus in (REQUESTS, RESPONSES)) >= 150
    used = {case["reason"] for corpus in (REQUESTS, RESPONSES) for case in corpus["refused"]}
    # What needs limits, sockets' ends or another protocol is tested elsewhere; every other reason has a case.
    elsewhere = {
        "line_too_long", "head_too_large", "too_many_fields", "body_too_large", "chunk_extension_too_long",
        "trailer_too_large", "interim_flood", "proxy_header", "proxy_too_long", "gatekeeper",
    }  # fmt: skip
    assert {reason.token for reason in Reason} - used == elsewhere


@pytest.mark.parametrize("case", cases(REQUESTS, "refused"))
def test_a_request_is_refused_for_its_reason_however_it_is_cut(case):
    raw = case["raw"].encode("latin-1")
    reason = Reason[case["reason"].upper()]
    whole = merged(read_request([raw], decoded=False)[1])
    assert whole[-1] == (reason.status, reason)
    for pieces in cuts(raw):
        reader, events = read_request(pieces, decoded=False)
        assert merged(events) == whole
        assert reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == []


@pytest.mark.parametrize("case", cases(REQUESTS, "accepted"))
def test_a_request_is_accepted_with_its_framing_however_it_is_cut(case):
    raw = case["raw"].encode("latin-1")
    whole = merged(read_request([raw])[1])
    for pieces in cuts(raw):
        reader, events = read_request(pieces)
        assert merged(events) == whole
        head = events[0]
        assert isinstance(head, RequestHead)
        assert isinstance(events[-1], End)
        assert (head.method, head.target, head.length) == (
            case["method"].encode(),
            case["target"].encode("latin-1"),
            case["length"],
        )
        assert b"".join(event for event in events if isinstance(event, bytes)) == case["body"].encode("latin-1")
        assert reader.ended
        assert reader.surplus() == case["surplus"].encode("latin-1")


@pytest.mark.parametrize("case", cases(RESPONSES, "refused"))
def test_a_response_is_refused_for_its_reason_however_it_is_cut(case):
    raw, method = case["raw"].encode("latin-1"), case["method"].encode()
    whole = merged(read_response([raw], method, decoded=False)[1])
    assert whole[-1] == (502, Reason[case["reason"].upper()])
    for pieces in cuts(raw):
        reader, events = read_response(pieces, method, decoded=False)
        assert merged(events) == whole
        assert not reader.reusable


@pytest.mark.parametrize("case", cases(RESPONSES, "accepted"))
def test_a_response_is_accepted_with_its_framing_however_it_is_cut(case):
    raw, method = case["raw"].encode("latin-1"), case["method"].encode()
    for pieces in cuts(raw):
        reader = ResponseReader(Limits())
        reader.expect(method, decoded=True)
        events = [event for piece in pieces for event in reader.feed(piece)]
        assert reader.reusable == case["reusable"]
        events += reader.eof()
        heads = [event for event in events if isinstance(event, ResponseHead)]
        assert [head.status for head in heads] == case["statuses"]
        assert [head.interim for head in heads] == [True] * (len(heads) - 1) + [False]
        assert heads[-1].length == case["length"]
        assert isinstance(events[-1], End)
        assert events.count(END) <= 1
        assert b"".join(event for event in events if isinstance(event, bytes)) == case["body"].encode("latin-1")
