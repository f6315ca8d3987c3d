-- Takes a range of deliveries out of an expiry slot, when all of it has been ended or is to be looked at again.
--
-- KEYS  1 root          ARGV  1 slot  2 the range as it stands there  3 look again in so many ms (0: never)
-- Result 1

if redis.call('LREM', root .. 'expiry:' .. ARGV[1], 1, ARGV[2]) == 1 and tonumber(ARGV[3]) > 0 then
  local slot = string.format('%.0f', math.ceil((now + tonumber(ARGV[3])) / 1000) * 1000)
  redis.call('RPUSH', root .. 'expiry:' .. slot, ARGV[2])
  redis.call('ZADD', root .. 'expiry', slot, slot)
end
if redis.call('EXISTS', root .. 'expiry:' .. ARGV[1]) == 0 then redis.call('ZREM', root .. 'expiry', ARGV[1]) end
return 1
