-- Takes over one batch whose lease has ended: its worker died, or was away for longer than it may be.
--
-- KEYS  1 root          ARGV  1 new token  2 lease (ms)  3 retention (ms)
-- Result '' when there is none, 'BACK' when it was only claimed (surely not sent: its deliveries are pending
--        again, no attempt counted), else it was on the wire, as claim.lua answers:
--        { batch, content, csv of deliveries, what its cells say, JSON rows, key of the group, campaigns }
--
-- The new token is the fence: whoever held the batch before can no longer mark or settle it.

local token, lease, retention = ARGV[1], now + tonumber(ARGV[2]), tonumber(ARGV[3])
local batch = redis.call('ZRANGEBYSCORE', root .. 'flight', '-inf', now, 'LIMIT', 0, 1)[1]
if not batch then return '' end
local key = root .. 'batch:' .. batch
local held = redis.call('HMGET', key, 'state', 'gid', 'rows', 'campaigns')
local gid, ns, names = held[2], numbers(held[3]), words(held[4])
local old = read_cells(ns)

if held[1] == 'claimed' then
  local new, rows = {}, {}
  local pending = string.sub(head('p', 0, 0, tonumber(batch)), 3)
  for i, cell in ipairs(old) do new[i] = 'p' .. string.sub(cell, 2, 2) .. pending .. string.sub(cell, HEAD + 1) end
  for first = 1, #ns, #names do rows[#rows + 1] = row_of({ unpack(ns, first, first + #names - 1) }) end
  write_cells(ns, gid, old, new)
  file(gid, held[4], rows)
  flush(retention)
  redis.call('DEL', key)
  redis.call('ZREM', root .. 'flight', batch)
  return 'BACK'
end

redis.call('HSET', key, 'token', token)
redis.call('ZADD', root .. 'flight', lease, batch)
local group = redis.call('HMGET', root .. 'group:' .. gid, 'content', 'key')
return { tonumber(batch), group[1], held[3], told(old), read_rows(ns, #names), group[2], held[4] }
