-- Forgets segments whose deliveries have all ended, and in which nothing changed for the retention.
--
-- KEYS  1 root          ARGV  1 retention (ms)  2 segments at most
-- Result { segments forgotten, 1 when more may be }
--
-- A segment that still has live deliveries (paused, or scheduled far ahead) is looked at again one retention
-- later. Its counts leave the account's counters with it.

local forgotten = 0
local old = redis.call('ZRANGEBYSCORE', root .. 'segments', '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, ARGV[2])
local newest = math.floor(tonumber(redis.call('HGET', root .. 'next', 'delivery') or '0') / SEG)
for _, segment in ipairs(old) do
  local key = root .. 'seg:' .. segment
  if tonumber(segment) >= newest or tonumber(redis.call('HGET', key, 'live') or '0') > 0 then
    redis.call('ZADD', root .. 'segments', now, segment)
  else
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if fields[i] ~= 'live' then
        local left = redis.call('HINCRBY', root .. 'counts', fields[i], 0 - tonumber(fields[i + 1]))
        if left == 0 then redis.call('HDEL', root .. 'counts', fields[i]) end
      end
    end
    redis.call('UNLINK', key, key .. ':cells', key .. ':rows')
    redis.call('ZREM', root .. 'segments', segment)
    forgotten = forgotten + 1
  end
end
-- Counted anew: an older version that works beside this one does not keep this counter.
redis.call('SET', root .. 'live', count_live())
if redis.call('EXISTS', root .. 'guards') == 1 then make_rules('').tidy() end
redis.call('ZREMRANGEBYSCORE', root .. 'days', '-inf', (now - tonumber(ARGV[1])) / 86400000 - 3)
return { forgotten, #old == tonumber(ARGV[2]) and 1 or 0 }
