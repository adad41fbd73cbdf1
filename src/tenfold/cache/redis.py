"""Level 2: a Valkey (or Redis) shared by all processes. Fast while it answers, free of charge while it does
not.

*Batching.* All reads that are asked for in one turn of the event loop travel as one ``MGET``; leases and
stores of that turn ride in the same packet. At most four packets are under way; what comes meanwhile waits
for the next.

*Failure.* The first time-out or broken connection switches level 2 off. From then on every call is answered
at once with `DOWN` and goes to its loader; one background task knocks once a back-off and switches level 2 on
again. So a frozen Valkey costs the calls then under way one soft time-out, and later calls nothing.

*Invalidations* have more patience (a lost one would leave old data behind). One that fails is kept, and
replayed before level 2 is switched on again; if too many pile up, everything is invalidated instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tenfold._core.clock import Clock
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import Command, Link
from tenfold.cache.scripts import OPEN, STORE

MAX_KEYS_A_BATCH: Final = 512
MAX_BATCHES: Final = 4
MAX_WAITING: Final = 20_000
MAX_PENDING: Final = 10_000
LEASE_MS: Final = 120_000
EVERYTHING: Final = "t:"  # the tag that every record carries

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class _Down:
    def __repr__(self) -> str:
        return "DOWN"


DOWN: Final = _Down()


@dataclass(slots=True)
class _Request:
    """A read (``keys``) or a command of its own (``command``) that waits for its packet."""

    keys: Sequence[str]
    command: Command | None
    answer: asyncio.Future[Any]


class Level2:
    """One namespace in one Valkey, as one event loop sees it.

    Names are ``e:KEY`` for records and ``t:TAG`` for tags. ``soft`` bounds reads, leases and stores; ``hard``
    bounds invalidations; ``backoff`` is the time between two knocks at a door that did not answer. Seconds
    all.
    """

    def __init__(
        self,
        link: Link,
        namespace: str,
        *,
        sender: bytes,
        counters: Counters,
        clock: Clock,
        spawn: Spawn,
        soft: float,
        hard: float,
        backoff: float,
    ) -> None:
        self._link = link
        self._prefix = f"tenfold:1:{namespace}:"
        self.channel = f"{self._prefix}invalidated"
        self._sender = sender
        self._counters = counters
        self._clock = clock
        self._spawn = spawn
        self._soft, self._hard, self._backoff = soft, hard, backoff
        self._waiting: deque[_Request] = deque()
        self._under_way = 0
        self._flush_scheduled = False
        self._pending: dict[str, None] = {}
        self.down = False
        self._hard_down = False

    def __repr__(self) -> str:
        state = "down" if self.down else "up"
        return (
            f"Level2({self._prefix!r}, {state}, {len(self._waiting)} waiting, {len(self._pending)} pending)"
        )

    @property
    def pending(self) -> int:
        """Invalidations that wait for level 2 to come back."""
        return len(self._pending)

    async def read(self, names: Sequence[str]) -> tuple[list[bytes | None], int] | None:
        """The record and tag nonces of ``names``, and the server's time in ms. None while level 2 is down."""
        answer = await self._ask(_Request(names, None, asyncio.get_running_loop().create_future()))
        return None if answer is DOWN else answer

    async def open(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[bytes] | None:
        """See `scripts.OPEN`. None while level 2 is down."""
        life = ttl_ms + LEASE_MS
        answer = await self._eval(OPEN, names, [nonce, life, LEASE_MS, mode])
        return None if answer is None else list(answer)

    async def store(
        self, names: Sequence[str], nonce: bytes, tag_nonces: Sequence[bytes], ttl_ms: int, payload: bytes
    ) -> bool | None:
        """See `scripts.STORE`: whether it was stored. None while level 2 is down."""
        answer = await self._eval(STORE, names, [nonce, max(1, ttl_ms), payload, *tag_nonces])
        return None if answer is None else bool(answer)

    async def invalidate(self, names: Sequence[str]) -> bool:
        """Delete ``names`` and tell the other processes. False if level 2 does not answer: then it is done
        later.
        """
        if self._hard_down:
            self._postpone(names)
            return False
        try:
            await self._delete(names, self._hard)
        except LevelTwoDown:
            self._counters.l2_failures += 1
            self._postpone(names)
            self._hard_down = True
            self._switch_off()
            return False
        return True

    async def announce(self, names: Sequence[str]) -> None:
        """Tell the other processes that their own copies are old; the records stay."""
        message = msgspec.msgpack.encode((self._sender, list(names)))
        command: Command = ("PUBLISH", self.channel, message)
        await self._ask(_Request((), command, asyncio.get_running_loop().create_future()))

    async def _delete(self, names: Sequence[str], patience: float) -> None:
        message = msgspec.msgpack.encode((self._sender, list(names)))
        keys = [self._prefix + name for name in names]
        answers = await self._link.exchange([("UNLINK", *keys), ("PUBLISH", self.channel, message)], patience)
        for answer in answers:
            if isinstance(answer, Exception):
                raise LevelTwoDown(f"refused: {answer}")

    async def _replay(self) -> None:
        # Taken out first: what is invalidated again while the packet is under way has to be deleted once
        # more.
        names = list(self._pending)[:MAX_KEYS_A_BATCH]
        for name in names:
            del self._pending[name]
        try:
            await self._delete(names, self._hard)
        except BaseException:
            self._postpone(names)
            raise

    def _postpone(self, names: Sequence[str]) -> None:
        self._pending.update(dict.fromkeys(names))
        if len(self._pending) > MAX_PENDING:
            self._pending = {EVERYTHING: None}

    # -- the batch

    async def _eval(self, script: str, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        keys = [self._prefix + name for name in names]
        command: Command = ("EVAL", script, len(keys), *keys, *arguments)
        answer = await self._ask(_Request((), command, asyncio.get_running_loop().create_future()))
        return None if answer is DOWN else answer

    def _ask(self, request: _Request) -> asyncio.Future[Any]:
        if self.down or len(self._waiting) >= MAX_WAITING:
            self._counters.l2_skipped += 1
            request.answer.set_result(DOWN)
            return request.answer
        self._waiting.append(request)
        if not self._flush_scheduled and self._under_way < MAX_BATCHES:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        return request.answer

    def _flush(self) -> None:
        self._flush_scheduled = False
        while self._waiting and self._under_way < MAX_BATCHES:
            batch: list[_Request] = []
            room = MAX_KEYS_A_BATCH
            while self._waiting and (room > 0 or not batch):
                request = self._waiting.popleft()
                if request.answer.done():  # its caller was cancelled
                    continue
                room -= len(request.keys) or 1
                batch.append(request)
            if batch:
                self._under_way += 1
                self._spawn(self._send(batch))

    async def _send(self, batch: list[_Request]) -> None:
        try:
            places: dict[str, int] = {}
            for request in batch:
                for name in request.keys:
                    places.setdefault(name, len(places))
            commands: list[Command] = []
            if places:
                commands += [("MGET", *[self._prefix + name for name in places]), ("TIME",)]
            own = [request for request in batch if request.command is not None]
            commands += [request.command for request in own if request.command is not None]
            answers = await self._link.exchange(commands, self._soft)
            if places:
                found, now = answers[0], answers[1]
                if isinstance(found, Exception) or isinstance(now, Exception):
                    raise LevelTwoDown(f"refused: {found if isinstance(found, Exception) else now}")
                milliseconds = int(now[0]) * 1000 + int(now[1]) // 1000
                for request in batch:
                    if request.command is None and not request.answer.done():
                        request.answer.set_result(
                            ([found[places[name]] for name in request.keys], milliseconds)
                        )
            for request, answer in zip(own, answers[2 if places else 0 :], strict=True):
                if isinstance(answer, Exception):
                    self._counters.l2_failures += (
                        1  # out of memory, read-only, …: this one counts as not done
                    )
                if not request.answer.done():
                    request.answer.set_result(DOWN if isinstance(answer, Exception) else answer)
        except LevelTwoDown:
            self._counters.l2_failures += 1
            self._switch_off()
        finally:
            self._under_way -= 1
            for request in batch:
                if not request.answer.done():
                    request.answer.set_result(DOWN)
            if self._waiting:
                self._flush()

    # -- the breaker

    def _switch_off(self) -> None:
        if self.down:
            return
        self.down = True
        while self._waiting:
            request = self._waiting.popleft()
            if not request.answer.done():
                request.answer.set_result(DOWN)
        self._spawn(self._knock())

    async def _knock(self) -> None:
        await self._link.drop_idle()
        while True:
            await self._clock.sleep(self._backoff)
            try:
                (pong,) = await self._link.exchange([("PING",)], self._soft)
                if isinstance(pong, Exception):
                    raise LevelTwoDown(f"refused: {pong}")
                while self._pending:
                    await self._replay()
            except LevelTwoDown:
                self._counters.l2_failures += 1
                self._hard_down = True
                continue
            self._hard_down = self.down = False
            return
