"""Level 2 on the server: leases, so that no value whose load began before an invalidation can ever be stored.

The scheme is the *lease* of "Scaling Memcache at Facebook" (Nishtala et al., NSDI 2013), taken to tags:

* Every key in Valkey holds a record that begins with a *nonce*: a lease (nobody has loaded it yet) or a
  value.
* Every tag holds a nonce of its own. A value lists the nonces that its tags had when its load began, and is
  good only while they are the same.
* To invalidate is to **delete**: the key's record or the tag's nonce. The next reader makes a new nonce, at
  random.
* A loader takes the key's lease and the tags' nonces *before* it loads (`OPEN`) and stores only if all of
  them are still there (`STORE`). Since nonces never come back, a load that began before an invalidation finds
  another nonce or none.

Eviction, expiry and ``FLUSHALL`` delete as well, so whatever Valkey forgets counts as invalidated: never
stale, at worst loaded again. A lease that runs out under a slow load only means that its value is not stored.

Record: ``\\0`` nonce | ``\\1`` nonce expiry(13 digits, server's clock, ms) tag-count nonce* kind payload.
"""

from __future__ import annotations

from typing import Final

# KEYS: record, tags…   ARGV: fresh nonce, life of tag nonces (ms), life of a lease (ms), "read" | "renew" |
# "replace" Answers {record, tag nonces…}: the record as it is if it is good, else the one with the lease
# under which to load.
OPEN: Final = """
local out = {''}
for i = 2, #KEYS do
  local nonce = redis.call('GET', KEYS[i])
  if nonce then
    redis.call('PEXPIRE', KEYS[i], ARGV[2], 'GT')
  else
    nonce = ARGV[1]
    redis.call('SET', KEYS[i], nonce, 'PX', ARGV[2])
  end
  out[i] = nonce
end
local record = redis.call('GET', KEYS[1])
if record and ARGV[4] ~= 'replace' then
  local kind = string.byte(record, 1)
  if kind == 0 and ARGV[4] == 'read' then
    out[1] = record
    return out
  end
  if kind == 1 then
    local tags = table.concat(out, '', 2)
    if string.byte(record, 23) == #KEYS - 1 and string.sub(record, 24, 23 + #tags) == tags then
      if ARGV[4] == 'renew' then
        redis.call('SET', KEYS[1], '\\1' .. ARGV[1] .. string.sub(record, 10), 'KEEPTTL')
        record = '\\0' .. ARGV[1]
      end
      out[1] = record
      return out
    end
  end
end
out[1] = '\\0' .. ARGV[1]
redis.call('SET', KEYS[1], out[1], 'PX', ARGV[3])
return out
"""

# KEYS: record, tags…   ARGV: lease nonce, life (ms), payload with its kind, tag nonces…   Answers 1 stored, 0
# refused.
STORE: Final = """
if redis.call('GETRANGE', KEYS[1], 1, 8) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[i + 2] then return 0 end
end
local now = redis.call('TIME')
local expiry = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2]
redis.call('SET', KEYS[1], '\\1' .. ARGV[1] .. string.format('%013.0f', expiry)
  .. string.char(#KEYS - 1) .. table.concat(ARGV, '', 4) .. ARGV[3], 'PX', ARGV[2])
return 1
"""
