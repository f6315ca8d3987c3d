-- How many leases are held now.
--
-- KEYS  1 root  2 the leases          Result the count

return redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf')
