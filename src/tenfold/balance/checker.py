"""Who puts the checks: a task for each endpoint, so that one that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import logging
import random as _random
from collections.abc import Callable
from typing import Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.tasks import shielded
from tenfold.balance.checks import Check, Verdict
from tenfold.balance.endpoint import Endpoint

_log: Final = logging.getLogger("tenfold.balance")


class Checker:
    """Puts ``check`` to every endpoint it watches and hands each answer to ``on_verdict(id, verdict, now)``.

    ``on_verdict`` is a plain function, called in the event loop. What it raises is logged, counted in `failures` and
    stops nothing. A check that is cancelled, by `forget` or `aclose`, gives no verdict. ``random`` gives a number in
    [0, 1). Belongs to one event loop.
    """

    def __init__(
        self,
        check: Check,
        on_verdict: Callable[[str, Verdict, float], object],
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.check: Final = check
        self._on_verdict = on_verdict
        self._clock = clock
        self._draw = random
        self._watched: dict[str, tuple[Endpoint, asyncio.Task[None]]] = {}
        self._running: set[asyncio.Task[None]] = set()  # also those that were forgotten and have not ended yet
        self._closed = False
        self.probes = self.failures = 0
        """Probes that gave a verdict; exceptions of ``on_verdict``, and of a check that should have given a no."""

    def watch(self, endpoint: Endpoint) -> None:
        """Check this endpoint from now on. The same again changes nothing; the same id declared otherwise starts anew.

        Raises `MisuseError` after `aclose`; needs a running event loop.
        """
        if self._closed:
            raise MisuseError("checker: it is closed; make a new one")
        before = self._watched.get(endpoint.id)
        if before is not None:
            if before[0] == endpoint:
                return
            self.forget(endpoint.id)
        task = asyncio.get_running_loop().create_task(self._go(endpoint), name=f"check {endpoint.id}")
        self._watched[endpoint.id] = (endpoint, task)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def forget(self, id: str) -> None:
        """Check this endpoint no more; no verdict on it comes after this. An unknown id changes nothing."""
        found = self._watched.pop(id, None)
        if found is not None:
            found[1].cancel()

    async def aclose(self) -> None:
        """Stop all checks and wait until they have let go of their connections. May be called twice."""
        self._closed = True
        for id in list(self._watched):
            self.forget(id)
        running = tuple(self._running)
        if running:
            await shielded(_settle(running))

    async def _go(self, endpoint: Endpoint) -> None:
        clock, check, failures = self._clock, self.check, 0
        await clock.sleep(check.first(self._draw))
        while True:
            started = clock.monotonic()
            verdict = await self._probe(endpoint)
            now = clock.monotonic()
            failures = 0 if verdict.ok else failures + 1
            self.probes += 1
            try:
                self._on_verdict(endpoint.id, verdict, now)
            except Exception:  # noqa: BLE001 - a receiver that raises must not end the checks
                self.failures += 1
                _log.exception("check of %s: the receiver of its verdict failed", endpoint.id)
            await clock.sleep(max(0.0, started + check.pause(failures, self._draw) - clock.monotonic()))

    async def _probe(self, endpoint: Endpoint) -> Verdict:
        try:
            return await self.check.probe(endpoint)
        except Exception as error:  # noqa: BLE001 - a check must not end because it is wrong; it is logged and a no
            self.failures += 1
            _log.exception("check of %s failed by itself; counted as a no", endpoint.id)
            return Verdict(False, f"{type(error).__name__}: {error}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)

    def __len__(self) -> int:
        return len(self._watched)

    def __bool__(self) -> bool:
        return True  # a checker that watches nobody is still a checker

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"watching {len(self._watched)}"
        return f"<Checker {type(self.check).__name__} {state} probes={self.probes} failures={self.failures}>"


async def _settle(running: tuple[asyncio.Task[None], ...]) -> None:
    await asyncio.wait(running)
