"""Laws of the framing for any bytes at all, and the fuzzer (atheris: libFuzzer) that looks for bytes that break one.

    python tests/property/gateway/fuzz_framing.py [seconds] [folder that keeps what was found interesting]

The first five bytes of an input say which law it is for, with which options, and where the bytes after them are cut.
An input that breaks a law is written to ``crash-…`` in the folder and named on the way out; give its path in place of
the seconds to run it again. `test_fuzz_seeds.py` runs the laws over the corpora, without the fuzzer.

The judges are the reader itself with the bytes cut elsewhere, and `reference_reader`, which shares no line with it: of
a message that is accepted there is one reading, and what is passed on has the same one.
"""

from __future__ import annotations

import random
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

CORPORA = Path(__file__).parents[2] / "unit" / "gateway"
METHODS = [b"GET", b"HEAD", b"POST", b"OPTIONS"]
HEADER = 5


def _framing() -> Any:
    from tenfold.gateway import framing  # here, while atheris listens, so that it sees the branches

    return framing


def _reference() -> Any:
    spec = spec_from_file_location("gateway_reference_reader", CORPORA / "reference_reader.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _reference()


def limits(small: bool) -> Any:
    """The defaults, or limits that a short input can meet."""
    if small:
        return _framing().Limits(head=240, line=64, fields=6, body=64, extension=12, trailer=24, interim=2)
    return _framing().Limits()


def pieces(raw: bytes, places: bytes) -> list[bytes]:
    """The bytes cut at these places, as far as they go."""
    marks = sorted({place * len(raw) // 255 for place in places})
    return [raw[a:b] for a, b in zip([0, *marks], [*marks, len(raw)], strict=True) if a < b]


def essence(events: list[Any]) -> list[Any]:
    """Events with neighbouring slices joined, and all of heads that can be compared."""
    f = _framing()
    found: list[Any] = []
    for event in events:
        if isinstance(event, bytes):
            if found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        elif isinstance(event, f.End):
            found.append(("end", event.trailers))
        elif isinstance(event, f.Refusal):
            found.append(event)
        else:
            names = ("lines", "plain", "claims", "length", "keep_alive", "upgrade", "http10")
            found.append((type(event).__name__, *(getattr(event, name) for name in names)))
    return found


def _requests(parts: list[bytes], bounds: Any, decoded: bool) -> tuple[list[Any], Any]:
    reader = _framing().RequestReader(bounds, decoded=decoded)
    events = []
    for part in parts:
        events += reader.feed(part)
        while reader.ended:
            more = reader.next()
            events += more
            if not more:
                break
    return events, reader.eof()


def law_requests(raw: bytes, flags: int, places: bytes) -> None:
    """Cuts change nothing; what is accepted has the one strict reading; what is passed on has the same."""
    f = _framing()
    bounds = limits(bool(flags & 1))
    decoded = bool(flags & 2)
    whole, end = _requests([raw], bounds, decoded)
    for parts in (pieces(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
        events, ended = _requests(parts, bounds, decoded)
        assert (essence(events), ended) == (essence(whole), end), (raw, essence(events), essence(whole))
    plain, _ = _requests([raw], f.Limits(), True)
    strict = reference.read(raw, lead=True)
    heads: list[Any] = []
    bodies: list[bytes] = []
    count = 0
    for event in plain:
        if isinstance(event, f.RequestHead):
            heads.append(event)
            bodies.append(b"")
        elif isinstance(event, bytes):
            bodies[-1] += event
        elif isinstance(event, f.End):
            count += 1
    assert len(strict.messages) >= count, (raw, strict)
    link = f.Forwarder(f.Forwarding()).link("192.0.2.1", "http")
    for head, body, (line, _, judged) in zip(heads[:count], bodies, strict.messages, strict=False):
        assert line.split(b" ")[0] == head.method
        assert body == judged, raw
        sent = link.request(head, link.identify(head, random.Random(1).getrandbits), b"10.0.0.1:9000")
        sent += f.chunk(body) + f.last_chunk() if head.length == f.CHUNKED else body
        again = reference.read(sent)
        assert again.rest == "nothing", (raw, sent)
        [(line, fields, passed)] = again.messages
        assert line == b"%b %b HTTP/1.1" % (head.method, head.target)
        assert passed == body
        assert len(fields[b"host"]) == 1


def _responses(parts: list[bytes], bounds: Any, method: bytes, decoded: bool) -> list[Any]:
    reader = _framing().ResponseReader(bounds)
    reader.expect(method, upgrade=b"websocket", decoded=decoded)
    return [event for part in parts for event in reader.feed(part)] + reader.eof()


def law_responses(raw: bytes, flags: int, places: bytes) -> None:
    """Cuts change nothing; a whole response has the one strict reading; what is passed on has the same."""
    f = _framing()
    method = METHODS[flags >> 2 & 3]
    bounds = limits(bool(flags & 1))
    whole = essence(_responses([raw], bounds, method, bool(flags & 2)))
    for parts in (pieces(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
        assert essence(_responses(parts, bounds, method, bool(flags & 2))) == whole, (raw, whole)
    events = _responses([raw], f.Limits(), method, True)
    finals = [event for event in events if isinstance(event, f.ResponseHead) and not event.interim]
    if not finals or not any(isinstance(event, f.End) for event in events) or finals[0].status == 101:
        return
    body = b"".join(event for event in events if isinstance(event, bytes))
    head = finals[0]
    strict = reference.read(raw, methods=[method], ended=True)
    interims = sum(isinstance(event, f.ResponseHead) for event in events) - 1
    line, _, judged = strict.messages[interims]
    assert int(line.split(b" ")[1]) == head.status, raw
    assert judged == body, (raw, judged, body)
    sent = f.Forwarder(f.Forwarding()).link("192.0.2.1", "http").response(
        head, close=head.length == f.UNTIL_CLOSE, chunked=None if head.length == f.CHUNKED else False
    )  # fmt: skip
    sent += f.chunk(body) + f.last_chunk() if head.length == f.CHUNKED else body
    again = reference.read(sent, methods=[method], ended=True)
    assert (again.rest, len(again.messages), again.messages[0][2]) == ("nothing", 1, body), (raw, sent)


def _chunks(parts: list[bytes], bounds: Any, decoded: bool) -> tuple[Any, ...]:
    from tenfold.gateway.framing.refusal import Refused

    chunks = _framing().Chunks(bounds, decoded=decoded, most=bounds.body)
    out: list[bytes] = []
    for at, part in enumerate(parts):
        try:
            rest = chunks.feed(part, out)
        except Refused as refused:
            return b"".join(out), refused.reason, None, ()
        if rest is not None:
            return b"".join(out), None, rest + b"".join(parts[at + 1 :]), chunks.trailers
    return b"".join(out), None, None, ()


def law_chunks(raw: bytes, flags: int, places: bytes) -> None:
    """Cuts change nothing; a whole body has the one strict reading, and as it came it is what came."""
    bounds = limits(bool(flags & 1))
    for decoded in (False, True):
        whole = _chunks([raw], bounds, decoded)
        for parts in (pieces(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
            again = _chunks(parts, bounds, decoded)
            assert again[1:] == whole[1:], (raw, again, whole)
            if whole[2] is not None or whole[1] is not None:
                assert again[0] == whole[0], (raw, again, whole)
        body, _, rest, _ = whole
        if rest is not None:
            used = raw[: len(raw) - len(rest)]
            strict = reference.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + used)
            assert strict.rest == "nothing", raw
            assert body == (strict.messages[0][2] if decoded else used), raw


def law_proxy(raw: bytes, flags: int, places: bytes) -> None:
    """A header is known by its own bytes: less of them is no other header, more of them change nothing."""
    import ipaddress

    f = _framing()
    bounds = f.Limits()
    whole = f.read_proxy(raw, bounds)
    for at in range(len(raw)):
        part = f.read_proxy(raw[:at], bounds)
        if part is None:
            continue
        assert part == whole, (raw, at, part, whole)
        if isinstance(part, f.Proxied):
            assert at >= part.size, (raw, at)
    if isinstance(whole, f.Proxied):
        assert f.read_proxy(raw[: whole.size], bounds) == whole
        assert f.read_proxy(raw + places, bounds) == whole
        for side in (whole.source, whole.destination):
            if side is not None:
                assert str(ipaddress.ip_address(side[0])) == side[0]
                assert "%" not in side[0], raw
                assert 0 <= side[1] <= 65535


LAWS = (law_requests, law_responses, law_chunks, law_proxy)


def run(data: bytes) -> None:
    """One input."""
    if len(data) > HEADER:
        LAWS[data[0] % len(LAWS)](data[HEADER:], data[1], data[2:HEADER])


def seeds() -> list[bytes]:
    """The messages of the corpora, chunked bodies of them, and headers of the PROXY protocol, each for its law."""
    found = []
    for which, name in enumerate(("corpus_requests.toml", "corpus_responses.toml")):
        corpus = tomllib.loads((CORPORA / name).read_text(encoding="utf-8"))
        for fate in ("accepted", "refused"):
            for case in corpus[fate]:
                raw = case["raw"].encode("latin-1")
                method = case.get("method", "").encode()
                flags = METHODS.index(method) << 2 if which and method in METHODS else 0
                found += [bytes([which, flags | more, 40, 120, 200]) + raw for more in (0, 3)]
                if b"hunked" in raw:
                    found.append(bytes([2, 0, 50, 100, 150]) + raw.partition(b"\r\n\r\n")[2])
    signature = b"\r\n\r\n\x00\r\nQUIT\n"
    found += [
        bytes([3, 0, 1, 2, 3]) + raw
        for raw in (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /",
            b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            b"PROXY UNKNOWN anything at all\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
            b"PROXY \r\n",
            signature + b"\x21\x11\x00\x0c" + bytes(range(12)) + b"GET /",
            signature + b"\x21\x21\x00\x24" + bytes(range(36)),
            signature + b"\x20\x00\x00\x00",
            signature + b"\x21\x31\x00\xd8" + bytes(216),
            signature + b"\x21\x11\x00\x0f" + bytes(12) + b"\x04\x00\x00",
        )
    ]
    return found


def main(arguments: list[str]) -> None:
    """Fuzz for that many seconds, or run the inputs of the files named."""
    paths = [Path(each) for each in arguments if Path(each).is_file()]
    if paths:
        for path in paths:
            run(path.read_bytes())
        return
    try:
        import atheris  # only `make fuzz` has it
    except ImportError:
        print("atheris has no wheel for this system or Python: the framing is not fuzzed", file=sys.stderr)
        return
    with atheris.instrument_imports(include=["tenfold.gateway.framing"]):
        _framing()
    seconds = int(arguments[0]) if arguments else 60
    kept = Path(arguments[1] if len(arguments) > 1 else ".hypothesis/fuzz-framing")
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):  # into the corpus: libFuzzer ends the process without any `finally`
        (kept / f"seed-{number:04}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=700", "-timeout=20", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(kept)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
