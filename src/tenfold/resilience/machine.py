"""What a circuit decides, without lock, clock and events: the shell around it is `circuit`.

Each method takes the moment as ``now`` and gives back the change it has brought about, if any, for the shell to tell.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Final

from tenfold._core.units import duration, share
from tenfold.resilience.breaker import TABLE, Breaker, BreakerChanged, Signal, State
from tenfold.resilience.window import Period, Ticket

RAMP_FROM: Final = 0.1
GROWTH: Final = 2.0


class Machine:
    """The state of one circuit and the ways it changes. Not thread-safe by itself."""

    __slots__ = (
        "_bad",
        "_calm",
        "_enforce",
        "_fail_at",
        "_good",
        "_lease",
        "_live",
        "_nominal",
        "_number",
        "_open",
        "_open_for",
        "_open_max",
        "_out",
        "_ramp",
        "_ramp_for",
        "_reason",
        "_recovered",
        "_rng",
        "_slow_call",
        "_state",
        "_successes",
        "_until",
        "_void",
        "failures",
        "key",
        "matters_until",
        "name",
        "neutrals",
        "opened",
        "options",
        "probes",
        "reclaimed",
        "rejected",
        "slow",
        "stale",
        "ticket",
        "would_reject",
    )

    def __init__(self, name: str, options: Breaker, rng: random.Random, key: Hashable | None) -> None:
        self.name: Final = name
        self.key: Final = key
        self.failures = self.slow = self.neutrals = self.stale = 0
        self.rejected = self.would_reject = self.opened = self.probes = self.reclaimed = 0
        self._successes = 0  # without those of the present bucket
        self._rng = rng
        self._void = Ticket(math.inf)  # what is counted on it is read by nobody
        self._out: dict[Ticket, float] = {}  # permits given and not settled, and when their leases end
        self._good = self._bad = 0  # settled permits of this half-open period
        self._until = -math.inf  # end of the open time or of the ramp
        self._recovered = -math.inf
        self._nominal = self._open_for = self._ramp_for = 0.0
        self._number = 0
        self._reason = "new"
        self._enforce = True
        self._state = State.CLOSED
        self._live: Period | None = Period(options)
        self.ticket: Ticket | None = self._live
        """The ticket of a call that may start without asking; None where `admit` must be asked."""
        self.matters_until = -math.inf
        """Until when to forget this circuit would let calls through that it refuses, or forget how long to."""
        self.tune(options)

    def tune(self, options: Breaker) -> None:
        """Go by these options from now on."""
        self.options = options
        self._open = duration(options.open)
        self._open_max = duration(options.open_max)
        self._calm = duration(options.calm)
        self._lease = duration(options.lease)
        self._ramp = duration(options.ramp)
        self._slow_call = math.inf if options.slow_call is None else duration(options.slow_call)
        ratio = 0.0 if options.ratio is None else share(options.ratio)
        self._fail_at = next(n for n in range(1, options.permits + 1) if n / options.permits >= ratio)
        if self._live is not None:
            self._live.tune(options)

    # -- a call wants to start ----------------------------------------------------------------------------------

    def enter(self, now: float, changes: list[BreakerChanged]) -> tuple[Ticket | None, float | None]:
        """A ticket; or None and after how many seconds to come back, where that is known."""
        while True:
            state = self._state
            if state is State.OPEN:
                if now < self._until:
                    return None, self._until - now
                changes.append(self.move(Signal.ELAPSED, now, "the open time is over"))
            elif state is State.HALF_OPEN:
                change = self._judge(now)  # fewer permits may have been configured since the last result
                if change is None:
                    return self._permit(now), None
                changes.append(change)
            elif state is State.RAMP:
                left = self._until - now
                if left > 0:
                    passes = RAMP_FROM + (1 - RAMP_FROM) * (1 - left / self._ramp_for)
                    return (self._live, None) if self._rng.random() < passes else (None, left)
                changes.append(self.move(Signal.RECOVERED, now, "the ramp is over"))
            elif state is State.FORCED_OPEN:
                return None, None
            else:
                return self.ticket, None

    def _permit(self, now: float) -> Ticket | None:
        lost = [ticket for ticket, end in self._out.items() if end <= now]
        for ticket in lost:
            del self._out[ticket]
        self.reclaimed += len(lost)
        if self._good + self._bad + len(self._out) >= self.options.permits:
            return None
        ticket = Ticket()
        self._out[ticket] = now + self._lease
        self.matters_until = now + self._lease + self._calm
        self.probes += 1
        return ticket

    # -- a call has ended ---------------------------------------------------------------------------------------

    def succeed(self, ticket: Ticket, now: float, elapsed: float) -> BreakerChanged | None:
        """Count a success that was not counted on the short way."""
        live = self._live
        if ticket is live:
            self._successes += live.turn(now)
            live.good += 1
            live.run = 0
            return self._drag(live, now) if elapsed > live.slow_call else None
        if self._out.pop(ticket, None) is not None:
            self._successes += 1
            if elapsed > self._slow_call:
                self.slow += 1
                self._bad += 1
            else:
                self._good += 1
            return self._judge(now)
        self._late(ticket)
        return None

    def fail(self, ticket: Ticket, now: float, elapsed: float) -> BreakerChanged | None:
        """Count a failure."""
        live = self._live
        if ticket is live:
            self._successes += live.turn(now)
            self.failures += 1
            live.fail(now)
            if elapsed > live.slow_call:
                return self._drag(live, now)
            return self._trip(live, now)
        if self._out.pop(ticket, None) is not None:
            self.failures += 1
            self.slow += elapsed > self._slow_call
            self._bad += 1
            return self._judge(now)
        self._late(ticket)
        return None

    def skip(self, ticket: Ticket) -> None:
        """Count a call that says nothing; a permit goes back."""
        if ticket is self._live or self._out.pop(ticket, None) is not None:
            self.neutrals += 1
        else:
            self._late(ticket)

    def _late(self, ticket: Ticket) -> None:
        if ticket is not self._void:
            self.stale += 1

    def _drag(self, live: Period, now: float) -> BreakerChanged | None:
        self.slow += 1
        live.drag()
        return self._trip(live, now)

    def _trip(self, live: Period, now: float) -> BreakerChanged | None:
        reason = live.verdict()
        return None if reason is None else self.move(Signal.TRIPPED, now, reason)

    def _judge(self, now: float) -> BreakerChanged | None:
        permits = self.options.permits
        if self._bad >= self._fail_at:
            return self.move(Signal.FAILED, now, f"{self._bad} of {permits} probes failed or were slow")
        if self._good > permits - self._fail_at:
            signal = Signal.PROVEN if self._ramp else Signal.RECOVERED
            return self.move(signal, now, f"{self._good} of {permits} probes succeeded")
        return None

    # -- from state to state ------------------------------------------------------------------------------------

    def move(self, signal: Signal, now: float, reason: str) -> BreakerChanged:
        """Go where the table says and make the new state ready."""
        before = self._state
        self._state = after = TABLE[before][signal]
        self._reason = reason
        if not (before is State.RAMP and signal is Signal.RECOVERED):  # the evidence of a ramp is kept
            self._end_period()
        self._out.clear()
        self._good = self._bad = 0
        self.ticket = None
        if after is State.OPEN:
            self._stay_open(signal, now)
        elif after is State.HALF_OPEN:
            self.matters_until = now + self._lease + self._calm
        elif after is State.RAMP:
            self._live = Period(self.options)
            self._recovered = now
            self._ramp_for = self._ramp
            self._until = now + self._ramp
            self.matters_until = self._until + self._calm
        elif after is State.CLOSED:
            if self._live is None:
                self._live = Period(self.options)
                self._recovered = now
            self.ticket = self._live
            self.matters_until = -math.inf
        else:
            self.ticket = self._void if after is State.DISABLED else None
            self.matters_until = math.inf
        return self.changed(before, reason)

    def _end_period(self) -> None:
        if self._live is not None:
            self._successes += self._live.end()
            self._live = None

    def _stay_open(self, signal: Signal, now: float) -> None:
        again = signal is Signal.FAILED or now - self._recovered < self._calm
        wanted = self._nominal * GROWTH if again else self._open
        self._nominal = min(self._open_max, max(self._open, wanted))
        self._open_for = self._nominal * (1 - share(self.options.jitter) * self._rng.random())
        self._until = now + self._open_for
        self.opened += 1
        self.matters_until = self._until + self._calm

    def changed(self, before: State, reason: str) -> BreakerChanged:
        """The event of a change that has been made."""
        self._number += 1
        return BreakerChanged(
            name=self.name,
            key=self.key,
            before=before.value,
            after=self._state.value,
            reason=reason,
            open_for=self._open_for if self._state is State.OPEN else None,
            enforced=self._enforce,
            number=self._number,
        )
