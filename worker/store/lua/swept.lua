-- Notes that a sweep has been made. A script, because a plain SET is refused when the server is full.
--
-- KEYS  1 root          Result 1

redis.call('SET', root .. 'swept', string.format('%.0f', now))
return 1
