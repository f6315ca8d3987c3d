-- Puts recipients of a firing, or lines that name none, aside until its source has been read to the end.
--
-- KEYS  1 root
-- ARGV  1 name  2 token  3 length of the lease (ms)  4 'staged' or 'faulty'  5 items that lie there already
--       6 recipients among these  7 how long it is kept when nobody touches it any more (ms)
--       8 share of maxmemory from which on nothing is put aside, 0: no such bound  9... items, none: the lease is renewed
-- Result 1; or 0 when the firing is no longer the token's, or what it had put aside is gone;
--        or { value, most } in bytes when the memory's bound is reached: all that was put aside is let go of
--
-- `staged` holds `<recipients> <to, JSON>`, one item a trigger; `faulty` holds three items a line: where, why, what.
-- Run again, as after a lost reply, it finds its items lying there. Where it finds neither them nor what lay there
-- before, the source has to be read anew.

local firing, list = root .. 'firing:' .. ARGV[1], root .. ARGV[4] .. ':' .. ARGV[1]
local held = redis.call('HMGET', firing, 'token', 'state')
if held[1] ~= ARGV[2] or held[2] ~= 'reading' then return 0 end
local lie, before, more = redis.call('LLEN', list), tonumber(ARGV[5]), #ARGV - 8
if lie ~= before and lie ~= before + more then return 0 end
local used, usable = memory_bound(more > 0 and tonumber(ARGV[8]) or 0)
if used and used >= usable then
  redis.call('UNLINK', root .. 'staged:' .. ARGV[1], root .. 'faulty:' .. ARGV[1])
  redis.call('HSET', firing, 'recipients', 0)
  return { string.format('%.0f', used), string.format('%.0f', usable) }
end
if lie == before then
  for i = 9, #ARGV do redis.call('RPUSH', list, ARGV[i]) end
  redis.call('HINCRBY', firing, 'recipients', ARGV[6])
end
redis.call('ZADD', root .. 'firings', now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', list, ARGV[7])
return 1
