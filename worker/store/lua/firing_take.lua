-- Takes up a firing: the one under way when nobody works on it, else the next slot that waits.
--
-- KEYS  1 root
-- ARGV  1 name  2 token  3 length of the lease (ms)  4 firings that may be worked on at once  5 how long what it
--       has still to append is kept when nobody touches it any more (ms)
-- Result { slot, state, tries, when it began (ms), reason of the last failure, slots that wait behind it, now (ms) },
--        or nil when there is nothing to do
--
-- Taken again by its holder, it is the same. One whose holder died while it read the source is read from its start:
-- nothing of it has been sent. One that was being appended goes on at the next chunk.

local name, token = ARGV[1], ARGV[2]
local firing, leases, slots = root .. 'firing:' .. name, root .. 'firings', root .. 'slots:' .. name
if redis.call('HEXISTS', root .. 'send:' .. name, 'paused') == 1 then return false end
if redis.call('HGET', firing, 'token') ~= token then
  if tonumber(redis.call('ZSCORE', leases, name) or '0') > now then return false end
  if tonumber(redis.call('HGET', firing, 'again') or '0') > now then return false end
  if redis.call('ZCOUNT', leases, '(' .. now, '+inf') >= tonumber(ARGV[4]) then return false end
  if redis.call('EXISTS', firing) == 0 then
    local slot = redis.call('LPOP', slots)
    if not slot then return false end
    redis.call('HSET', firing, 'slot', slot, 'state', 'reading', 'tries', 0, 'began', now, 'reason', '')
  end
  redis.call('HSET', firing, 'token', token)
  if redis.call('HGET', firing, 'state') == 'reading' then
    redis.call('UNLINK', root .. 'staged:' .. name, root .. 'faulty:' .. name)
    redis.call('HSET', firing, 'recipients', 0)
  end
end
redis.call('ZADD', leases, now + tonumber(ARGV[3]), name)
redis.call('PEXPIRE', root .. 'staged:' .. name, ARGV[5])
local told = redis.call('HMGET', firing, 'slot', 'state', 'tries', 'began', 'reason')
told[6], told[7] = redis.call('LLEN', slots), now
return told
