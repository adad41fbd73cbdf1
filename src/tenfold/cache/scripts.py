"""Level 2 on the server: leases, so that no value whose load began before an invalidation can ever be stored.

The scheme is the *lease* of "Scaling Memcache at Facebook" (Nishtala et al., NSDI 2013), taken to tags:

* Every key in Valkey holds a record that begins with a *nonce*: a lease (somebody loads it) or a value.
* Every tag holds a nonce of its own. A record lists the nonces that its tags had when its load began, and is
  good only while they are the same.
* To invalidate is to **delete**: the key's record or the tag's nonce. The next reader makes a new nonce, at
  random.
* A loader takes the key's lease and the tags' nonces *before* it loads (`OPEN`) and stores only if all of
  them are still there (`STORE`). Since nonces never come back, a load that began before an invalidation finds
  another nonce or none. The nonce is the fencing token of the load.

Eviction, expiry and ``FLUSHALL`` delete as well, so whatever Valkey forgets counts as invalidated: never
stale, at worst loaded again. A lease lives for seconds and is renewed (`KEEP`) while its load runs; when the loader
dies, the lease runs out.

Whoever opens a key that another one loads leaves a mark on the lease (*awaited*). Only then do `STORE` and `GIVE_UP`
publish that the load is settled: nobody hears of loads that nobody waits for.

Record: ``\\2`` nonce awaited(1) tag-count nonce* | ``\\1`` nonce expiry(13 digits, server's clock, ms) tag-count nonce*
kind payload. The first programs wrote leases as ``\\0`` nonce; they are respected, but nobody is told when they end.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final


class Script:
    """A text that the server runs, and the digest by which it knows it again."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source: Final = source
        self.digest: Final = sha1(source.encode(), usedforsecurity=False).hexdigest()


# KEYS: record, tags…   ARGV: fresh nonce, life of tag nonces (ms), life of a lease (ms), "read" | "renew" |
# "replace", the server's time (ms) after which nobody waits for the answer, or 0. Answers nothing when that has passed:
# a server that was frozen would otherwise make leases that nobody holds. Else {record, its life (ms), tag nonces…}: the
# record as it is if it is good, else the one with the lease under which to load. A good record may be somebody else's
# lease, which is then marked as awaited.
OPEN: Final = Script("""
if ARGV[5] ~= '0' then
  local now = redis.call('TIME')
  if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[5]) then return false end
end
local out = {'', 0}
for i = 2, #KEYS do
  local nonce = redis.call('GET', KEYS[i])
  if nonce then
    redis.call('PEXPIRE', KEYS[i], ARGV[2], 'GT')
  else
    nonce = ARGV[1]
    redis.call('SET', KEYS[i], nonce, 'PX', ARGV[2])
  end
  out[i + 1] = nonce
end
local tags = table.concat(out, '', 3)
local record = redis.call('GET', KEYS[1])
local awaited = '\\0'
if record and ARGV[4] ~= 'replace' then
  local kind = string.byte(record, 1)
  if ARGV[4] == 'read' and (kind == 0 and #record == 9
      or kind == 2 and string.byte(record, 11) == #KEYS - 1 and string.sub(record, 12) == tags) then
    if kind == 2 then redis.call('SETRANGE', KEYS[1], 9, '\\1') end
    out[1] = record
    out[2] = redis.call('PTTL', KEYS[1])
    return out
  end
  if kind == 2 then awaited = string.sub(record, 10, 10) end
  if kind == 1 and string.byte(record, 23) == #KEYS - 1 and string.sub(record, 24, 23 + #tags) == tags then
    if ARGV[4] == 'renew' then
      redis.call('SET', KEYS[1], '\\1' .. ARGV[1] .. string.sub(record, 10), 'KEEPTTL')
      record = '\\0' .. ARGV[1]
    end
    out[1] = record
    out[2] = redis.call('PTTL', KEYS[1])
    return out
  end
end
out[1] = '\\2' .. ARGV[1] .. awaited .. string.char(#KEYS - 1) .. tags
out[2] = tonumber(ARGV[3])
redis.call('SET', KEYS[1], out[1], 'PX', ARGV[3])
return out
""")

# KEYS: record, tags…   ARGV: lease nonce, life (ms), payload with its kind, channel, message, tag nonces…   Answers 1
# stored, 0 refused.
STORE: Final = Script("""
if redis.call('GETRANGE', KEYS[1], 1, 8) ~= ARGV[1] then return 0 end
local head = redis.call('GETRANGE', KEYS[1], 0, 9)
local lease = string.byte(head, 1) == 2
local awaited = lease and string.byte(head, 10) == 1
for i = 2, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[i + 4] then
    if lease then redis.call('DEL', KEYS[1]) end
    if awaited then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
    return 0
  end
end
local now = redis.call('TIME')
local expiry = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2]
redis.call('SET', KEYS[1], '\\1' .. ARGV[1] .. string.format('%013.0f', expiry)
  .. string.char(#KEYS - 1) .. table.concat(ARGV, '', 6) .. ARGV[3], 'PX', ARGV[2])
if awaited then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return 1
""")

# KEYS: record   ARGV: lease nonce, channel, message. The load came to nothing: the next one may begin at once.
GIVE_UP: Final = Script("""
local head = redis.call('GETRANGE', KEYS[1], 0, 9)
if string.byte(head, 1) ~= 2 or string.sub(head, 2, 9) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if string.byte(head, 10) == 1 then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
return 1
""")

# KEYS: record   ARGV: lease nonce, life of a lease (ms). The load goes on.
KEEP: Final = Script("""
local head = redis.call('GETRANGE', KEYS[1], 0, 8)
if string.byte(head, 1) ~= 2 or string.sub(head, 2, 9) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")
