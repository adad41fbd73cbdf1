"""Level 2: a Valkey (or Redis) shared by all processes. Fast while it answers, free of charge while it does
not.

*Batching.* All reads that are asked for in one turn of the event loop travel as one ``MGET``; leases and
stores of that turn ride in the same packet. Packets follow each other on one connection (`lane`), at most four under
way; what comes meanwhile waits for the next. Scripts are called by their digest, and sent in full to a server that
does not know them.

*Leases* that this process holds are renewed while their loads run, and given up when a load comes to nothing.

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
from functools import partial
from typing import Any, Final

import msgspec

from tenfold._core.clock import Clock
from tenfold.cache.codec import lease_of
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import CONNECT_PATIENCE, SURE, Command, Link
from tenfold.cache.scripts import GIVE_UP, KEEP, OPEN, STORE, Script
from tenfold.cache.settle import Settlements

MAX_KEYS_A_BATCH: Final = 512
MAX_BATCHES: Final = 4
MAX_WAITING: Final = 20_000
MAX_PENDING: Final = 10_000
LEASE_MS: Final = 10_000  # after this long a dead loader is noticed
LONGEST_LOAD: Final = 120.0  # seconds after which its lease is renewed no more
EVERYTHING: Final = "t:"  # the tag that every record carries

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class _Down:
    def __repr__(self) -> str:
        return "DOWN"


DOWN: Final = _Down()


class _Request:
    """A read (``keys``) or a command of its own (``command``) that waits for its packet."""

    __slots__ = ("answer", "command", "keys", "script")

    def __init__(
        self,
        keys: Sequence[str],
        command: Command | None,
        answer: asyncio.Future[Any],
        script: Script | None = None,
    ) -> None:
        self.keys = keys
        self.command = command
        self.answer = answer
        self.script = script


class _Held:
    """A lease that this process opened; ``begun`` once a load runs under it."""

    __slots__ = ("begun", "name", "since")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.since = since
        self.begun = False


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
        self._held: dict[bytes, _Held] = {}  # leases that were opened here
        self._keeper: asyncio.Task[Any] | None = None
        self.settlements = Settlements()
        self.down = False
        self._hard_down = False

    def __repr__(self) -> str:
        state = "down" if self.down else "up"
        return f"Level2({self._prefix!r}, {state}, {len(self._waiting)} waiting, {len(self._pending)} pending)"

    @property
    def pending(self) -> int:
        """Invalidations that wait for level 2 to come back."""
        return len(self._pending)

    async def read(self, names: Sequence[str]) -> tuple[list[bytes | None], int] | None:
        """The record and tag nonces of ``names``, and the server's time in ms. None while level 2 is down."""
        answer = await self._ask(_Request(names, None, asyncio.get_running_loop().create_future()))
        return None if answer is DOWN else answer

    async def open(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[bytes] | None:
        """The record and the tag nonces as `scripts.OPEN` leaves them. None while level 2 is down."""
        answer = await self.look(names, nonce, ttl_ms, mode)
        return None if answer is None else [answer[0], *answer[2:]]

    async def look(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[Any] | None:
        """See `scripts.OPEN`. None while level 2 is down."""
        life = ttl_ms + LEASE_MS
        try:
            answer = await self._eval(OPEN, names, [nonce, life, LEASE_MS, mode])
        except asyncio.CancelledError:
            self._hold(nonce, names[0])  # it may be opened yet
            self.release(nonce)
            raise
        if answer is None:
            return None
        if lease_of(answer[0]) == nonce:
            self._hold(nonce, names[0])
        return list(answer)

    async def store(
        self, names: Sequence[str], nonce: bytes, tag_nonces: Sequence[bytes], ttl_ms: int, payload: bytes
    ) -> bool | None:
        """See `scripts.STORE`: whether it was stored. None while level 2 is down."""
        message = self._settled(names[0])
        try:
            answer = await self._eval(
                STORE, names, [nonce, max(1, ttl_ms), payload, self.channel, message, *tag_nonces]
            )
            if answer is not None:
                self._held.pop(nonce, None)
        finally:
            # Refused by the server, or cancelled before it was asked: others need not wait for this load.
            self.release(nonce)
        return None if answer is None else bool(answer)

    # -- the leases of this process

    def begin(self, nonce: bytes) -> bool:
        """A load begins under this lease, which is renewed from now on. False if it is another process's."""
        held = self._held.get(nonce)
        if held is None:
            return False
        held.begun = True
        if self._keeper is None or self._keeper.done():
            self._keeper = self._spawn(self._keep_leases())
        return True

    def abandon(self, names: Sequence[str]) -> None:
        """Whoever opened leases of ``names`` has gone before it loaded."""
        for nonce in [nonce for nonce, held in self._held.items() if not held.begun and held.name in names]:
            self.release(nonce)

    def release(self, nonce: bytes | None) -> None:
        """The load under this lease has ended without a value that was stored."""
        if nonce is None or (held := self._held.pop(nonce, None)) is None or self.down:
            return
        name = held.name
        self._ask(self._call(GIVE_UP, [name], [nonce, self.channel, self._settled(name)]))

    def undecodable(self) -> None:
        """A value that another process stored cannot be read here."""
        self._counters.undecodable += 1

    def _hold(self, nonce: bytes, name: str) -> None:
        self._held[nonce] = _Held(name, self._clock.monotonic())

    async def _keep_leases(self) -> None:
        while self._held:
            await self._clock.sleep(LEASE_MS / 3000)
            now = self._clock.monotonic()
            for nonce, held in list(self._held.items()):
                age = now - held.since
                if age > (LONGEST_LOAD if held.begun else LEASE_MS / 1000):
                    del self._held[nonce]  # it runs out by itself
                elif held.begun and age > LEASE_MS / 6000 and not self.down:
                    self._ask(self._call(KEEP, [held.name], [nonce, LEASE_MS]))

    def _settled(self, name: str) -> bytes:
        """The message for those who wait for a load; from nobody, for all."""
        return msgspec.msgpack.encode((b"", ["s:" + name[2:]]))

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
        finally:
            self.settlements.heard(names)
        return True

    async def announce(self, names: Sequence[str]) -> None:
        """Tell the other processes that their own copies are old; the records stay."""
        message = msgspec.msgpack.encode((self._sender, list(names)))
        command: Command = ("PUBLISH", self.channel, message)
        await self._ask(_Request((), command, asyncio.get_running_loop().create_future()))

    async def _delete(self, names: Sequence[str], patience: float) -> None:
        message = msgspec.msgpack.encode((self._sender, list(names)))
        keys = [self._prefix + name for name in names]
        answers = await self._link.exchange([("UNLINK", *keys), ("PUBLISH", self.channel, message)], patience, SURE)
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

    async def _eval(self, script: Script, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        answer = await self._ask(self._call(script, names, arguments))
        return None if answer is DOWN else answer

    def _call(self, script: Script, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> _Request:
        keys = [self._prefix + name for name in names]
        command: Command = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        return _Request((), command, asyncio.get_running_loop().create_future(), script)

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
                self._send(batch)

    def _send(self, batch: list[_Request]) -> None:
        lane = self._link.lane()
        if lane is None:
            self._spawn(self._connect(batch))
            return
        places: dict[str, int] = {}
        for request in batch:
            for name in request.keys:
                if name not in places:
                    places[name] = len(places)
        commands: list[Command] = []
        if places:
            prefix = self._prefix
            commands = [("MGET", *[prefix + name for name in places]), ("TIME",)]
        commands += [request.command for request in batch if request.command is not None]
        lane.send(commands, self._soft, partial(self._answered, batch, places))

    async def _connect(self, batch: list[_Request]) -> None:
        try:
            await self._link.opened(self._soft)
        except LevelTwoDown:
            self._counters.l2_failures += 1
            self._switch_off()
        except BaseException:
            self._landed(batch)
            raise
        if self.down or self._link.lane() is None:
            self._landed(batch)
        else:
            self._send(batch)

    def _answered(self, batch: list[_Request], places: dict[str, int], answers: list[Any] | LevelTwoDown) -> None:
        if isinstance(answers, LevelTwoDown):
            self._counters.l2_failures += 1
            self._switch_off()
        else:
            at = 0
            if places:
                at = 2
                found, now = answers[0], answers[1]
                if isinstance(found, Exception) or isinstance(now, Exception):
                    self._counters.l2_failures += 1
                    self._switch_off()
                else:
                    milliseconds = int(now[0]) * 1000 + int(now[1]) // 1000
                    for request in batch:
                        if request.command is None and not request.answer.done():
                            request.answer.set_result(([found[places[name]] for name in request.keys], milliseconds))
            for request in batch:
                if request.command is not None:
                    self._hand_over(request, answers[at])
                    at += 1
        self._landed(batch)

    def _hand_over(self, request: _Request, answer: Any) -> None:
        if isinstance(answer, Exception):
            if request.script is not None and str(answer).startswith("NOSCRIPT") and not self.down:
                assert request.command is not None
                request.command = ("EVAL", request.script.source, *request.command[2:])
                request.script = None
                self._waiting.appendleft(request)
                return
            self._counters.l2_failures += 1  # out of memory, read-only, …: this one counts as not done
            answer = DOWN
        if not request.answer.done():
            request.answer.set_result(answer)

    def _landed(self, batch: list[_Request]) -> None:
        self._under_way -= 1
        for request in batch:
            if not request.answer.done() and request not in self._waiting:
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
        self.settlements.wake()
        self._spawn(self._knock())

    async def _knock(self) -> None:
        await self._link.drop()
        while True:
            await self._clock.sleep(self._backoff)
            try:
                await self._link.opened(CONNECT_PATIENCE)
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
