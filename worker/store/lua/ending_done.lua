-- Takes a range of deliveries out of an expiry slot, when all of it has been ended.
--
-- KEYS  1 root          ARGV  1 slot  2 the range as it stands there
-- Result 1

redis.call('LREM', root .. 'expiry:' .. ARGV[1], 1, ARGV[2])
if redis.call('EXISTS', root .. 'expiry:' .. ARGV[1]) == 0 then redis.call('ZREM', root .. 'expiry', ARGV[1]) end
return 1
