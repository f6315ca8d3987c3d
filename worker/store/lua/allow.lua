-- An operator's word about what the rules hold back: a canary has been looked at, or more may go beyond a guard.
--
-- KEYS  1 root          ARGV  1 campaign  2 recipients allowed beyond its guards, or '' to approve its canary
--                             3 how long the allowance holds (ms)
-- Result 1, or 0 when no canary of the campaign is out and waits
--
-- Approving says nothing about the next run. An allowance replaces one that is left over.

local guards, name = root .. 'guards', ARGV[1]
if ARGV[2] ~= '' then
  redis.call('HSET', guards, name .. ':more', ARGV[2] .. ' ' .. string.format('%.0f', now + tonumber(ARGV[3])))
  redis.call('HDEL', guards, name .. ':told:hour', name .. ':told:day')
  return 1
end
local run = redis.call('HMGET', guards, name .. ':sent', name .. ':held', name .. ':go')
if not run[1] or not run[2] or run[3] then return 0 end
redis.call('HSET', guards, name .. ':go', 1)
return 1
