"""The options of the edge: what each means, in which unit, and what is taken where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, share, size, whole_number
from tenfold.gateway.edge.status import TOKEN

_COOKIES: Final = ("refuse", "strip", "store")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOptions:
    """What the edge keeps, and when it answers by itself.

    ``name`` ("tenfold") is what Cache-Status calls it. ``max_bytes`` (256 MB) bounds all that it holds, what is just
    arriving included; ``max_items`` (100,000) the number of responses; one response may take a share of
    ``largest_share`` (0.1) of the bytes at most. A URL has at most ``max_variants`` (64) responses, the oldest goes
    first.

    ``heuristic_share`` (0.1) of the time since Last-Modified, ``heuristic_max`` (1 day) at most, is the life of a
    response that names none; 0 turns that off. ``stale_while_revalidate`` and ``stale_if_error`` (0: no) are for
    responses that say nothing of their own and do not forbid stale use. ``honour_request`` (True): a request's
    Cache-Control is obeyed, as RFC 9111 asks; False leaves clients no way to reach the origin past the edge
    (``only-if-cached`` and ``no-store`` are obeyed all the same).

    ``set_cookie`` says what becomes of a response that sets one: ``"refuse"`` (default) never stores it, ``"strip"``
    stores it without the cookie, ``"store"`` does what RFC 9111 allows, which hands one user's cookie to all.
    ``normalise_encoding`` (True): clients that accept the same codings share a response.

    ``max_followers`` (1,000) requests wait for another one's response at most, further ones go on their own. A URL
    whose response could not be shared is not collapsed for ``uncollapsed`` (2 min).

    Raises `MisuseError` for what makes no sense.
    """

    name: str = "tenfold"
    max_bytes: Size = "256MB"
    max_items: int = 100_000
    largest_share: str | float = 0.1
    max_variants: int = 64
    heuristic_share: str | float = 0.1
    heuristic_max: Duration = "1d"
    stale_while_revalidate: Duration = 0.0
    stale_if_error: Duration = 0.0
    honour_request: bool = True
    set_cookie: str = "refuse"
    normalise_encoding: bool = True
    max_followers: int = 1000
    uncollapsed: Duration = "2m"

    def __post_init__(self) -> None:
        put = object.__setattr__
        if type(self.name) is not str or not TOKEN.fullmatch(self.name):
            raise MisuseError(f'edge name: expected a token such as "tenfold" or "edge-1", got {self.name!r}')
        put(self, "max_bytes", size(self.max_bytes, "edge max_bytes"))
        if self.bytes < 64_000:
            raise MisuseError(f'edge max_bytes: expected 64 kB or more, such as "256MB", got {self.bytes}')
        for name in ("max_items", "max_variants"):
            whole_number(getattr(self, name), f"edge {name}", least=1)
        whole_number(self.max_followers, "edge max_followers")
        for name in ("largest_share", "heuristic_share"):
            put(self, name, share(getattr(self, name), f"edge {name}"))
        if not 0.0 < float(self.largest_share) <= 0.5:
            raise MisuseError(f"edge largest_share: expected more than 0 and at most 0.5, got {self.largest_share!r}")
        for name in ("heuristic_max", "stale_while_revalidate", "stale_if_error", "uncollapsed"):
            put(self, name, duration(getattr(self, name), f"edge {name}"))
        if self.set_cookie not in _COOKIES:
            raise MisuseError(f'edge set_cookie: expected "refuse", "strip" or "store", got {self.set_cookie!r}')
        for name in ("honour_request", "normalise_encoding"):
            if type(getattr(self, name)) is not bool:
                raise MisuseError(f"edge {name}: expected True or False, got {getattr(self, name)!r}")

    @property
    def bytes(self) -> int:
        """``max_bytes`` as a number."""
        return int(self.max_bytes)

    @property
    def largest(self) -> int:
        """Bytes that one response may take."""
        return int(self.bytes * float(self.largest_share))
