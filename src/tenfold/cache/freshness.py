"""How old a value may be, and what is to be done about it: a table, in pure functions.

A value lives through phases. The words are those of RFC 5861 (*stale-while-revalidate*, *stale-if-error*) and of
FusionCache (fail-safe with throttle, soft and hard time-outs, eager refresh)::

    born ──────────── eager × ttl ────── ttl ────────────────────────────── ttl + stale
      │     FRESH         │    EAGER      │      STALE, or RESTING a while      │   DEAD
      │                   │  (once)       │      after a loader failed          │

====================  ========================  ======================  ====================
phase                 a look-up                 its load is slow        its load failed
====================  ========================  ======================  ====================
FRESH                 hit                       hit                     hit
EAGER                 hit, and refresh          hit                     hit
STALE, no soft limit  stale, and refresh        stale                   stale, then RESTING
STALE, soft limit     refresh, wait so long     stale                   stale, then RESTING
RESTING               stale                     stale                   stale
DEAD, or nothing      load and wait             wait on                 the loader's error
====================  ========================  ======================  ====================

"Slow" is slower than the soft limit, counted from the start of the load, so that nobody waits longer than it however
late they join. The hard limit ends the loader and counts as a failure. What was invalidated is not in any phase: it is
gone, and no row of this table applies to it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration

NEVER: Final = float("inf")


class FreshnessOptions(TypedDict, total=False):
    """What a cache, a cached function or `get_or_load` may say about age, beside the TTL. None leaves it off.

    ``stale``: how long after its TTL the old value may still be served, at once, while one load in the background
    replaces it; also what is served when that load fails. ``eager``: a share of the TTL (0.8) after which the next hit
    starts a refresh in the background. ``none_ttl``: the TTL of the result ``None`` (it is never served stale; 0 does
    not keep it). ``soft_timeout``: how long a caller whose value is stale waits for the new one before it takes the
    old one (default: not at all). ``hard_timeout``: what a loader may take; then it is cancelled and counts as failed.
    ``throttle`` (30 s): how long a stale value is served without asking a loader that has just failed.
    """

    stale: Duration | None
    eager: float | None
    none_ttl: Duration | None
    soft_timeout: Duration | None
    hard_timeout: Duration | None
    throttle: Duration


class Phase(enum.Enum):
    """Where in its life a value is."""

    FRESH = enum.auto()
    EAGER = enum.auto()
    STALE = enum.auto()
    RESTING = enum.auto()
    DEAD = enum.auto()


class Decision(enum.Enum):
    """What to do. ``…_AND_REFRESH`` serves at once; `REFRESH_OR_STALE` waits for the load, but not for ever."""

    HIT = enum.auto()
    HIT_AND_REFRESH = enum.auto()
    STALE = enum.auto()
    STALE_AND_REFRESH = enum.auto()
    REFRESH_OR_STALE = enum.auto()
    LOAD = enum.auto()


AT_ONCE: Final[dict[Phase, Decision]] = {
    Phase.FRESH: Decision.HIT,
    Phase.EAGER: Decision.HIT_AND_REFRESH,
    Phase.STALE: Decision.STALE_AND_REFRESH,
    Phase.RESTING: Decision.STALE,
    Phase.DEAD: Decision.LOAD,
}
SOFTLY: Final[dict[Phase, Decision]] = AT_ONCE | {Phase.STALE: Decision.REFRESH_OR_STALE}
WITHOUT_LOAD: Final[dict[Phase, Decision]] = {
    Phase.FRESH: Decision.HIT,
    Phase.EAGER: Decision.HIT,
    Phase.STALE: Decision.STALE,
    Phase.RESTING: Decision.STALE,
    Phase.DEAD: Decision.LOAD,
}
SERVED: Final = frozenset({Decision.HIT, Decision.HIT_AND_REFRESH, Decision.STALE, Decision.STALE_AND_REFRESH})
REFRESHED: Final = frozenset({Decision.HIT_AND_REFRESH, Decision.STALE_AND_REFRESH, Decision.REFRESH_OR_STALE})
OLD: Final = frozenset({Decision.STALE, Decision.STALE_AND_REFRESH})


class Life:
    """The turning points of one value, as monotonic times, and its ``etag``.

    ``until`` is when a look-up has to think again: up to then a comparison with it is all there is.
    """

    __slots__ = ("eager_at", "etag", "fresh_until", "rest_until", "stale_until")

    def __init__(
        self, fresh_until: float, stale_until: float, eager_at: float = NEVER, etag: str | None = None
    ) -> None:
        self.fresh_until = fresh_until
        self.stale_until = max(fresh_until, stale_until)
        self.eager_at = eager_at
        self.rest_until = -NEVER
        self.etag = etag

    @property
    def until(self) -> float:
        return min(self.eager_at, self.fresh_until)

    @property
    def plain(self) -> bool:
        """Whether ``until`` says it all."""
        return self.eager_at == NEVER and self.stale_until <= self.fresh_until and self.etag is None

    def phase(self, now: float) -> Phase:
        if now >= self.stale_until:
            return Phase.DEAD
        if now >= self.fresh_until:
            return Phase.RESTING if now < self.rest_until else Phase.STALE
        return Phase.EAGER if now >= self.eager_at else Phase.FRESH

    def __repr__(self) -> str:
        return f"Life(eager {self.eager_at:g}, fresh {self.fresh_until:g}, stale {self.stale_until:g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What was declared, in seconds. Made by `declared`, which checks it; `FreshnessOptions` says what it means."""

    ttl: float
    jitter: float = 0.0
    stale: float = 0.0
    eager: float | None = None
    none_ttl: float | None = None
    soft: float = 0.0
    hard: float | None = None
    throttle: float = 30.0

    @property
    def more_than_ttl(self) -> bool:
        """Whether anything was declared that reaches beyond the TTL."""
        return bool(self.stale) or self.eager is not None or self.none_ttl is not None or self.hard is not None

    @property
    def impatient(self) -> bool:
        """Whether callers may go on before their loader does."""
        return bool(self.soft) or self.hard is not None

    def look_up(self, life: Life, now: float) -> Decision:
        """What a look-up does that finds a value with this life."""
        return (SOFTLY if self.soft else AT_ONCE)[life.phase(now)]

    def life(self, now: float, draw: float, *, none: bool, ttl: float | None, etag: str | None) -> Life | None:
        """The life of what was just loaded; None if it is not to be kept.

        ``draw`` (0…1) says how much of the jitter is taken off; ``ttl`` and ``etag`` are the loader's own word.
        """
        stale, eager = self.stale, self.eager
        if none and self.none_ttl is not None:
            ttl, stale, eager = self.none_ttl if ttl is None else ttl, 0.0, None
        span = (self.ttl if ttl is None else ttl) * (1 - self.jitter * draw)
        if span <= 0:
            return None
        return Life(now + span, now + span + stale, NEVER if eager is None else now + span * eager, etag)

    def found(self, now: float, fresh: float, left: float, etag: str | None) -> Life:
        """The life of a copy from level 2 that was fresh for ``fresh`` more seconds and kept for ``left``.

        The server's clock may have been set, and another version may have stored it: never longer than declared here.
        """
        fresh = min(fresh, self.ttl)
        left = min(left, fresh + self.stale)
        eager = NEVER if self.eager is None or fresh <= 0 else now + fresh - self.ttl * (1 - self.eager)
        return Life(now + fresh, now + left, eager, etag)


def rest(life: Life, now: float, throttle: float) -> None:
    """The loader failed: do not ask it again for a while."""
    life.rest_until = now + throttle


def declared(base: Freshness, where: str, ttl: Duration | None, options: FreshnessOptions) -> Freshness:
    """``base`` with what is said otherwise. Raises `MisuseError` that begins with ``where``."""
    unknown = sorted(set(options) - set(FreshnessOptions.__annotations__))
    if unknown:
        raise MisuseError(
            f"{where}{unknown[0]}: there is no such argument; expected one of "
            f"{', '.join(FreshnessOptions.__annotations__)}"
        )
    changes: dict[str, Any] = {} if ttl is None else {"ttl": life_time(ttl, f"{where}ttl")}
    if "stale" in options:
        changes["stale"] = _seconds(options["stale"], f"{where}stale", 0.0)
    if "eager" in options:
        changes["eager"] = _share(options["eager"], f"{where}eager")
    if "none_ttl" in options:
        changes["none_ttl"] = _seconds(options["none_ttl"], f"{where}none_ttl", None)
    if "soft_timeout" in options:
        changes["soft"] = _seconds(options["soft_timeout"], f"{where}soft_timeout", 0.0)
    if "hard_timeout" in options:
        hard = options["hard_timeout"]
        changes["hard"] = None if hard is None else life_time(hard, f"{where}hard_timeout")
    if "throttle" in options:
        changes["throttle"] = duration(options["throttle"], f"{where}throttle")
    made = replace(base, **changes)
    if made.hard is not None and made.soft >= made.hard:
        raise MisuseError(
            f"{where}soft_timeout: expected less than hard_timeout ({made.hard:g} s), got {made.soft:g} s; "
            "a caller takes the stale value first and gives up later"
        )
    return made


def life_time(value: Duration, name: str) -> float:
    """Seconds, 1 ms at least. Raises `MisuseError`."""
    seconds = duration(value, name)
    if seconds < 0.001:
        raise MisuseError(f"{name}: expected at least 1 ms, got {value!r}")
    return seconds


def _seconds(value: Duration | None, name: str, off: float | None) -> float | None:
    return off if value is None else duration(value, name)


def _share(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise MisuseError(f"{name}: expected a share of the TTL between 0 and 1, such as 0.8, got {value!r}")
    return float(value)
