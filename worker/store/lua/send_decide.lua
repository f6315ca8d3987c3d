-- Decides which slots of a recurring send are fired, once: whoever looked at an older state decides nothing.
--
-- KEYS  1 root
-- ARGV  1 name  2 digest of its calendar  3 up to when slots had been decided when it was looked at (ms, '' never)
--       4 up to when they are now (ms)  5 what is kept of slots that were passed over (JSON, or '')
--       6 slots that may wait at most  7... slots to fire
-- Result how many slots wait now, or -1 when somebody else has decided, or the send is paused
--
-- A calendar that is new (a new send, a changed cron) owes nothing from before it was first seen: `first:<digest>`.

local send, slots = root .. 'send:' .. ARGV[1], root .. 'slots:' .. ARGV[1]
if redis.call('HEXISTS', send, 'first:' .. ARGV[2]) == 0 then
  redis.call('HSET', send, 'first:' .. ARGV[2], now)
  return -1
end
if (redis.call('HGET', send, 'decided') or '') ~= ARGV[3] or redis.call('HEXISTS', send, 'paused') == 1 then
  return -1
end
redis.call('HSET', send, 'decided', ARGV[4])
for _, field in ipairs(redis.call('HKEYS', send)) do
  if string.sub(field, 1, 6) == 'first:' and field ~= 'first:' .. ARGV[2] then redis.call('HDEL', send, field) end
end
local fired = root .. 'fired:' .. ARGV[1]
if ARGV[5] ~= '' then redis.call('LPUSH', fired, ARGV[5]) end
for i = 7, #ARGV do
  if redis.call('LLEN', slots) < tonumber(ARGV[6]) then
    redis.call('RPUSH', slots, ARGV[i])
  else
    redis.call('LPUSH', fired, cjson.encode({ slot = ARGV[i], state = 'missed', reason = 'too many earlier slots waited' }))
  end
end
redis.call('LTRIM', fired, 0, 49)
return redis.call('LLEN', slots)
