"""How many tries beyond the first a client may afford.

Theory. Each layer that tries three times multiplies the load on the one below by three, just when that one fails:
the outage that feeds itself ("Addressing cascading failures", Google SRE book, ch. 22, asks for a *ratio* of retries to
requests; Finagle's ``RetryBudget`` and gRPC's retry throttling are buckets that do it). Each first try puts ``share``
of a token into the bucket and each further one takes a whole token out, so that further tries stay below ``share`` of
first ones, whatever the back-off says. The ``floor`` fills it over time too, for clients too quiet to earn a token.

A token is *reserved* before the pause and *confirmed* after it. Checked only before, a thousand sleepers would all have
seen the same last token; checked only after, a thousand would have slept for nothing. A reservation older than
``window`` was earned by traffic long gone and must be taken anew.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, rate, share, whole_number

_WHOLE = 1.0 - 1e-9  # five times 0.2 is a token, whatever floats make of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What retries and hedges together may cost.

    ``share`` (20 %) of a token is earned by each call, ``floor`` (``"1/s"``) by each second; one further try costs a
    token. ``burst`` (20) is the most that is saved up, and what there is at the start. ``window`` (10 s): a reservation
    older than that is taken anew.

    Raises `MisuseError` for a share above 100 %, for a burst below 1, and where nothing could ever be earned.
    """

    share: str | float = 0.2
    floor: str | float = 1.0
    burst: int = 20
    window: Duration = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share(self.share, "budget share"))
        object.__setattr__(self, "floor", rate(self.floor, "budget floor"))
        object.__setattr__(self, "window", duration(self.window, "budget window"))
        whole_number(self.burst, "budget burst", least=1)
        if self.share == 0 and self.floor == 0:
            raise MisuseError(
                "budget: expected a share or a floor above 0, got neither; Retry(attempts=1) is the way not to retry"
            )
        if self.window == 0:
            raise MisuseError('budget window: expected a duration above 0 such as "10s", got 0')


class Reservation:
    """A token that is held during the pause before a further try. Settled once, by `Purse.confirm` or
    `Purse.refund`.
    """

    __slots__ = ("at", "settled")

    def __init__(self, at: float) -> None:
        self.at = at
        self.settled = False


class Purse:
    """The live bucket of a `Budget`. Thread-safe; ``now`` is monotonic seconds.

    A caller adds for each first try: ``if purse.hungry: purse.deposit()``, which takes no lock while the purse is full,
    as it is while nothing fails.
    """

    __slots__ = ("_filled", "_lock", "cap", "hungry", "options", "refused", "spent", "tokens")

    def __init__(self, options: Budget) -> None:
        self._lock = threading.Lock()
        self._filled: float | None = None
        self.options = options
        self.cap = float(options.burst)
        self.tokens = self.cap
        self.hungry = False
        """Whether there is room for a deposit."""
        self.spent = 0
        """Further tries that were paid for."""
        self.refused = 0
        """Further tries that nobody could pay for."""

    def deposit(self) -> None:
        """Earn what one first try earns."""
        lock = self._lock
        lock.acquire()
        try:
            self._earn(float(self.options.share))
        finally:
            lock.release()

    def reserve(self, now: float) -> Reservation | None:
        """Hold a token; None where there is none."""
        lock = self._lock
        lock.acquire()
        try:
            return Reservation(now) if self._take(now) else None
        finally:
            lock.release()

    def confirm(self, reservation: Reservation, now: float) -> bool:
        """Spend the token that was held. False: it was held for too long and there is no new one, so do not try."""
        lock = self._lock
        lock.acquire()
        try:
            if reservation.settled:
                return False
            reservation.settled = True
            if now - reservation.at > float(self.options.window) and not self._take(now):
                return False
            self.spent += 1
            return True
        finally:
            lock.release()

    def refund(self, reservation: Reservation) -> None:
        """Give back a token that was held for nothing. Without effect on one that is settled."""
        lock = self._lock
        lock.acquire()
        try:
            if not reservation.settled:
                reservation.settled = True
                self._earn(1.0)
        finally:
            lock.release()

    def reconfigure(self, options: Budget) -> None:
        """Other numbers, the same tokens, as far as they fit in."""
        with self._lock:
            self.options = options
            self.cap = float(options.burst)
            self._earn(0.0)

    def _earn(self, tokens: float) -> None:
        self.tokens = min(self.cap, self.tokens + tokens)
        self.hungry = self.tokens < self.cap

    def _take(self, now: float) -> bool:
        last = self._filled
        if last is None or now > last:
            self._filled = now
            self._earn(0.0 if last is None else (now - last) * float(self.options.floor))
        if self.tokens < _WHOLE:
            self.refused += 1
            return False
        self.tokens = max(0.0, self.tokens - 1.0)
        self.hungry = True
        return True

    def state(self) -> dict[str, object]:
        """Plain values: ``tokens``, ``cap``, ``spent``, ``refused``."""
        return {"tokens": round(self.tokens, 3), "cap": self.cap, "spent": self.spent, "refused": self.refused}

    def __repr__(self) -> str:
        return f"<Purse {self.tokens:.1f} of {self.cap:g} tokens, spent={self.spent} refused={self.refused}>"
