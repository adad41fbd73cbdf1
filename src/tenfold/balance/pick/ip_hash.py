"""IP hash: who calls from one address, or one network, always comes to the same member. Rendezvous by the address.

nginx's ``ip_hash`` goes by the first three octets of an IPv4 address; behind a large network that is one member for
all. Here an IPv4 address counts as a whole unless asked otherwise. Of an IPv6 address the first 64 bits count, since a
host changes the others as it likes (RFC 8981). An IPv4 address in IPv6 clothes (``::ffff:192.0.2.1``) is the IPv4 one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.balance.pick.base import Request
from tenfold.balance.pick.hashing import hash64
from tenfold.balance.pick.keyed import TABLE
from tenfold.balance.pick.rendezvous import Rendezvous

_V4_BITS: Final = 32
_V6_BITS: Final = 128


class IPHash(Rendezvous):
    """By the network of `Request.client`: its first ``v4`` (32) or ``v6`` (64) bits. The rest as `Rendezvous`."""

    name = "ip_hash"

    def __init__(self, *, v4: int = _V4_BITS, v6: int = 64, table: int = TABLE, bound: float | None = None) -> None:
        super().__init__(table=table, bound=bound)
        self.v4 = _bits(v4, "v4", _V4_BITS)
        self.v6 = _bits(v6, "v6", _V6_BITS)

    def _number(self, request: Request) -> int:
        client = request.client
        if client and ":" not in client and self.v4 == _V4_BITS:  # the usual case, without parsing
            return hash64(client)
        try:
            address = ip_address(client.partition("%")[0])
        except ValueError:
            raise MisuseError(
                f"IPHash: expected the caller's address to choose by, got {client!r}; give Request(client=…), such as "
                f'"192.0.2.1", without a port'
            ) from None
        if not isinstance(address, IPv4Address):
            if address.ipv4_mapped is None:
                return hash64(f"v6 {int(address) >> (_V6_BITS - self.v6)}")
            address = address.ipv4_mapped
        return hash64(str(address) if self.v4 == _V4_BITS else f"v4 {int(address) >> (_V4_BITS - self.v4)}")


def _bits(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise MisuseError(f"IPHash {name}: expected a number of bits from 1 to {most}, got {value!r}")
    return value
