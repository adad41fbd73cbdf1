"""A new connection is looked at before it is used: may this server have forgotten invalidations?

Replication is asynchronous. A replica that is promoted may lack the last writes of the master that died, and so may
still hold what was invalidated there, and acknowledged, a moment before. The same goes for a server that was started
again from an old snapshot. Waiting for replicas at each invalidation (``WAIT``) would cost each one a round trip and
would prove nothing for the replica that was away.

So history is told apart instead. A server gives its history of writes a name, the *replication ID*, and takes a new one
when it is promoted or started. The nonce of the tag that every record carries (`EVERYTHING`) begins with a digest of
that ID. Who makes a connection compares both, and where they differ, makes a new nonce: then nothing that was stored
under another history is good any more, as after ``clear()``. The first process that comes to a promoted server does so
before it reads anything, and for the others both are equal again.

For a moment there may be two masters, the old one not knowing that it is none any more. What was deleted there under
the old history is not deleted under the new one. So whoever deleted anything and then finds another history makes a new
nonce in any case.

It costs the hits of what was stored before (not its invalidations, and not level 1's), once a failover. A nonce that
somebody has made since, at random (after ``clear()``, or when the server evicted it), is taken for another history by
the next one to connect: once more nothing but hits.

A server that is no master is refused.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from tenfold.cache.codec import fresh_nonce
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.lane import Command, Lane
from tenfold.cache.level_two import EVERYTHING
from tenfold.cache.link import Link
from tenfold.cache.route import CONNECT_PATIENCE, FAST, SURE, Route, ask
from tenfold.cache.scripts import Script

_DIGEST: Final = 4
_LIFE_MS: Final = 60_000  # of a nonce that nobody stores under; whoever does prolongs it
_ELSEWHERE: Final = ("MOVED ", "READONLY ", "CLUSTERDOWN ", "MASTERDOWN ", "LOADING ")

# KEYS: the tag of everything   ARGV: digest of the history, a fresh nonce that begins with it, its life (ms), 1 to
# replace any nonce
SAME_HISTORY: Final = Script("""
local nonce = redis.call('GET', KEYS[1])
if ARGV[4] == '0' and nonce and string.sub(nonce, 1, #ARGV[1]) == ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 0
""")


class Vetted(Route):
    """One cache's way over a `Link` to a server that may be another one each time it is connected."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix
        self._history: bytes | None = None
        self._deleted = False  # anything under this history

    async def exchange(self, commands: Sequence[Command], patience: float, which: int = FAST) -> list[Any]:
        self._deleted |= which == SURE
        answers = await super().exchange(commands, patience, which)
        if any(self.displaced(answer) for answer in answers):
            await self.drop(FAST, SURE)
        return answers

    def displaced(self, answer: object) -> bool:
        return isinstance(answer, Exception) and str(answer).startswith(_ELSEWHERE)

    @abstractmethod
    async def _locate(self) -> Link:
        """To the server that is the right one now. Raises `LevelTwoDown`."""

    async def _set_up(self, which: int) -> Lane:
        try:
            lane = await (await self._locate()).opened(CONNECT_PATIENCE, which)
            if which == FAST:
                self._history = await vet(lane, self._prefix, self._history if self._deleted else None)
                self._deleted = False
        except LevelTwoDown:
            await self.drop(which)
            raise
        self._lanes[which] = lane
        return lane


async def vet(lane: Lane, prefix: str, before: bytes | None = None) -> bytes:
    """Make sure that what this server has under ``prefix`` is of its present history, and if we have deleted anything
    under another one ``before``, that it was stored after now. Answers with the history. Raises `LevelTwoDown`.
    """
    (text,) = await ask(lane, [("INFO", "replication")], CONNECT_PATIENCE)
    facts = dict(line.partition(b":")[::2] for line in text.split(b"\r\n")) if type(text) is bytes else {}
    history = facts.get(b"master_replid", b"")
    if facts.get(b"role") != b"master" or not history:
        raise LevelTwoDown(f"the server is no master: {facts.get(b'role', text)!r}")
    digest = crc32(history).to_bytes(_DIGEST)
    nonce = digest + fresh_nonce()[_DIGEST:]
    anew = int(before not in (None, history))
    command: Command = ("EVAL", SAME_HISTORY.source, 1, prefix + EVERYTHING, digest, nonce, _LIFE_MS, anew)
    (answer,) = await ask(lane, [command], CONNECT_PATIENCE)
    if type(answer) is not int:
        raise LevelTwoDown(f"refused: {answer}")
    return history
