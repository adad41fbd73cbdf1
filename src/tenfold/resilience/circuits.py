"""One circuit for each key, and never more than so many.

Theory. A peer is often many peers: one shard of ten is down, one shop's payment account is blocked. A circuit for
each keeps the trouble of one from the others. Keys come from requests, so their number needs a bound, and a plain
least-recently-used order would do harm: whoever sends new keys could push out the very circuits that protect
something. So to make room the order is searched from the end for the first circuit that *does not matter*: a closed
one, or one that was open but has not been asked for since its open time and ``calm`` ended (a peer that is gone for
good must not keep a place for good). Circuits that matter are passed over and move to the front, which spares the
next search the way. If all of them matter the least recently used is forgotten all the same, one that was set by
hand last: the bound holds in any case. ``evicted_open`` counts these: where it grows, ``max_keys`` is too small.

A circuit that was forgotten takes its evidence with it; calls that still hold a ticket of it settle there. Its
counters are kept in the totals.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold.resilience.breaker import Breaker, State
from tenfold.resilience.circuit import Circuit


class Circuits:
    """The live part of a `Breaker` with a ``key``. ``clock`` is only read to make room."""

    __slots__ = ("_by_key", "_clock", "_gone", "_hub", "_lock", "_rng", "evicted", "evicted_open", "name", "options")

    def __init__(
        self,
        name: str,
        options: Breaker,
        *,
        rng: random.Random | None = None,
        hub: Hub = EVENTS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name: Final = name
        self.options = options
        self.evicted = 0
        """Circuits forgotten to make room."""
        self.evicted_open = 0
        """Those of them that protected something."""
        self._by_key: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._gone: Counter[str] = Counter()
        self._lock = Lock()
        self._rng = random.Random() if rng is None else rng
        self._hub = hub
        self._clock = clock

    def of(self, key: Hashable) -> Circuit:
        """The circuit of ``key``, made on first use. Keys are compared under a lock: use strings, numbers, tuples."""
        lock = self._lock
        lock.acquire()
        try:
            try:
                circuit = self._by_key.get(key)
            except TypeError as error:
                raise MisuseError(
                    f"breaker key: expected something that can be a key of a dictionary, such as a string, got {key!r}"
                ) from error
            if circuit is not None:
                self._by_key.move_to_end(key)
                return circuit
            self._shrink(self.options.max_keys - 1)
            circuit = Circuit(self.name, self.options, rng=self._rng, key=key, hub=self._hub)
            self._by_key[key] = circuit
            return circuit
        finally:
            lock.release()

    def _shrink(self, room: int) -> None:
        if len(self._by_key) <= room:
            return
        now = self._clock.monotonic()
        while len(self._by_key) > room:
            self._forget(self._least(now), now)

    def _least(self, now: float) -> Hashable:
        by_key = self._by_key
        for _ in range(len(by_key)):
            key, circuit = next(iter(by_key.items()))
            if circuit.matters_until <= now:
                return key
            by_key.move_to_end(key)
        # A whole turn has left the order as it was.
        return next((key for key, circuit in by_key.items() if circuit.matters_until < math.inf), next(iter(by_key)))

    def _forget(self, key: Hashable, now: float) -> None:
        circuit = self._by_key.pop(key)
        self.evicted += 1
        self.evicted_open += circuit.matters_until > now
        self._gone.update(circuit.counters())

    def reconfigure(self, options: Breaker) -> None:
        """Go by other options from now on, in all circuits; those beyond a smaller ``max_keys`` are forgotten."""
        with self._lock:
            self.options = options
            self._shrink(options.max_keys)
            for circuit in self._by_key.values():
                circuit.reconfigure(options)

    def counters(self) -> dict[str, int]:
        """The sums over all circuits, forgotten ones included as they were when they went."""
        with self._lock:
            total = Counter(self._gone)
            circuits = list(self._by_key.values())
        for circuit in circuits:
            total.update(circuit.counters())
        return dict(total)

    def state(self, now: float | None = None) -> dict[str, object]:
        """Ready for JSON: the sums, and in full only circuits that are not plainly closed."""
        with self._lock:
            circuits = list(self._by_key.values())
        notable = [c for c in circuits if c.current is not State.CLOSED or c.mode != "auto"]
        return {
            "name": self.name,
            "keys": len(circuits),
            "max_keys": self.options.max_keys,
            "evicted": self.evicted,
            "evicted_open": self.evicted_open,
            "circuits": [circuit.state(now) for circuit in notable],
            "counters": self.counters(),
        }

    def __len__(self) -> int:
        return len(self._by_key)

    def __bool__(self) -> bool:
        return True  # a map without keys is still a map

    def __contains__(self, key: Hashable) -> bool:
        return key in self._by_key

    def __repr__(self) -> str:
        return f"<Circuits {self.name!r} keys={len(self._by_key)}/{self.options.max_keys} evicted={self.evicted}>"
