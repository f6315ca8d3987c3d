-- Marks a claimed batch "on the wire": the last step before its POST.
--
-- KEYS  1 root
-- ARGV  1 batch  2 permit token  3 lease (ms), counted from now  4 retention (ms)
--       5 the earliest expires_at of what is to be sent (0: none has any)
--       6... { delivery, status letter, reason, dedupe digest or '' } quadruples that end here without being sent
--       (expired, or kept out of a shared call)
-- Result 1, or 0 when the permit or the batch is no longer this holder's, or 2 when an operator has just paused,
--        held or cancelled something in it, or something has just expired, and all of it waits again: then nothing
--        may be sent
--
-- From here to its settlement the batch may have been sent. The permit is leased anew, so that it outlives
-- the request's deadline whatever time the claim took.

local batch, token, lease, retention = ARGV[1], ARGV[2], now + tonumber(ARGV[3]), tonumber(ARGV[4])
local key = root .. 'batch:' .. batch
local held = redis.call('HMGET', key, 'state', 'token', 'gid', 'spans', 'campaigns', 'charged', 'rows')
if held[2] ~= token then return 0 end
-- Asked again because the first reply was lost: the holder has not sent anything yet.
if held[1] == 'wire' then return 1 end
if tonumber(redis.call('ZSCORE', root .. 'permits', token) or '0') <= now then return 0 end
recall_charge(batch, held[6], words(held[5]))

local paused, holds = load_paused(), load_holds()
local expires = tonumber(ARGV[5])
local stop = paused['*'] or expires > 0 and expires <= now
for _, name in ipairs(words(held[5])) do stop = stop or paused[name] end
if holds and not stop then
  local all = deliveries_of(held[4], held[7])
  stop = next(held_among(holds, all, read_cells(all), 'i'))
end
if stop then
  unclaim(batch, held[3], held[5], deliveries_of(held[4], held[7]))
  flush(retention)
  return 2
end

if #ARGV > 5 then
  local ended, ns, heads, keys = {}, {}, {}, {}
  for i = 6, #ARGV, 4 do
    local n = tonumber(ARGV[i])
    ns[#ns + 1] = n
    ended[n] = true
    heads[#heads + 1] = head(ARGV[i + 1], tonumber(ARGV[i + 2]), 0, tonumber(batch))
    keys[#keys + 1] = ARGV[i + 3]
  end
  local old, new = read_cells(ns), {}
  for i, cell in ipairs(old) do new[i] = end_unsent(cell, heads[i], keys[i], ns[i]) end
  write_cells(ns, held[3], old, new)
  flush(retention)
  local kept = {}
  for _, n in ipairs(deliveries_of(held[4], held[7])) do
    if not ended[n] then kept[#kept + 1] = n end
  end
  if #kept == 0 then
    drop_batch(batch)
    return 1
  end
  redis.call('HSET', key, 'spans', spans_of(kept))
end

redis.call('HSET', key, 'state', 'wire', 'since', now)
for _, name in ipairs(words(held[5])) do redis.call('HINCRBY', root .. 'calls', name, 1) end
redis.call('ZADD', root .. 'permits', lease, token)
redis.call('ZADD', root .. 'flight', lease, batch)
redis.call('ZADD', root .. 'splitting', 'XX', lease, batch)
return 1
