-- Remembers or forgets recipients that CleverTap called invalid; those whose time has come are forgotten too.
--
-- KEYS  1 root          ARGV  1 how long to remember (ms; 0: forget them)  2... kind letter and value
-- Result how many were added or removed
--
-- The number `bad` in `next` changes with the list, so that workers know when to read it again.

local window, changed = tonumber(ARGV[1]), 0
redis.call('ZREMRANGEBYSCORE', root .. 'bad', '-inf', now)
for i = 2, #ARGV do
  if window > 0 then changed = changed + redis.call('ZADD', root .. 'bad', 'CH', now + window, ARGV[i])
  else changed = changed + redis.call('ZREM', root .. 'bad', ARGV[i]) end
end
redis.call('HINCRBY', root .. 'next', 'bad', 1)
return changed
