"""The options of what is added to heads."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.framing.fields import KINDS, REQUEST_ID, TOKEN
from tenfold.gateway.framing.start_line import is_host

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX: Final = "unix"
"""The peer's address on a unix socket, and how such peers are called among the trusted."""

_MODES: Final = ("pass", "new", "off")
_PSEUDONYM: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """What is added to heads.

    ``trusted`` (none) are the networks of hops that may say who the client is, such as ``"10.0.0.0/8"``, and
    ``"unix"`` for unix sockets; ``hops`` (None: any number) is how many of them one after another are believed, the
    peer being the first. ``x_forwarded`` (on) writes X-Forwarded-For, -Proto and -Host, ``forwarded`` (off) the
    Forwarded of RFC 7239. ``via`` (off) is our name in Via. ``request_id`` and ``trace`` say what becomes of the
    request's id, which is in the header ``request_id_name`` (X-Request-Id), and of traceparent: ``"pass"`` good ones
    that came and make others, always ``"new"``, or ``"off"``: let them alone. ``host`` is ``"client"`` (the Host that
    came), ``"endpoint"`` or a name. ``upgrades`` (websocket) are the protocols whose Upgrade is passed on; any other is
    removed, and the server answers in HTTP/1.1.

    Raises `MisuseError` for what makes no sense.
    """

    trusted: Sequence[str] = ()
    hops: int | None = None
    x_forwarded: bool = True
    forwarded: bool = False
    via: str | None = None
    request_id: str = "pass"
    request_id_name: str = "X-Request-Id"
    trace: str = "pass"
    host: str = "client"
    upgrades: Sequence[str] = ("websocket",)

    def __post_init__(self) -> None:
        for name in ("trusted", "upgrades"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise MisuseError(f"forwarding {name}: expected a list of strings, got {value!r}; put it in brackets")
            object.__setattr__(self, name, tuple(value))
        networks(self.trusted)
        for name in ("request_id", "trace"):
            if getattr(self, name) not in _MODES:
                raise MisuseError(f'forwarding {name}: expected "pass", "new" or "off", got {getattr(self, name)!r}')
        if self.hops is not None and (type(self.hops) is not int or self.hops < 1):
            raise MisuseError(f"forwarding hops: expected None or a whole number of 1 or more, got {self.hops!r}")
        header = self.request_id_name.encode()
        if TOKEN.fullmatch(header) is None or KINDS.get(header.lower(), REQUEST_ID) != REQUEST_ID:
            raise MisuseError(
                "forwarding request_id_name: expected a header that has no other meaning, such as "
                f'"X-Request-Id", got {self.request_id_name!r}'
            )
        if self.via is not None and _PSEUDONYM.fullmatch(self.via) is None:
            raise MisuseError(f'forwarding via: expected a name such as "edge-1", got {self.via!r}')
        if not self.host.isascii() or not is_host(self.host.encode()):
            raise MisuseError(f'forwarding host: expected "client", "endpoint" or a host, got {self.host!r}')
        for protocol in self.upgrades:
            if not protocol.isascii() or TOKEN.fullmatch(protocol.encode()) is None:
                raise MisuseError(f'forwarding upgrades: expected names such as "websocket", got {protocol!r}')


def networks(trusted: Sequence[str]) -> tuple[Network, ...]:
    """The trusted networks. Raises `MisuseError`."""
    found: list[Network] = []
    for text in trusted:
        if text == UNIX:
            continue
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise MisuseError(
                f'forwarding trusted: expected networks such as "10.0.0.0/8" or "unix", got {text!r} ({error})'
            ) from error
    return tuple(found)
