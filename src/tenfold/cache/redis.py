"""Level 2: a Valkey (or Redis) shared by all processes. Fast while it answers, free of charge while it does
not.

*Failure.* The first time-out or broken connection switches level 2 off. From then on every call is answered
at once with `DOWN` and goes to its loader; one background task knocks once a back-off and switches level 2 on
again. So a frozen Valkey costs the calls then under way one soft time-out, and later calls nothing.

*Invalidations* have more patience (a lost one would leave old data behind). One that fails is kept, and
replayed before level 2 is switched on again; if too many pile up, everything is invalidated instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tenfold._core.clock import Clock
from tenfold.cache.batch import MAX_KEYS_A_BATCH, Batcher
from tenfold.cache.codec import lease_of
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.leases import Leases, settled
from tenfold.cache.level_two import EVERYTHING, Level2, prefix
from tenfold.cache.request import DOWN
from tenfold.cache.route import CONNECT_PATIENCE, FAST, SURE, Route
from tenfold.cache.scripts import OPEN, STORE
from tenfold.cache.settle import Settlements
from tenfold.cache.tasks import Spawn

MAX_PENDING: Final = 10_000


class OneServer(Level2):
    """One namespace in one Valkey, as one event loop sees it.

    Names are ``e:KEY`` for records and ``t:TAG`` for tags. ``soft`` bounds reads, leases and stores; ``hard``
    bounds invalidations; ``backoff`` is the time between two knocks at a door that did not answer. Seconds
    all. A namespace that is a part of a cache has the ``channel`` and the ``settlements`` of the whole.
    """

    def __init__(
        self,
        link: Route,
        namespace: str,
        *,
        sender: bytes,
        counters: Counters,
        clock: Clock,
        spawn: Spawn,
        soft: float,
        hard: float,
        backoff: float,
        channel: str | None = None,
        settlements: Settlements | None = None,
    ) -> None:
        self._link = link
        self._prefix = prefix(namespace)
        self.channel = channel or f"{self._prefix}invalidated"
        self._sender = sender
        self._counters = counters
        self._clock = clock
        self._spawn = spawn
        self._soft, self._hard, self._backoff = soft, hard, backoff
        self._batcher = Batcher(
            link, self._prefix, soft=soft, counters=counters, spawn=spawn, on_failure=self._switch_off
        )
        self.get = self._batcher.get
        self._pending: dict[str, None] = {}
        self.leases: Leases = Leases(self._batcher, self.channel, clock=clock, spawn=spawn)
        self.settlements = settlements or Settlements()
        self._hard_down = False

    def __repr__(self) -> str:
        state = "down" if self.down else "up"
        return f"OneServer({self._prefix!r}, {state}, {len(self._batcher)} waiting, {len(self._pending)} pending)"

    @property
    def pending(self) -> int:
        """Invalidations that wait for level 2 to come back."""
        return len(self._pending)

    @property
    def down(self) -> bool:
        """Whether level 2 is switched off."""
        return self._batcher.down

    async def connect(self) -> None:
        """Set the connection up, which may take longer than a look-up waits. Without success level 2 is off."""
        try:
            await self._link.opened(CONNECT_PATIENCE)
        except LevelTwoDown:
            self._counters.l2_failures += 1
            self._switch_off()

    async def read(self, names: Sequence[str]) -> tuple[list[bytes | None], int] | None:
        """The record and tag nonces of ``names``, and the server's time in ms. None while level 2 is down."""
        answer = await self._batcher.read(names)
        return None if answer is DOWN else answer

    async def open(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[bytes] | None:
        """The record and the tag nonces as `scripts.OPEN` leaves them. None while level 2 is down."""
        answer = await self.look(names, nonce, ttl_ms, mode)
        return None if answer is None else [answer[0], *answer[2:]]

    async def look(self, names: Sequence[str], nonce: bytes, ttl_ms: int, mode: str) -> list[Any] | None:
        """See `scripts.OPEN`. None while level 2 is down."""
        life = self.leases.life_ms
        try:
            answer = await self._batcher.run(OPEN, names, [nonce, ttl_ms + life, life, mode, self._batcher.latest()])
        except BaseException:
            self.leases.hold(nonce, names[0])  # it may be opened yet
            self.leases.release(nonce)
            raise
        if answer is DOWN or answer is None:
            return None
        if (
            type(answer) is not list
            or len(answer) != len(names) + 1
            or type(answer[1]) is not int
            or any(type(one) is not bytes for one in (answer[0], *answer[2:]))
        ):
            self._counters.l2_failures += 1  # garbage
            return None
        if lease_of(answer[0]) == nonce:
            self.leases.hold(nonce, names[0])
        return list(answer)

    async def store(
        self, names: Sequence[str], nonce: bytes, tag_nonces: Sequence[bytes], ttl_ms: int, payload: bytes
    ) -> bool | None:
        """See `scripts.STORE`: whether it was stored. None while level 2 is down."""
        arguments = [nonce, max(1, ttl_ms), payload, self.channel, settled(names[0]), *tag_nonces]
        answer = await self._batcher.run(STORE, names, arguments)
        if answer is DOWN:
            return None
        self.leases.stored(nonce)
        return bool(answer) if type(answer) is int else None

    def undecodable(self) -> None:
        """A value that another process stored cannot be read here."""
        self._counters.undecodable += 1

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
        await self._batcher.do(("PUBLISH", self.channel, message))

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

    # -- the breaker

    def leave(self) -> None:
        """The server is the wrong one: off, until the right one has answered."""
        self._hard_down = True
        self._switch_off()

    def _switch_off(self) -> None:
        if self.down:
            return
        self._batcher.down = True
        self._batcher.drop()
        self.settlements.wake()
        self._spawn(self._knock())

    async def _knock(self) -> None:
        await self._link.drop(FAST)
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
            self._hard_down = self._batcher.down = False
            return
