"""All that is asked for in one turn of the event loop travels in one packet.

Look-ups become one ``MGET``, each key once; scripts and other commands of that turn ride along. At most four packets
are under way, what comes meanwhile waits for the next; a packet looks up at most 512 names, and what waits is bounded.
Scripts are called by their digest, and sent in full to a server that does not know them.

A look-up of a single entry that is there, good and readable is answered here, with its value, because most are: it then
costs its caller one future and no further step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from tenfold.cache.codec import Codec, mark_of, payload_at
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.lane import Command
from tenfold.cache.request import DOWN, Get, Raw, Request
from tenfold.cache.route import Route
from tenfold.cache.scripts import Script
from tenfold.cache.tasks import Spawn

MAX_KEYS_A_BATCH: Final = 512
MAX_BATCHES: Final = 4
MAX_WAITING: Final = 20_000
_SLACK_MS: Final = 100
_RECORDS: Final = frozenset((bytes, type(None)))


class Batcher:
    """Packets over one link; ``on_failure`` is told when one gets lost. Belongs to one event loop."""

    def __init__(
        self,
        link: Route,
        prefix: str,
        *,
        soft: float,
        counters: Counters,
        spawn: Spawn,
        on_failure: Callable[[], None],
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._soft = soft
        self._counters = counters
        self._spawn = spawn
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Request | Get] = deque()
        self._under_way = 0
        self._flush_scheduled = False
        self._server_ahead: int | None = None  # of this loop's clock, in ms
        self.down = False

    def __len__(self) -> int:
        return len(self._waiting)

    def read(self, names: Sequence[str]) -> asyncio.Future[Any]:
        """The records of ``names`` and the server's time in ms; or `DOWN`."""
        return self._ask(Request(self._loop.create_future(), names))

    def get(self, names: Sequence[str], codec: Codec) -> asyncio.Future[Any]:
        """The value of ``names[0]``, whose tags are the others; or `Raw`, or `DOWN`."""
        return self._ask(Get(self._loop.create_future(), names, codec))

    def run(self, script: Script, names: Sequence[str], arguments: Sequence[Any]) -> asyncio.Future[Any]:
        """The script's answer; or `DOWN`."""
        keys = [self._prefix + name for name in names]
        command: Command = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        return self._ask(Request(self._loop.create_future(), (), command, script))

    def do(self, command: Command) -> asyncio.Future[Any]:
        """The command's answer; or `DOWN`."""
        return self._ask(Request(self._loop.create_future(), (), command))

    def latest(self) -> int:
        """The server's time (ms) after which nobody waits any more for what is asked for now; 0 if not known."""
        if self._server_ahead is None:
            return 0
        return int(self._loop.time() * 1000) + self._server_ahead + int(self._soft * 2000) + _SLACK_MS

    def drop(self) -> None:
        """Whoever waits for a packet is answered with `DOWN`."""
        while self._waiting:
            _resolve(self._waiting.popleft(), DOWN)

    def _ask(self, request: Request | Get) -> asyncio.Future[Any]:
        if self.down or len(self._waiting) >= MAX_WAITING:
            self._counters.l2_skipped += 1
            request.answer.set_result(DOWN)
            return request.answer
        self._waiting.append(request)
        if not self._flush_scheduled and self._under_way < MAX_BATCHES:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return request.answer

    def _flush(self) -> None:
        self._flush_scheduled = False
        waiting = self._waiting
        while waiting and self._under_way < MAX_BATCHES:
            batch: list[Request | Get] = []
            room = MAX_KEYS_A_BATCH
            while waiting and (room > 0 or not batch):
                request = waiting.popleft()
                if request.answer.done():  # its caller was cancelled
                    continue
                room -= len(request.keys) or 1
                batch.append(request)
            if batch:
                self._under_way += 1
                self._send(batch)

    def _send(self, batch: list[Request | Get]) -> None:
        lane = self._link.lane()
        if lane is None:
            self._spawn(self._connect(batch))
            return
        places: dict[str, int] = {}
        others: list[Request] = []
        for request in batch:
            if isinstance(request, Request) and request.command is not None:
                others.append(request)
            else:
                for name in request.keys:
                    places.setdefault(name, len(places))
        commands: list[Command] = []
        if places:
            prefix = self._prefix
            commands = [("MGET", *[prefix + name for name in places]), ("TIME",)]
        commands += [request.command for request in others if request.command is not None]
        try:
            lane.send(commands, self._soft, partial(self._answered, batch, others, places, self._loop.time()))
        except UnicodeEncodeError:  # half a character in somebody's key: the others travel without it
            if len(batch) == 1:
                self._counters.l2_failures += 1
            else:
                for request in batch:
                    self._under_way += 1
                    self._send([request])
                batch = []
            self._landed(batch)

    async def _connect(self, batch: list[Request | Get]) -> None:
        try:
            await self._link.opened(self._soft)
        except LevelTwoDown:
            self._fail()
        except BaseException:
            self._landed(batch)
            raise
        if self.down or self._link.lane() is None:
            self._landed(batch)
        else:
            self._send(batch)

    def _answered(
        self,
        batch: list[Request | Get],
        others: list[Request],
        places: dict[str, int],
        sent: float,
        answers: list[Any] | LevelTwoDown,
    ) -> None:
        left: Sequence[Request | Get] = batch
        again: list[Request] = []
        try:
            if isinstance(answers, LevelTwoDown):
                self._fail()
                return
            self._counters.l2_packets += 1
            self._counters.l2_seconds += self._loop.time() - sent
            own = 0
            if places:
                found, now = answers[0], milliseconds(answers[1])
                own = 2
                records = type(found) is list and len(found) == len(places) and _RECORDS.issuperset(map(type, found))
                if now is None or not records:
                    self._fail()  # refused, or garbage
                else:
                    self._spread(batch, places, found, now)
                    left = ()
            else:
                left = ()
            again = [
                request
                for request, answer in zip(others, answers[own:], strict=True)
                if not self._hand_over(request, answer)
            ]
        finally:
            self._landed(left, again)

    def _spread(self, batch: list[Request | Get], places: dict[str, int], found: list[Any], now: int) -> None:
        self._server_ahead = now - int(self._loop.time() * 1000)
        marks: dict[Any, bytes | None] = {}
        hits = 0
        for request in batch:
            answer = request.answer
            if answer.done():
                continue
            if isinstance(request, Get):
                keys = request.keys
                label = keys[1] if len(keys) == 2 else tuple(keys[1:])
                if label not in marks:
                    marks[label] = mark_of([found[places[tag]] for tag in keys[1:]])
                record = found[places[keys[0]]]
                start = payload_at(record, marks[label])
                if start:
                    try:
                        answer.set_result(request.codec.bare(record, start))
                        hits += 1
                        continue
                    except Exception:  # noqa: BLE001, S110 - raised again, or counted, where its caller looks at it
                        pass
                answer.set_result(Raw([found[places[name]] for name in request.keys], now))
            elif request.command is None:
                answer.set_result(([found[places[name]] for name in request.keys], now))
        self._counters.l2_hits += hits

    def _hand_over(self, request: Request, answer: Any) -> bool:
        """False if the request has to be sent again."""
        if isinstance(answer, Exception):
            if request.script is not None and str(answer).startswith("NOSCRIPT") and not self.down:
                assert request.command is not None
                request.command = ("EVAL", request.script.source, *request.command[2:])
                request.script = None
                return False
            self._counters.l2_failures += 1  # out of memory, read-only, …: this one counts as not done
            if self._link.displaced(answer):
                self._on_failure()
            answer = DOWN
        _resolve(request, answer)
        return True

    def _landed(self, left: Sequence[Request | Get], again: Sequence[Request] = ()) -> None:
        """A packet is through. Who is ``left`` gets no answer; ``again`` is sent once more."""
        self._under_way -= 1
        if again and not self.down:
            unfinished = set(map(id, again))
            left = [request for request in left if id(request) not in unfinished]
            self._waiting.extendleft(reversed(again))
        else:
            left = [*left, *again]
        for request in left:
            _resolve(request, DOWN)
        if self._waiting:
            self._flush()

    def _fail(self) -> None:
        self._counters.l2_failures += 1
        self._on_failure()


def milliseconds(answer: Any) -> int | None:
    """What ``TIME`` answered, None if it is something else."""
    match answer:
        case [bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
            return int(seconds) * 1000 + int(micros) // 1000
    return None


def _resolve(request: Request | Get, answer: Any) -> None:
    if not request.answer.done():
        request.answer.set_result(answer)
