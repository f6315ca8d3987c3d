-- Gives a permit back, unless there is work that it could serve: one step, so no work is left without a hint.
--
-- KEYS  1 root
-- ARGV  1 token  2 '1' to give it back in any case  3 permits that the account has  4 permits kept free of bulk
--       5 aging (ms)
-- Result 1 when work is waiting (without '1' the permit is kept), else 0

local waiting = next_work(tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])) and 1 or 0
if waiting == 0 or ARGV[2] == '1' then redis.call('ZREM', root .. 'permits', ARGV[1]) end
return waiting
