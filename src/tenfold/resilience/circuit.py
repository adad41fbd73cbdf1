"""One live circuit: `machine` under a lock, with its errors, its events and what a person may ask and order.

The lock is held for counting and for deciding, never while a call runs or a handler of an event does. Time comes
in as an argument, so one circuit serves threads and any number of event loops at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from threading import Lock

from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import format_duration
from tenfold.resilience.breaker import Breaker, BreakerChanged, Signal, State
from tenfold.resilience.errors import BreakerOpen
from tenfold.resilience.machine import Machine
from tenfold.resilience.window import Ticket


class Circuit(Machine):
    """The live part of a `Breaker`. Thread-safe.

    Before a call ``ticket = circuit.ticket or circuit.admit(now)``; after it exactly one of `success`, `failure`
    and `neutral` with that ticket, in a ``finally`` or its like. Every ``now`` is monotonic seconds. ``name``
    stands in events and errors, ``key`` is the key of a per-key circuit, ``rng`` draws the jitter and who passes in
    the ramp, and events (`BreakerChanged`) go to ``hub``.
    """

    __slots__ = ("_hub", "_lock")

    def __init__(
        self,
        name: str,
        options: Breaker,
        *,
        rng: random.Random | None = None,
        key: Hashable | None = None,
        hub: Hub = EVENTS,
    ) -> None:
        super().__init__(name, options, random.Random() if rng is None else rng, key)
        self._hub = hub
        self._lock = Lock()

    def admit(self, now: float) -> Ticket:
        """A ticket for a call that wants to start.

        Raises `BreakerOpen`, with the open time or the ramp that is left in ``retry_after``; None where all permits
        are out and where the circuit was opened by hand.
        """
        changes: list[BreakerChanged] = []
        lock = self._lock
        lock.acquire()
        try:
            ticket, left = self.enter(now, changes)
            state, reason = self._state, self._reason
            if ticket is None:
                if self._enforce:
                    self.rejected += 1
                else:
                    self.would_reject += 1
                    ticket = self._void
        finally:
            lock.release()
        for change in changes:
            self._hub.emit(change)
        if ticket is not None:
            return ticket
        raise BreakerOpen(_refusal(self.name, state, reason, left), policy=self.name, retry_after=left)

    def success(self, ticket: Ticket, now: float, elapsed: float) -> None:
        """The call succeeded at ``now`` and took ``elapsed`` seconds."""
        lock = self._lock
        lock.acquire()
        try:
            if now < ticket.edge and elapsed <= ticket.slow_call:
                ticket.good += 1
                ticket.run = 0
                return
            change = self.succeed(ticket, now, elapsed)
        finally:
            lock.release()
        if change is not None:
            self._hub.emit(change)

    def failure(self, ticket: Ticket, now: float, elapsed: float) -> None:
        """The call failed, a time-out of ours included, at ``now`` and after ``elapsed`` seconds."""
        lock = self._lock
        lock.acquire()
        try:
            change = self.fail(ticket, now, elapsed)
        finally:
            lock.release()
        if change is not None:
            self._hub.emit(change)

    def neutral(self, ticket: Ticket, now: float) -> None:
        """The call says nothing about the peer: its caller was cancelled, or it was turned away further down."""
        lock = self._lock
        lock.acquire()
        try:
            self.skip(ticket)
        finally:
            lock.release()

    # -- by hand ------------------------------------------------------------------------------------------------

    def force_open(self, reason: str = "forced open") -> None:
        """Refuse all calls until `auto`, `reset`, `disable` or `metrics_only`."""
        self._by_hand(Signal.FORCE, reason, enforce=True)

    def disable(self) -> None:
        """Let all calls pass and count nothing, until `auto` or one of the others."""
        self._by_hand(Signal.DISABLE, "disabled", enforce=True)

    def metrics_only(self) -> None:
        """Go through all states as ever, and tell, but refuse nobody; ``would_reject`` counts whom it would have
        refused. The state it is in stays, one set by hand excepted.
        """
        self._by_hand(None, "metrics only", enforce=False)

    def auto(self) -> None:
        """Back to normal: end what was set by hand. After `metrics_only` the state it is in stays and is enforced."""
        self._by_hand(None, "automatic", enforce=True)

    def reset(self) -> None:
        """Close, and forget the evidence and how often it was open; the counters stay."""
        self._by_hand(Signal.RESET, "reset", enforce=True)

    def _by_hand(self, signal: Signal | None, reason: str, *, enforce: bool) -> None:
        with self._lock:
            if signal is None and self._state in (State.FORCED_OPEN, State.DISABLED):
                signal = Signal.RESET
            elif signal is None and self._enforce is enforce:
                return
            self._enforce = enforce
            # Minus infinity: it did not recover by itself, so the next trip starts from `open` again.
            change = self.move(signal, -math.inf, reason) if signal else self.changed(self._state, reason)
        self._hub.emit(change)

    def reconfigure(self, options: Breaker) -> None:
        """Go by other options from now on. State, evidence, permits and counters stay; an open time, a ramp or a lease
        that has begun ends as it would have.
        """
        with self._lock:
            self.tune(options)

    # -- looking at it ------------------------------------------------------------------------------------------

    @property
    def current(self) -> State:
        """The state as of the last call; an open time that is over ends when the next call asks."""
        return self._state

    @property
    def mode(self) -> str:
        """``"auto"``, ``"metrics_only"``, ``"forced_open"`` or ``"disabled"``."""
        state = self._state
        if state is State.FORCED_OPEN or state is State.DISABLED:
            return str(state.value)
        return "auto" if self._enforce else "metrics_only"

    @property
    def reason(self) -> str:
        """Why it is in this state, in a few words."""
        return self._reason

    @property
    def successes(self) -> int:
        """Calls that succeeded while it counted."""
        return self.counters()["successes"]

    def counters(self) -> dict[str, int]:
        """All counts since the circuit was made; they never fall."""
        with self._lock:
            return self._counters()

    def _counters(self) -> dict[str, int]:
        return {
            "successes": self._successes + (0 if self._live is None else self._live.good),
            "failures": self.failures,
            "slow": self.slow,
            "neutral": self.neutrals,
            "rejected": self.rejected,
            "would_reject": self.would_reject,
            "opened": self.opened,
            "probes": self.probes,
            "reclaimed": self.reclaimed,
            "stale": self.stale,
        }

    def state(self, now: float | None = None) -> dict[str, object]:
        """What a person or a dashboard asks for, ready for JSON. ``retry_after`` only where ``now`` is given."""
        with self._lock:
            live = self._live
            calls, bad, slow = (0, 0, 0) if live is None else live.totals
            waiting = self._state in (State.OPEN, State.RAMP)
            return {
                "name": self.name,
                "key": None if self.key is None else str(self.key),
                "state": self._state.value,
                "mode": self.mode,
                "reason": self._reason,
                "open_for": self._open_for if self._state is State.OPEN else None,
                "retry_after": max(0.0, self._until - now) if waiting and now is not None else None,
                "evidence": {
                    "calls": calls,
                    "failures": bad,
                    "slow": slow,
                    "in_a_row": 0 if live is None else live.run,
                },
                "permits": {
                    "all": self.options.permits,
                    "out": len(self._out),
                    "succeeded": self._good,
                    "failed": self._bad,
                },
                "counters": self._counters(),
            }

    def __repr__(self) -> str:
        key = "" if self.key is None else f" key={self.key!r}"
        by = " (metrics only)" if self.mode == "metrics_only" else ""
        return f"<Circuit {self.name!r}{key} {self._state.value}{by}: {self._reason}>"


def _refusal(name: str, state: State, reason: str, left: float | None) -> str:
    of = f"{name}: " if name else ""
    if state is State.HALF_OPEN:
        return f"{of}the breaker is half-open and all its permits are out; try again when the probes have answered"
    if left is None:
        return f"{of}the breaker is held open by hand ({reason}); try again when it is released"
    what = "open" if state is State.OPEN else "closing and lets only a share of the calls pass"
    return f"{of}the breaker is {what} ({reason}); try again in {format_duration(left)}"
