"""The PROXY protocol, versions 1 and 2, as a load balancer before us sends it: who the client really is.

Theory. A balancer that passes TCP on cannot add a field to a request, so it sends one header before the first byte of
the connection (Tarreau, "The PROXY protocol", 2010–2020): a line of text of at most 107 bytes in version 1, a block of
binary data that tells its own length in version 2. The specification asks that a listener either always expects it or
never: guessing would let any client name any address. So this reader is asked only where it is expected, and everything
else than a header is refused. Extensions (TLVs) of version 2 are handed on unread.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.refusal import Reason, Refusal

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_MOST: Final = 107  # with CR LF, as the specification counts
_V2_FIXED: Final = 16
_UNIX_LENGTH: Final = 216
_BAD: Final = Refusal(Reason.PROXY_HEADER.status, Reason.PROXY_HEADER)
_LONG: Final = Refusal(Reason.PROXY_TOO_LONG.status, Reason.PROXY_TOO_LONG)


@dataclass(frozen=True, slots=True)
class Proxied:
    """What the header says. Without addresses (the balancer's own health check, or an unknown family), use the
    socket's.
    """

    size: int
    """Bytes of the header: what comes after them is the client's."""
    source: tuple[str, int] | None = None
    """The client's address and port."""
    destination: tuple[str, int] | None = None
    """Where the client connected to."""
    extensions: bytes = b""
    """The TLVs of version 2."""


def read_proxy(data: bytes, limits: Limits) -> Proxied | Refusal | None:
    """The header at the beginning of ``data``, which are all bytes that came so far; None while it is incomplete."""
    if data[:12] == _V2[: len(data)]:
        return _version_2(data, int(limits.proxy)) if len(data) >= _V2_FIXED else None if _v2_so_far(data) else _BAD
    if data[:6] == _V1[: len(data)]:
        return _version_1(data)
    return _BAD


def _version_1(data: bytes) -> Proxied | Refusal | None:
    end = data.find(b"\r\n", 0, _V1_MOST)
    if end < 0:
        return _LONG if len(data) >= _V1_MOST else None
    size = end + 2
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return Proxied(size)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        return _BAD
    make = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    ends = []
    for address, port in ((words[2], words[4]), (words[3], words[5])):
        if b"%" in address:
            return _BAD  # a zone, which is any text at all and would stand in the heads that are passed on
        try:
            host = str(make(address.decode("ascii")))
        except ValueError:
            return _BAD
        if not port.isdigit() or int(port) > 65535 or (port[:1] == b"0" and port != b"0"):
            return _BAD
        ends.append((host, int(port)))
    return Proxied(size, ends[0], ends[1])


def _v2_so_far(data: bytes) -> bool:
    return len(data) < 13 or data[12] in (0x20, 0x21)


def _version_2(data: bytes, most: int) -> Proxied | Refusal | None:
    command, family, length = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):
        return _BAD
    size = _V2_FIXED + length
    if size > most:
        return _LONG
    if len(data) < size:
        return None
    body = data[_V2_FIXED:size]
    if command == 0x20 or family == 0x00:  # LOCAL, UNSPEC
        return Proxied(size)
    if family in (0x11, 0x12) and length >= 12:
        one, other, from_port, to_port = struct.unpack_from("!4s4sHH", body)
        taken = 12
    elif family in (0x21, 0x22) and length >= 36:
        one, other, from_port, to_port = struct.unpack_from("!16s16sHH", body)
        taken = 36
    elif family in (0x31, 0x32) and length >= _UNIX_LENGTH:
        return Proxied(size, extensions=body[_UNIX_LENGTH:])
    else:
        return _BAD
    source = (str(ipaddress.ip_address(one)), from_port)
    return Proxied(size, source, (str(ipaddress.ip_address(other)), to_port), body[taken:])
