-- How many leases are held now, or how many permits could be taken.
--
-- KEYS  1 root  2 the leases          ARGV  1 permits that the account has, or '' to count what is held
-- Result the count. Permits: of those that may be used now, which are fewer while the account is throttled

local held = redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf')
return ARGV[1] == '' and held or math.max(0, permits_now(tonumber(ARGV[1])) - held)
