-- Takes a lease: a permit to have one request in flight, or a place among the waiting accept tasks.
--
-- KEYS  1 root  2 the leases (a sorted set: token -> end of its lease, ms)
-- ARGV  1 token  2 leases there may be at once  3 length of a lease (ms)  4 '1' for permits: fewer while the
--       account's slots are used by others
-- Result 1, or 0 when none is free
--
-- Taken again by its holder, a lease is renewed. A dead holder's lease ends by itself; the clock is the server's.

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local held = redis.call('ZSCORE', KEYS[2], ARGV[1])
local most = tonumber(ARGV[2])
if ARGV[4] == '1' then most = permits_now(most) end
if not held and redis.call('ZCARD', KEYS[2]) >= most then return 0 end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
return 1
