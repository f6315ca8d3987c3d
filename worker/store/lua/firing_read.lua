-- Says that a firing's source has been read to its end: from now on its triggers are appended.
--
-- KEYS  1 root  2 dead letter stream
-- ARGV  1 name  2 token  3 what every trigger has beside `to` and `id` (the inside of a JSON object)
-- Result 1, or 0 when the firing is no longer the token's
--
-- Lines that name nobody become dead letters in the same step, so each of them does so once.

local firing, faulty = root .. 'firing:' .. ARGV[1], root .. 'faulty:' .. ARGV[1]
local held = redis.call('HMGET', firing, 'token', 'state')
if held[1] ~= ARGV[2] then return 0 end
if held[2] ~= 'reading' then return 1 end
local items = redis.call('LRANGE', faulty, 0, -1)
for i = 1, #items, 3 do
  redis.call('XADD', KEYS[2], '*', 'trigger', items[i + 2], 'where', items[i], 'reason', items[i + 1], 'entry', '')
end
redis.call('UNLINK', faulty)
redis.call('HSET', firing, 'state', 'appending', 'rest', ARGV[3], 'faulty', #items / 3, 'reason', '',
  'triggers', redis.call('LLEN', root .. 'staged:' .. ARGV[1]))
return 1
