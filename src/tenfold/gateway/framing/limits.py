"""How much of everything, and how long, with the precedents that the defaults follow."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, size, whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes (``"32KiB"``) that the readers refuse to exceed.

    ``head`` (32 KiB; nginx 4 × 8 KiB, HAProxy 16 KiB, Envoy 60 KiB) is a head from its first byte to the empty line,
    ``fields`` (100; Apache, Envoy 100, HAProxy 101) how many fields it has, ``line`` (8 KiB; nginx, Apache) its first
    line. ``body`` (None: any) is a request's body without chunk framing. ``extension`` (4 KiB; llhttp has 16 KiB) are
    the extensions of one chunk, ``trailer`` (8 KiB) a body's trailers. ``interim`` (16) is how many 1xx responses may
    come before the final one; ``proxy`` (4 KiB) a PROXY protocol header of version 2.

    Raises `MisuseError` for what makes no sense.
    """

    head: Size = 32 * 1024
    fields: int = 100
    line: Size = 8 * 1024
    body: Size | None = None
    extension: Size = 4 * 1024
    trailer: Size = 8 * 1024
    interim: int = 16
    proxy: Size = 4 * 1024

    def __post_init__(self) -> None:
        for name, least in (("head", 64), ("line", 16), ("extension", 0), ("trailer", 0), ("proxy", 232)):
            number = size(getattr(self, name), f"limits {name}")
            if number < least:
                raise MisuseError(f"limits {name}: expected {least} bytes or more, got {number}; raise it")
            object.__setattr__(self, name, number)
        if self.body is not None:
            object.__setattr__(self, "body", size(self.body, "limits body"))
        whole_number(self.fields, "limits fields", least=1)
        whole_number(self.interim, "limits interim", least=1)
        if int(self.line) > int(self.head):
            raise MisuseError(f"limits line: expected at most head ({self.head} bytes), got {self.line}; raise head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds (or ``"10s"``) that whoever owns the sockets waits; nothing in this package waits itself.

    ``head`` (10 s; HAProxy's ``timeout http-request`` is commonly so) from the first byte of a request to the end of
    its head; ``body`` (30 s) between two pieces of a body; ``idle`` (60 s; nginx 75 s) of a connection between two
    requests; ``connect`` (2 s) to reach an endpoint; ``first_byte`` (30 s; nginx and HAProxy 60 s) from the end of
    a request to the first byte of its response; ``tunnel`` (1 h, as HAProxy's manual has it) without a byte either way
    after an upgrade.

    Raises `MisuseError` for what makes no sense, 0 included: a gateway that waits for ever is out of order soon.
    """

    head: Duration = 10.0
    body: Duration = 30.0
    idle: Duration = 60.0
    connect: Duration = 2.0
    first_byte: Duration = 30.0
    tunnel: Duration = 3600.0

    def __post_init__(self) -> None:
        for name in ("head", "body", "idle", "connect", "first_byte", "tunnel"):
            seconds = duration(getattr(self, name), f"timeouts {name}")
            if seconds <= 0:
                raise MisuseError(f"timeouts {name}: expected more than 0, got {seconds:g}")
            object.__setattr__(self, name, seconds)
