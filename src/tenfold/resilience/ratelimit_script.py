"""The shared rate limit on the server: one script, one round trip, the server's clock.

The same algorithm as `tenfold.resilience.gcra`, in its other form (ITU-T I.371, Annex A, "continuous-state leaky
bucket"): kept are the level of the bucket in cells and when it was computed, rather than the time at which it will
be empty. In doubles the level keeps its precision (a time since 1970 in cells would not), and if the server's clock
goes back, at a failover for instance, nothing drains for a moment, where a TAT would refuse all for as long.

A record is ``level computed since``: cells, and two times in microseconds; ``since`` is when the bucket was last
empty. Cells of a lease that were not used are given back only if the bucket has not been empty since they were
taken: if it has, they have drained already, and to subtract them again would let others burst. A record lives until
its bucket is empty, for then it is as good as none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Final

from tenfold._core.errors import MisuseError

_PREFIX: Final = "tenfold:1:rate:"
_LONGEST: Final = 128

# KEYS: the record   ARGV: rate a second, burst, cells needed, cells wanted at most
# Answers {1 granted or 0 refused, cells granted beyond the need, microseconds to wait if refused, when (server's
# clock, microseconds)}; all whole, as Valkey cuts fractions off. With a negative need: give back so many cells, taken
# at ARGV[4].
SCRIPT: Final = """
local rate, burst, need = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local level, since = 0, now
local record = redis.call('GET', KEYS[1])
if record then
  local old, computed, empty = string.match(record, '^(%S+) (%S+) (%S+)$')
  level = math.min(tonumber(old) - math.max(0, now - tonumber(computed)) * rate / 1000000, burst)
  if level > 0 then since = tonumber(empty) else level = 0 end
end
local extra = 0
if need < 0 then
  if since > tonumber(ARGV[4]) then return {0, 0, 0, now} end
  level = math.max(0, level + need)
elseif level + need <= burst then
  extra = math.max(0, math.floor(math.min(tonumber(ARGV[4]), burst - level) - need))
  level = level + need + extra
else
  return {0, 0, math.ceil((level + need - burst) * 1000000 / rate), now}
end
redis.call('SET', KEYS[1], string.format('%.17g %.0f %.0f', level, now, since),
  'PX', math.ceil(level * 1000 / rate) + 1000)
return {1, extra, 0, now}
"""

SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def record_name(name: str, key: Hashable) -> str:
    """The record of ``key`` in the limit ``name``. Raises `MisuseError` for a key that has no text of its own."""
    text = "" if key is None else _text(key)
    if len(text) > _LONGEST:
        text = "#" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{_PREFIX}{name}:{text}"


def _text(key: Hashable) -> str:
    """The same in every process, which an object's own repr is not."""
    if isinstance(key, str):
        return key
    if isinstance(key, int | bytes):
        return repr(key)
    if isinstance(key, tuple):
        return f"({','.join(map(_text, key))})"
    raise MisuseError(
        f"rate limit: expected a key of str, int, bytes or a tuple of them with store=, got {key!r}; "
        "other processes would not know it"
    )
