-- Lets go of a firing: for another one to go on, until it is tried again, or for good.
--
-- KEYS  1 root
-- ARGV  1 name  2 token  3 'released', 'put_off', 'done', 'missed' or 'failed'  4 reason  5 tries  6 when it may be tried again (ms)
-- Result 1, or 0 when the firing is no longer the token's

local name, how = ARGV[1], ARGV[3]
local firing = root .. 'firing:' .. name
if redis.call('HGET', firing, 'token') ~= ARGV[2] then return 0 end
redis.call('ZREM', root .. 'firings', name)
if how == 'released' then
  redis.call('HDEL', firing, 'token')
  return 1
end
if how == 'put_off' then
  redis.call('HSET', firing, 'reason', ARGV[4], 'tries', ARGV[5], 'again', ARGV[6])
  redis.call('HDEL', firing, 'token')
  return 1
end
local fields = { 'slot', 'began', 'recipients', 'sent', 'triggers', 'appended', 'faulty' }
local entry = { state = how, reason = ARGV[4], ended = string.format('%.0f', now) }
for i, value in ipairs(redis.call('HMGET', firing, unpack(fields))) do
  if value then entry[fields[i]] = value end
end
local fired = root .. 'fired:' .. name
redis.call('LPUSH', fired, cjson.encode(entry))
redis.call('LTRIM', fired, 0, 49)
redis.call('UNLINK', firing, root .. 'staged:' .. name, root .. 'faulty:' .. name)
return 1
