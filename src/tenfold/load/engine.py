"""The arrival loop: starts journeys when the schedule says so, whatever the target does.

One timer at the next arrival (`Alarm`), none a request; arrivals that fell due together start together.
Nothing here waits for an answer before the next arrival, which is what *open loop* means: a slow target meets
more journeys at once, not fewer requests.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import ssl
import traceback
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from tenfold import __version__
from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive
from tenfold.load import feed
from tenfold.load.alarm import Alarm
from tenfold.load.errors import RequestFailed
from tenfold.load.pool import Pool
from tenfold.load.recorder import Recorder
from tenfold.load.result import ClientHealth, Spread
from tenfold.load.scenario import Scenario
from tenfold.load.schedule import Schedule
from tenfold.load.step import step
from tenfold.load.trampoline import resume
from tenfold.load.user import User

_SWEEP: Final = 0.02
_BURST: Final = 32
"""Journeys started in one turn of the loop at most; sockets are served between two bursts."""
_OWN_OBJECTS: Final = 8
"""Objects that a journey under way may hold; a small collection is worthwhile where more than these are new.
"""
_IMPLICIT_NAMES: Final = 100
MAX_IN_FLIGHT: Final = 100_000
"""Journeys under way in one process at most; arrivals beyond it are not started, and that invalidates the
run.
"""


class Engine:
    """Runs the share of one process: arrivals i with ``i % processes == process``."""

    def __init__(
        self,
        scenario: Scenario,
        schedule: Schedule,
        *,
        seed: int,
        process: int = 0,
        processes: int = 1,
        warmup: float = 0.0,
        timeout: float = 10.0,
        max_connections: int = 1000,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.seed = seed
        self.timeout = timeout
        self.random = derive(seed, "think", process).random
        self.started = 0
        self.dropped = 0
        self.unfinished = 0
        self.most = 0
        self.stopping = False
        self.tracebacks: dict[str, str] = {}
        self._scenario = scenario
        self._schedule = schedule
        self._process, self._processes = process, processes
        self._warmup = warmup
        self._limit = max_connections
        self._tls = _tls(scenario.verify)
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self.pool = self.pool_for(scenario.target)
        self._live: set[User] = set()
        self._names: set[str] = set()
        weights = list(accumulate(journey.weight for journey in scenario.journeys))
        self._weights = [weight / weights[-1] for weight in weights]
        self._functions = [(journey.name, journey.function) for journey in scenario.journeys]
        self._exhausted = False
        self._done = asyncio.Event()
        self._idle = asyncio.Event()
        self._begun = 0.0
        self._cpu = 0.0
        self._health: tuple[float, float] | None = None
        self._record(Recorder(0.0, 0.0))
        feed.seed_all(seed, process, processes)

    async def prepare(self, connections: int) -> None:
        """Open connections to the target before the start. Raises `OSError` where nothing is there."""
        await self.pool.warm(connections)

    async def run(self, start: float, drain: float) -> None:
        """Run the schedule from the monotonic instant ``start`` and then wait up to ``drain`` seconds for
        answers.
        """
        self._start = start
        self._drain = drain
        self._record(Recorder(start, self._warmup))
        self._arrivals = self._own_arrivals()
        self._batch: list[tuple[float, float]] = []
        self._at = 0
        self._alarm = Alarm(self.loop, self._fire)
        sweeper = self.loop.create_task(self._sweep())
        # Journeys make no cycles worth collecting; what they do make (tracebacks, mostly) goes with the small
        # collections of `_sweep`. Everything that exists by now is set aside, so that those stay small. A
        # queue of journeys is looked through every half minute only: it grows, and there is nothing to find.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._cpu = _cpu_seconds()
            self._begun = max(start, monotonic())
            if self._load():
                self._alarm.at(self._start + self._batch[0][0])
            else:
                self._end_of_arrivals()
            await self._done.wait()
            self._health = self._spent()
            if self._live:
                try:
                    async with asyncio.timeout(self._drain):
                        await self._idle.wait()
                except TimeoutError:
                    pass
            self._abandon()
        finally:
            gc.enable()
            gc.unfreeze()
            self._alarm.close()
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.close()

    def stop(self, drain: float) -> None:
        """Start no further journeys and wait at most ``drain`` seconds for those under way."""
        self.stopping = True
        self._drain = drain
        self._end_of_arrivals()

    @property
    def retries(self) -> int:
        """Requests sent again because a reused connection had gone away."""
        return sum(pool.retries for pool in self._pools.values())

    @property
    def in_flight(self) -> int:
        """Journeys under way."""
        return len(self._live)

    def health(self) -> ClientHealth:
        """How this process fared: shares and lateness up to the last arrival, sums up to now."""
        cpu, elapsed = self._health or self._spent()
        pools = self._pools.values()
        return ClientHealth(
            pid=os.getpid(),
            cpu_seconds=self._spent()[0],
            cpu_share=cpu / elapsed,
            loop_lag=Spread.of(self.recorder.lag),
            schedule_slip=Spread.of(self.recorder.slip),
            connections_opened=sum(pool.opened for pool in pools),
            requests=sum(pool.requests for pool in pools),
            bytes_in=sum(pool.bytes_in for pool in pools),
        )

    def _record(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.good = recorder.good

    # What users and steps call.

    def alive(self, user: User) -> bool:
        """Whether the journey of ``user`` is still part of the run."""
        return user in self._live

    def pool_for(self, url: str) -> Pool:
        """The pool of the origin of ``url``. Raises `MisuseError` for a host that nobody named."""
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
        port = parts.port or (443 if scheme == "https" else 80)
        pool = self._pools.get((scheme, host, port))
        if pool is None:
            if scheme not in ("http", "https") or not self._scenario.allows(url):
                raise MisuseError(f"request: expected loopback or a host named with target(), got {url!r}")
            agent = f"tenfold-load/{__version__}"
            pool = Pool(scheme, host, port, limit=self._limit, tls=self._tls, user_agent=agent)
            self._pools[scheme, host, port] = pool
        return pool

    def implicit(self, user: User, method: str, url: str) -> step:
        """The step of a request outside of any: ``GET /products``. Names beyond 100 share one."""
        path = urlsplit(url).path if "//" in url else url.partition("?")[0]
        name = f"{method} /{path.lstrip('/').partition('/')[0]}"
        if name not in self._names:
            if len(self._names) >= _IMPLICIT_NAMES:
                name = f"{method} (other)"
            self._names.add(name)
        return step(name).__enter__()

    def loose_check(self, user: User, name: str) -> None:
        """A check failed outside of any step: it counts for the journey."""
        now = monotonic()
        intended = user._first if user._first is not None else now
        self.recorder.failed(f"journey {user._journey}", intended, now, now, f"check: {name}")

    def finished(self, user: User, error: BaseException | None) -> None:
        """The journey of ``user`` is over."""
        self._live.discard(user)
        if user._samples > self.most:
            self.most = user._samples
        if error is not None and not isinstance(error, RequestFailed):
            self._raised(user, error)
        if not self._live and self._exhausted:
            self._idle.set()

    def _raised(self, user: User, error: BaseException) -> None:
        kind = f"exception: {type(error).__name__}"
        if kind not in self.tracebacks and len(self.tracebacks) < 20:
            self.tracebacks[kind] = "".join(traceback.format_exception(error))[-8000:]
        if user._counted != id(error):
            now = monotonic()
            intended = user._first if user._first is not None else now
            self.recorder.failed(f"journey {user._journey}", intended, now, now, kind)

    # Arrivals.

    def _own_arrivals(self) -> Iterator[tuple[array[float], list[float]]]:
        """Chunks of own arrivals with the draw that chooses the journey; every process walks the same two
        streams.
        """
        draw = derive(self.seed, "journey").random
        n, k = self._processes, self._process
        first = 0
        for chunk in self._schedule.arrivals(self.seed, 1024):
            draws = [draw() for _ in chunk]
            skip = (k - first) % n
            yield chunk[skip::n], draws[skip::n]
            first += len(chunk)

    def _load(self) -> bool:
        """The next chunk that holds an arrival of this process; False at the end."""
        for offsets, draws in self._arrivals:
            if offsets:
                self._batch = list(zip(offsets, draws, strict=True))
                self._at = 0
                return True
        return False

    def _fire(self) -> None:
        if self.stopping:
            return
        now = monotonic()
        for _ in range(_BURST):
            if self._at >= len(self._batch) and not self._load():
                self._end_of_arrivals()
                return
            offset, draw = self._batch[self._at]
            due = self._start + offset
            if due > now:
                self._alarm.at(due)
                return
            self._at += 1
            self._launch(due, draw, now)
        self._alarm.at(now)

    def _launch(self, due: float, draw: float, now: float) -> None:
        self.recorder.late.append(now - due)
        if len(self._live) >= MAX_IN_FLIGHT:
            self.dropped += 1
            return
        name, function = self._functions[bisect_right(self._weights, draw)]  # the last weight is 1 and a draw is less
        user = User(self, name, self.started * self._processes + self._process, due)
        self.started += 1
        self._live.add(user)
        user._coroutine = function(user)
        resume(user, None)

    def _end_of_arrivals(self) -> None:
        self._exhausted = True
        self._done.set()
        if not self._live:
            self._idle.set()

    def _abandon(self) -> None:
        """Close the journeys that the drain time-out cut off; their open steps count as ``unfinished``."""
        left, self._live = self._live, set()
        for pool in self._pools.values():
            pool.abandon()
        now = monotonic()
        self.unfinished = len(left)
        for user in left:
            opened = user._step
            if opened is not None and not self.stopping:
                self.recorder.failed(opened.name, opened.intended, opened.sent or now, now, "unfinished")
            try:
                user._coroutine.close()
            except Exception as error:  # noqa: BLE001 - a clean-up block of the journey failed
                self.tracebacks.setdefault("at close", repr(error))

    # Health.

    async def _sweep(self) -> None:
        """Deadlines, folding, loop lag and small collections, every 20 ms."""
        turns = 0
        while True:
            due = monotonic() + _SWEEP
            await asyncio.sleep(_SWEEP)
            now = monotonic()
            if not self._done.is_set() and now > self._start:
                self.recorder.lag.record(max(0, int((now - due) * 1e6)))
            for pool in list(self._pools.values()):
                pool.sweep()
            self.recorder.in_flight(now, len(self._live))
            self.recorder.fold()
            turns += 1
            if turns % 1500 == 0:
                gc.collect(2 if turns % 6000 == 0 else 1)
            elif turns % 50 == 0 and gc.get_count()[0] > _OWN_OBJECTS * len(self._live):
                gc.collect(0)

    def _spent(self) -> tuple[float, float]:
        """CPU seconds and wall seconds since the start."""
        return _cpu_seconds() - self._cpu, max(1e-9, monotonic() - self._begun)


def _tls(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
