-- Puts recipients of a firing, or lines that name none, aside until its source has been read to the end.
--
-- KEYS  1 root
-- ARGV  1 name  2 token  3 length of the lease (ms)  4 'staged' or 'faulty'  5 items that lie there already
--       6 recipients among these  7 how long it is kept when nobody touches it any more (ms)  8... items
-- Result 1, or 0 when the firing is no longer the token's
--
-- `staged` holds `<recipients> <to, JSON>`, one item a trigger; `faulty` holds three items a line: where, why, what.
-- Run again, as after a lost reply, it finds its items lying there.

local firing, list = root .. 'firing:' .. ARGV[1], root .. ARGV[4] .. ':' .. ARGV[1]
local held = redis.call('HMGET', firing, 'token', 'state')
if held[1] ~= ARGV[2] or held[2] ~= 'reading' then return 0 end
if redis.call('LLEN', list) == tonumber(ARGV[5]) then
  for i = 8, #ARGV do redis.call('RPUSH', list, ARGV[i]) end
  redis.call('HINCRBY', firing, 'recipients', ARGV[6])
end
redis.call('ZADD', root .. 'firings', now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', firing, ARGV[7])
redis.call('PEXPIRE', list, ARGV[7])
return 1
