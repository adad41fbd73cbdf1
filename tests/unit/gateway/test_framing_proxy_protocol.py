"""The PROXY protocol: both versions, cut anywhere, and everything that is no header."""

import ipaddress
import struct

import pytest

from tenfold.gateway.framing import Limits, Proxied, Reason, Refusal, read_proxy

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
REST = b"GET / HTTP/1.1\r\n"


def v2(command, family, body=b""):
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def addresses(one, other, from_port, to_port):
    return (
        ipaddress.ip_address(one).packed + ipaddress.ip_address(other).packed + struct.pack("!HH", from_port, to_port)
    )


V4 = addresses("192.0.2.1", "198.51.100.2", 56324, 443)
V6 = addresses("2001:db8::1", "2001:db8::2", 1, 65535)
GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ("192.0.2.1", 56324), ("198.51.100.2", 443), b""),
    (b"PROXY TCP6 2001:db8::1 2001:DB8::2 0 65535\r\n", ("2001:db8::1", 0), ("2001:db8::2", 65535), b""),
    (b"PROXY UNKNOWN\r\n", None, None, b""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None, b""),
    (v2(0x21, 0x11, V4), ("192.0.2.1", 56324), ("198.51.100.2", 443), b""),
    (v2(0x21, 0x12, V4), ("192.0.2.1", 56324), ("198.51.100.2", 443), b""),
    (v2(0x21, 0x21, V6), ("2001:db8::1", 1), ("2001:db8::2", 65535), b""),
    (v2(0x21, 0x11, V4 + b"\x04\x00\x01x"), ("192.0.2.1", 56324), ("198.51.100.2", 443), b"\x04\x00\x01x"),
    (v2(0x20, 0x00), None, None, b""),
    (v2(0x20, 0x11, V4), None, None, b""),
    (v2(0x21, 0x00, b"whatever"), None, None, b""),
    (v2(0x21, 0x31, b"\0" * 216 + b"tlv"), None, None, b"tlv"),
]


@pytest.mark.parametrize(("raw", "source", "destination", "extensions"), GOOD)
def test_a_header_is_read_once_it_is_whole(raw, source, destination, extensions):
    for size in range(len(raw)):
        assert read_proxy(raw[:size], Limits()) is None
    assert read_proxy(raw + REST, Limits()) == Proxied(len(raw), source, destination, extensions)


@pytest.mark.parametrize(
    "raw",
    [
        REST,
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXYTCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.\xe9 198.51.100.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 2001:db8::2 ::1%x\nX-Real-IP:192.0.2.9 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY \r\n",
        SIGNATURE[:11] + b"X" + v2(0x21, 0x11, V4)[12:],
        v2(0x11, 0x11, V4),
        v2(0x22, 0x11, V4),
        v2(0x21, 0x13, V4),
        v2(0x21, 0x41, V4),
        v2(0x21, 0x11, V4[:-1]),
        v2(0x21, 0x21, V6[:-1]),
        v2(0x21, 0x31, b"\0" * 215),
    ],
)
def test_everything_else_is_refused_however_it_is_cut(raw):
    refused = Refusal(400, Reason.PROXY_HEADER)
    assert read_proxy(raw, Limits()) == refused
    results = [read_proxy(raw[:size], Limits()) for size in range(len(raw) + 1)]
    # Once refused always refused, and never taken for a header on the way.
    first = results.index(refused)
    assert results == [None] * first + [refused] * (len(results) - first)


def test_a_header_that_does_not_end_is_refused_at_the_limit():
    line = b"PROXY UNKNOWN " + b"x" * 200
    assert read_proxy(line[:106], Limits()) is None
    assert read_proxy(line[:107], Limits()) == Refusal(400, Reason.PROXY_TOO_LONG)
    whole = b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n"
    assert read_proxy(whole, Limits()) == Proxied(107)
    big = v2(0x21, 0x11, V4 + b"\0" * 5000)
    assert read_proxy(big[:16], Limits()) == Refusal(400, Reason.PROXY_TOO_LONG)
    assert read_proxy(big, Limits(proxy="8KiB")) == Proxied(
        len(big), ("192.0.2.1", 56324), ("198.51.100.2", 443), b"\0" * 5000
    )
