"""The circuit breaker's options, its states, and the table that leads from one to the next.

Theory. A caller that goes on asking a peer which cannot answer wastes its own time, and what it sends keeps the
peer from recovering. A breaker (Nygard, "Release It!", 2007) watches the results and, when too many are bad,
refuses at once for a while; then it lets a few calls through as *probes* and goes by their results. Five points
decide whether that works under load; `circuit` and `window` do them as follows.

*When to open.* Any of three trips: the share of failures, failures in a row, the share of slow calls. Shares need
a least number of calls, or the first failure of the night is "100 %"; how a quiet caller reaches it is told in
`window`. Failures in a row ask for no number: a peer that is plainly gone is noticed before the window is full.

*How many probe.* Half-open hands out ``permits`` permits, exact under any concurrency, and each probe settles its
own. A settled permit is spent, so that no half-open period lets more than ``permits`` calls be judged; one that
says nothing (neutral: the caller left) goes back. A permit that is never settled, because a task was lost or a
thread died, is taken back ``lease`` seconds after it was given; its late result counts for nothing. Hence never
more than ``permits`` are out, and half-open cannot last for ever.

*When to close.* On the terms on which it opened: as soon as so many probes have failed (or were slow) that they
reach ``ratio`` of ``permits``, it opens again; as soon as so many have succeeded that this cannot happen any more,
it closes. One of the two is certain once all permits are settled.

*How long to stay open.* ``open`` seconds, doubled with each failed half-open period and with each relapse within
``calm`` seconds of closing, ``open_max`` at most; ``calm`` seconds closed and the next trip starts from ``open``
again. Each time is shortened by a random part of up to ``jitter``, so that many processes which lost one peer at
the same moment do not all probe it at the same moment.

*How to come back.* A peer that has answered three probes is not yet a peer that can take the whole traffic (its
caches are cold, its pools empty). Over ``ramp`` seconds a share of calls that grows from a tenth to all is let
through; the rest is refused. The trips are on from the first call.

Every period of closed (or ramp) traffic counts into an object of its own, and a call keeps a ticket of the period
it started in. A result that arrives after its period is over therefore changes nothing: not the next period's
evidence, not the permits of a half-open period that it was never part of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event
from tenfold._core.units import Duration, duration, share, whole_number


class State(Enum):
    """What a circuit does with a call. The first four come and go by themselves, the last two by hand."""

    CLOSED = "closed"
    """All calls pass and are counted."""
    OPEN = "open"
    """All are refused until the open time is over."""
    HALF_OPEN = "half_open"
    """As many as there are permits pass and decide."""
    RAMP = "ramp"
    """A growing share passes and is counted."""
    FORCED_OPEN = "forced_open"
    """All are refused until somebody says otherwise."""
    DISABLED = "disabled"
    """All pass and nothing is counted."""


class Signal(Enum):
    """What can happen to a circuit."""

    TRIPPED = "tripped"
    """The evidence says that too much fails."""
    ELAPSED = "elapsed"
    """The open time is over and a call came."""
    FAILED = "failed"
    """Too many probes failed."""
    PROVEN = "proven"
    """Enough probes succeeded."""
    RECOVERED = "recovered"
    """The whole traffic may pass again."""
    FORCE = "force"
    DISABLE = "disable"
    RESET = "reset"


_BY_HAND: Final = {Signal.FORCE: State.FORCED_OPEN, Signal.DISABLE: State.DISABLED, Signal.RESET: State.CLOSED}

TABLE: Final[dict[State, dict[Signal, State]]] = {
    State.CLOSED: {Signal.TRIPPED: State.OPEN, **_BY_HAND},
    State.OPEN: {Signal.ELAPSED: State.HALF_OPEN, **_BY_HAND},
    # Without a ramp, probes that succeed lead straight to closed.
    State.HALF_OPEN: {
        Signal.FAILED: State.OPEN,
        Signal.PROVEN: State.RAMP,
        Signal.RECOVERED: State.CLOSED,
        **_BY_HAND,
    },
    State.RAMP: {Signal.TRIPPED: State.OPEN, Signal.RECOVERED: State.CLOSED, **_BY_HAND},
    State.FORCED_OPEN: {**_BY_HAND},
    State.DISABLED: {**_BY_HAND},
}
"""The whole machine. A pair that is missing cannot happen; asking for it is a bug and raises `KeyError`."""


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """A circuit has passed from one state to the next, or somebody changed its mode."""

    name: str
    """Of the policy or whoever made the circuit."""
    key: Hashable | None
    """Of a per-key circuit; None otherwise."""
    before: str
    after: str
    reason: str
    """For a person, for example "12 of 20 calls failed"."""
    open_for: float | None
    """Seconds until the first probe, where ``after`` is "open"."""
    enforced: bool
    """False under metrics-only: this is what it would have done."""
    number: int
    """Counts the changes of this circuit from 1: handlers called from several threads can put them in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When to stop calling a peer that fails, and how to start again.

    Opens when, of the calls of the last ``window`` (30 s), ``minimum`` (20) or more, a share of ``ratio`` (0.5)
    failed; or when ``consecutive`` (10) calls in a row failed; or when a share of ``slow_ratio`` (0.5) took longer
    than ``slow_call`` (off). Where the window holds fewer calls than the minimum, it reaches back further, until
    it does, at most ``stretch`` (10) times as far; a row of failures is as old as that at most. ``ratio``,
    ``consecutive`` and ``slow_call`` take ``"off"``, but not all three.

    Stays open for ``open`` (5 s), twice as long each time it did not help, ``open_max`` (60 s) at most, each time
    less a random part of up to ``jitter`` (0.2). ``calm`` (60 s) without a trip after closing and it starts from
    ``open`` again.

    Then ``permits`` (3) calls probe the peer, and their results decide on the same terms. A permit that is not
    settled within ``lease`` (30 s) is taken back: make it longer than a call can take. After that a share of the
    calls that grows from a tenth to all passes over ``ramp`` (5 s; 0: all at once).

    ``key`` makes a circuit for each value that it returns for a call's arguments, ``max_keys`` (1,000) at most;
    the one that was not used for longest goes first, one that protects something last.

    Raises `MisuseError` for what makes no sense.
    """

    ratio: str | float | None = 0.5
    minimum: int = 20
    window: Duration = 30.0
    stretch: int = 10
    consecutive: int | str | None = 10
    slow_call: Duration | None = None
    slow_ratio: str | float = 0.5
    open: Duration = 5.0
    open_max: Duration = 60.0
    jitter: str | float = 0.2
    calm: Duration = 60.0
    permits: int = 3
    lease: Duration = 30.0
    ramp: Duration = 5.0
    key: Callable[..., Any] | None = None
    max_keys: int = 1000

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("window", "open", "open_max", "lease"):
            put(self, name, _positive(duration(getattr(self, name), f"breaker {name}"), name))
        for name in ("calm", "ramp"):
            put(self, name, duration(getattr(self, name), f"breaker {name}"))
        for name in ("minimum", "stretch", "permits", "max_keys"):
            whole_number(getattr(self, name), f"breaker {name}", least=1)
        for name in ("ratio", "consecutive", "slow_call"):
            if getattr(self, name) == "off":
                put(self, name, None)
        if self.ratio is not None:
            put(self, "ratio", _positive(share(self.ratio, "breaker ratio"), "ratio"))
        if self.consecutive is not None:
            whole_number(self.consecutive, "breaker consecutive", least=1)
        if self.slow_call is not None:
            put(self, "slow_call", _positive(duration(self.slow_call, "breaker slow_call"), "slow_call"))
        put(self, "slow_ratio", _positive(share(self.slow_ratio, "breaker slow_ratio"), "slow_ratio"))
        put(self, "jitter", share(self.jitter, "breaker jitter"))
        self._check()

    def _check(self) -> None:
        if self.ratio is None and self.consecutive is None and self.slow_call is None:
            raise MisuseError(
                "breaker: ratio, consecutive and slow_call are all off, so it could never open; leave one on, or "
                "leave the breaker out"
            )
        if float(self.open_max) < float(self.open):
            raise MisuseError(f"breaker open_max: expected open ({self.open:g} s) or more, got {self.open_max:g} s")
        if float(self.jitter) > 0.9:
            raise MisuseError(
                f"breaker jitter: expected at most 0.9, because 1 can make the open time nothing, got {self.jitter!r}"
            )
        if self.key is not None and not callable(self.key):
            raise MisuseError(
                f"breaker key: expected a function of the call's arguments, such as `lambda order: order.shop`, "
                f"got {self.key!r}"
            )


def _positive(number: float, name: str) -> float:
    if number <= 0:
        off = '; to do without, say "off"' if name in ("ratio", "slow_call") else ""
        raise MisuseError(f"breaker {name}: expected more than 0, got {number!r}{off}")
    return number
