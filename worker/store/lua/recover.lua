-- Takes over one batch whose lease has ended: its worker died, or was away for longer than it may be.
--
-- KEYS  1 root          ARGV  1 new token  2 lease (ms)  3 retention (ms)
-- Result '' when there is none, 'BACK' when it was only claimed (surely not sent: its deliveries are pending
--        again, no attempt counted), else as claim.lua, and behind it its state: 'wire' (it may have been sent)
--        or 'claimed' (batches of this content have ended their worker CRASHES times: poison)
--
-- The new token is the fence: whoever held the batch before can no longer mark or settle it.

-- Workers that may die with a claimed batch of one content, in a row, before it is called poison.
local CRASHES = 5

local token, lease, retention = ARGV[1], now + tonumber(ARGV[2]), tonumber(ARGV[3])
local batch = redis.call('ZRANGEBYSCORE', root .. 'flight', '-inf', now, 'LIMIT', 0, 1)[1]
if not batch then return '' end
local key = root .. 'batch:' .. batch
local held = redis.call('HMGET', key, 'state', 'gid', 'spans', 'campaigns', 'charged', 'rows')
local gid, ns = held[2], deliveries_of(held[3], held[6])

-- Batches that were claimed before the last such crash are left by the same mishap: it counts once.
local poison = false
if held[1] == 'claimed' then
  local group = root .. 'group:' .. gid
  if tonumber(batch) > tonumber(redis.call('HGET', group, 'crashed') or '0') then
    redis.call('HSET', group, 'crashed', redis.call('HGET', root .. 'next', 'batch'))
    poison = redis.call('HINCRBY', group, 'crashes', 1) > CRASHES
  end
end

if held[1] == 'claimed' and not poison then
  recall_charge(batch, held[5], words(held[4]))
  unclaim(batch, gid, held[4], ns)
  flush(retention)
  return 'BACK'
end

redis.call('HSET', key, 'token', token)
redis.call('ZADD', root .. 'flight', lease, batch)
local answer = tell(tonumber(batch), gid, held[4], ns, read_strips(ns, #words(held[4])))
answer[8] = held[1]
return answer
