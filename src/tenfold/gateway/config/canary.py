"""Who gets the canary. Pure: the chance is handed in.

Theory. A user that sees the new version on one page and the old one on the next sees a broken site, so the choice must
be a function of the user and not of the request. Whoever can be told apart is hashed to a place in [0, 1), and the
canary is for those below its weight. Three things follow. No state is kept anywhere, and all processes agree. A weight
that grows from 5 to 10 % adds users and moves none back. And the hash is salted with the names of both pools, or the
same unlucky twentieth would get every canary there ever is.

A visitor who cannot be told apart gets a cookie with a random mark, which is hashed in their stead from then on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from tenfold.gateway.config.rule import Canary

_MARK: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Choice:
    """The pool for one request. ``mark`` is the value of the cookie to set, ``""`` for none; ``why`` is for logs."""

    pool: str
    canary: bool
    why: str
    mark: str = ""


def choose(
    canary: Canary,
    pool: str,
    draw: float,
    *,
    header: str | None = None,
    user: str | None = None,
    cookie: str | None = None,
) -> Choice:
    """``canary.pool`` or ``pool``, for one request.

    ``header`` is the value of the header ``canary.header``, ``user`` what ``canary.by`` found, ``cookie`` the value of
    ``canary.cookie``, each None where there is none; ``draw`` is a number in [0, 1).
    """
    asked = "" if header is None else header.strip().lower()
    if canary.header is not None and asked in ("always", "never"):
        chosen = asked == "always"
        return Choice(canary.pool if chosen else pool, chosen, "header")
    mark, why, place = "", "chance", draw
    if canary.by is not None and user:
        why, place = "user", position(user, canary.pool, pool)
    elif canary.cookie is not None:
        why = "cookie"
        if cookie is None or _MARK.fullmatch(cookie) is None:
            cookie = mark = f"{int(draw * 2.0**64):016x}"
        place = position(cookie, canary.pool, pool)
    chosen = place < canary.weight
    return Choice(canary.pool if chosen else pool, chosen, why, mark)


def position(user: str, canary: str, pool: str) -> float:
    """Where in [0, 1) a user stands between two pools."""
    salted = f"{canary}\0{pool}\0{user}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest(), "big") / 2.0**64 * (1 - 2**-53)
