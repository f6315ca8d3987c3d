-- Is a cancel complete but for what waits? If so, and if asked to, it is taken off the list.
--
-- KEYS  1 root  2 intake stream          ARGV  1 name  2 its order  3 '1' to take it off
-- Result 1 when nothing that had been enqueued before it is in the intake, and nothing claimed before it is in
--        flight: then all that is left of it waits, held back, and can be ended; else 0. 1 when it is gone too
--
-- Also forgets the hold of a trigger that has been cancelled: there is nothing left to resume. What an operator has
-- sent again meanwhile may be held by the order that ends here: `freeing` has the sweep let it go.

local name, order = ARGV[1], ARGV[2]
if redis.call('HGET', root .. 'cancels', name) ~= order then return 1 end
local ms, seq, batch = string.match(order, '^(%d+)-(%d+) (%d+) ')
ms, seq, batch = tonumber(ms), tonumber(seq), tonumber(batch)
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if oldest then
  local own_ms, own_seq = string.match(oldest[1], '^(%d+)-(%d+)$')
  own_ms, own_seq = tonumber(own_ms), tonumber(own_seq)
  if own_ms < ms or own_ms == ms and own_seq <= seq then return 0 end
end
for _, number in ipairs(redis.call('ZRANGE', root .. 'flight', 0, -1)) do
  if tonumber(number) <= batch then return 0 end
end
if ARGV[3] == '1' then
  redis.call('HDEL', root .. 'cancels', name)
  redis.call('HSET', root .. 'freeing', name, string.format('%.0f', now))
  if string.sub(name, 1, 2) == 't:' then redis.call('HDEL', root .. 'held', name) end
end
return 1
