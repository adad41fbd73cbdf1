"""All that is asked for in one turn of the event loop travels in one packet.

Look-ups become one ``MGET``, each key once; scripts and other commands of that turn ride along. At most four packets
are under way, what comes meanwhile waits for the next; a packet has at most 512 gets, and looks up at most 512 names
for others. What waits is bounded. Scripts are called by their digest, and sent in full to a server that does not know
them.

A *get* is the look-up of a single entry. One that is there, good and readable is answered here, with its value, because
most are: it then costs its caller one future and no further step. Gets are tuples in a list of their own, because there
are many, and what happens to each of them happens in a comprehension where it can.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from tenfold.cache.codec import Codec, mark_of
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.flight import ABSENT
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
        self._waiting: deque[Request] = deque()
        self._gets: list[Get] = []
        self._under_way = 0
        self._flush_scheduled = False
        self._server_ahead: int | None = None  # of this loop's clock, in ms
        self.down = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._gets)

    def read(self, names: Sequence[str]) -> asyncio.Future[Any]:
        """The records of ``names`` and the server's time in ms; or `DOWN`."""
        return self._ask(Request(self._loop.create_future(), names))

    def get(self, record: str, tags: tuple[str, ...], codec: Codec) -> asyncio.Future[Any]:
        """The value of ``record``; or `Raw`, or `DOWN`."""
        answer = self._loop.create_future()
        if self.down or len(self._gets) >= MAX_WAITING:
            self._counters.l2_skipped += 1
            answer.set_result(DOWN)
            return answer
        self._gets.append((answer, record, tags, codec))
        if not self._flush_scheduled:
            self._schedule()
        return answer

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
            _resolve(self._waiting.popleft().answer)
        gets, self._gets = self._gets, []
        for answer, *_ in gets:
            _resolve(answer)

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        if self.down or len(self._waiting) >= MAX_WAITING:
            self._counters.l2_skipped += 1
            request.answer.set_result(DOWN)
            return request.answer
        self._waiting.append(request)
        self._schedule()
        return request.answer

    def _schedule(self) -> None:
        if not self._flush_scheduled and self._under_way < MAX_BATCHES:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        while (self._waiting or self._gets) and self._under_way < MAX_BATCHES:
            packet = _Packet(self._next_gets(), self._next_others())
            if packet.gets or packet.others:
                self._under_way += 1
                self._send(packet)

    def _next_gets(self) -> list[Get]:
        gets, self._gets = self._gets[:MAX_KEYS_A_BATCH], self._gets[MAX_KEYS_A_BATCH:]
        return [get for get in gets if not get[0].done()]  # else its caller was cancelled

    def _next_others(self) -> list[Request]:
        others: list[Request] = []
        room = MAX_KEYS_A_BATCH
        while self._waiting and (room > 0 or not others):
            request = self._waiting.popleft()
            if not request.answer.done():
                room -= len(request.keys) or 1
                others.append(request)
        return others

    def _send(self, packet: _Packet) -> None:
        lane = self._link.lane()
        if lane is None:
            self._spawn(self._connect(packet))
            return
        names = packet.names
        commands: list[Command] = []
        if names:
            prefix = self._prefix
            commands = [("MGET", *[prefix + name for name in names]), ("TIME",)]
        commands += [request.command for request in packet.others if request.command is not None]
        try:
            lane.send(commands, self._soft, partial(self._answered, packet, self._loop.time()))
        except UnicodeEncodeError:  # half a character in somebody's key: the others travel without it
            parts = packet.parts()
            if len(parts) == 1:
                self._counters.l2_failures += 1
                self._landed(packet.answers())
                return
            self._under_way += len(parts) - 1
            for part in parts:
                self._send(part)

    async def _connect(self, packet: _Packet) -> None:
        try:
            await self._link.opened(self._soft)
        except LevelTwoDown:
            self._fail()
        except BaseException:
            self._landed(packet.answers())
            raise
        if self.down or self._link.lane() is None:
            self._landed(packet.answers())
        else:
            self._send(packet)

    def _answered(self, packet: _Packet, sent: float, answers: list[Any] | LevelTwoDown) -> None:
        left = True
        again: list[Request] = []
        try:
            if isinstance(answers, LevelTwoDown):
                self._fail()
                return
            self._counters.l2_packets += 1
            self._counters.l2_seconds += self._loop.time() - sent
            own = 0
            if packet.names:
                own = 2
                records, now = answers[0], milliseconds(answers[1])
                if (
                    now is None
                    or type(records) is not list
                    or len(records) != len(packet.names)
                    or not _RECORDS.issuperset(map(type, records))
                ):
                    self._fail()  # refused, or garbage
                else:
                    self._server_ahead = now - int(self._loop.time() * 1000)
                    self._counters.l2_hits += packet.spread(records, now)
                    left = False
            else:
                left = False
            commands = [request for request in packet.others if request.command is not None]
            again = [
                request
                for request, answer in zip(commands, answers[own:], strict=True)
                if not self._hand_over(request, answer)
            ]
        finally:
            self._landed(packet.answers() if left else [], again)

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
        _resolve(request.answer, answer)
        return True

    def _landed(self, left: Sequence[asyncio.Future[Any]], again: Sequence[Request] = ()) -> None:
        """A packet is through. Who is ``left`` gets no answer; ``again`` is sent once more."""
        self._under_way -= 1
        unfinished = {request.answer for request in again}
        if again and not self.down:
            self._waiting.extendleft(reversed(again))
            left = [answer for answer in left if answer not in unfinished]
        else:
            left = [*left, *unfinished]
        for answer in left:
            _resolve(answer)
        if self._waiting or self._gets:
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


def _resolve(answer: asyncio.Future[Any], value: Any = DOWN) -> None:
    if not answer.done():
        answer.set_result(value)


class _Packet:
    """What travels together: gets, others, and the ``names`` that both look up, each once."""

    __slots__ = ("gets", "names", "others")

    def __init__(self, gets: list[Get], others: list[Request]) -> None:
        self.gets = gets
        self.others = others
        self.names = dict.fromkeys([get[1] for get in gets])
        for tags in {get[2] for get in gets}:
            self.names.update(dict.fromkeys(tags))
        for request in others:
            self.names.update(dict.fromkeys(request.keys))

    def answers(self) -> list[asyncio.Future[Any]]:
        """Of all who wait for this packet."""
        return [*[get[0] for get in self.gets], *[request.answer for request in self.others]]

    def parts(self) -> list[_Packet]:
        """Each for itself."""
        return [*[_Packet([get], []) for get in self.gets], *[_Packet([], [request]) for request in self.others]]

    def spread(self, records: list[bytes | None], now: int) -> int:
        """Answer all look-ups with what was found under ``names`` at ``now``; how many gets found their value."""
        found = dict(zip(self.names, records, strict=True))
        marks = {tags: mark_of([found[tag] for tag in tags]) for tags in {get[2] for get in self.gets}}
        hits = 0
        for answer, record, tags, codec in self.gets:
            if answer.done():
                continue
            value = codec.good(found[record], marks[tags])
            if value is ABSENT:
                answer.set_result(Raw([found[record], *[found[tag] for tag in tags]], now))
            else:
                answer.set_result(value)
                hits += 1
        for request in self.others:
            if request.command is None:
                _resolve(request.answer, ([found[name] for name in request.keys], now))
        return hits
