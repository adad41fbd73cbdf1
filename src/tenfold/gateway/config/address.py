"""Where a gateway listens: a TCP address or a unix socket."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final

from tenfold.gateway.config.kinds import Kind, refused

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """``host`` and ``port`` of a TCP address (port 0: the system chooses), or the ``path`` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def meets(self, other: Address) -> bool:
        """Whether both cannot be listened to at once, as far as that can be seen: the same socket, or one of them is
        all addresses of the machine.
        """
        if self.path or other.path:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        return self.host == other.host or "0.0.0.0" in (self.host, other.host) or "::" in (self.host, other.host)


class AddressKind(Kind):
    """``"127.0.0.1:8080"``, ``"[::1]:8080"`` or ``"unix:/run/gateway.sock"``."""

    label = "address"

    def value(self, given: Any) -> Any:
        if isinstance(given, Address):
            return given
        expected = 'an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/run/gateway.sock"'
        if not isinstance(given, str):
            raise refused(expected, given)
        if given.startswith("unix:"):
            path = given.removeprefix("unix:")
            if not path or not path.isprintable() or len(path.encode()) > 107:  # sun_path of Linux, with its NUL
                raise refused('the path of a unix socket, of 107 bytes or fewer, after "unix:"', given)
            return Address(path=path)
        host, colon, port = given.rpartition(":")
        if colon and not host:
            raise refused(f'{expected}; for all addresses of the machine say "0.0.0.0:{port}"', given)
        if not colon or re.fullmatch(r"\d{1,5}", port, re.ASCII) is None or int(port) > 65535:
            raise refused(f"{expected}, with a port of 0 to 65535", given)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if not _is_ip(host, 6):
                raise refused(expected, given)
        elif _HOST.fullmatch(host) is None or (re.fullmatch(r"[\d.]+", host) and not _is_ip(host, 4)):
            raise refused(expected, given)
        return Address(host.lower(), int(port))

    def write(self, value: Any) -> Any:
        return str(value)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


class NetworkKind(Kind):
    """``"10.0.0.0/8"`` or an address alone."""

    label = "network"

    def value(self, given: Any) -> Any:
        if isinstance(given, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return given
        try:
            if not isinstance(given, str):
                raise ValueError(given)
            return ipaddress.ip_network(given)
        except ValueError:
            raise refused(
                'a network such as "10.0.0.0/8" or "fd00::/8", without bits beyond its prefix', given
            ) from None

    def write(self, value: Any) -> Any:
        return str(value)
