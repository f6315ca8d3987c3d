-- Marks a claimed batch "on the wire": the last step before its POST.
--
-- KEYS  1 root
-- ARGV  1 batch  2 permit token  3 lease (ms), counted from now  4 retention (ms)
--       5... { delivery, dedupe digest or '' } pairs whose expires_at has passed: they end here
-- Result 1, or 0 when the permit or the batch is no longer this holder's: then nothing may be sent
--
-- From here to its settlement the batch may have been sent. The permit is leased anew, so that it outlives
-- the request's deadline whatever time the claim took.

local batch, token, lease, retention = ARGV[1], ARGV[2], now + tonumber(ARGV[3]), tonumber(ARGV[4])
local key = root .. 'batch:' .. batch
local held = redis.call('HMGET', key, 'state', 'token', 'gid', 'rows')
if held[2] ~= token then return 0 end
-- Asked again because the first reply was lost: the holder has not sent anything yet.
if held[1] == 'wire' then return 1 end
if tonumber(redis.call('ZSCORE', root .. 'permits', token) or '0') <= now then return 0 end

if #ARGV > 4 then
  local ended, keys, ns = {}, {}, {}
  for i = 5, #ARGV, 2 do
    ns[#ns + 1] = tonumber(ARGV[i])
    ended[ns[#ns]] = true
    free_key(ARGV[i + 1], ns[#ns])
  end
  local old, new = read_cells(ns), {}
  local expired = head('e', 15, 0, tonumber(batch))
  for i, cell in ipairs(old) do new[i] = expired .. string.sub(cell, HEAD + 1) end
  write_cells(ns, held[3], old, new)
  flush(retention)
  local kept = {}
  for _, n in ipairs(numbers(held[4])) do
    if not ended[n] then kept[#kept + 1] = n end
  end
  if #kept == 0 then
    redis.call('DEL', key)
    redis.call('ZREM', root .. 'flight', batch)
    return 1
  end
  redis.call('HSET', key, 'rows', table.concat(kept, ','))
end

redis.call('HSET', key, 'state', 'wire', 'since', now)
redis.call('ZADD', root .. 'permits', lease, token)
redis.call('ZADD', root .. 'flight', lease, batch)
return 1
