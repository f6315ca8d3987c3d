-- What is due now, for the planner: the flow whose turn it is, and the groups at its front.
--
-- KEYS  1 root          ARGV  1 groups wanted at most
-- Result '' when nothing may be sent, else JSON { priority, campaigns, blocked: [campaign...], groups:
--   [ { gid, lanes: [ [campaigns, rows waiting, since_ms] ... ] } ... ], now_ms }
--
-- Reads the front of one flow: the work does not grow with what waits behind it. A row that was cancelled
-- or taken over still counts here; claim.lua drops it.

local window = tonumber(ARGV[1])
local paused = {}
for _, name in ipairs(redis.call('SMEMBERS', root .. 'paused')) do paused[name] = true end
if paused['*'] then return '' end

for _, priority in ipairs({ 'u', 'n', 'b' }) do
  for _, flow in ipairs(redis.call('ZRANGE', root .. 'ready:' .. priority, 0, -1)) do
    local blocked, open = {}, false
    for _, campaign in ipairs(words(flow)) do
      if paused[campaign] then blocked[#blocked + 1] = campaign else open = true end
    end
    if open then
      local groups = {}
      for _, gid in ipairs(redis.call('LRANGE', root .. 'flow:' .. priority .. ':' .. flow, 0, window - 1)) do
        local lanes, fields = {}, redis.call('HGETALL', root .. 'group:' .. gid)
        for i = 1, #fields, 2 do
          local campaigns = string.match(fields[i], '^lane:(.+)$')
          if campaigns then
            lanes[#lanes + 1] = { campaigns, redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. campaigns),
              tonumber(fields[i + 1]) }
          end
        end
        groups[#groups + 1] = { gid = tonumber(gid), lanes = lanes }
      end
      return cjson.encode({ priority = priority, campaigns = flow, groups = groups, now_ms = now,
        blocked = #blocked > 0 and blocked or nil })
    end
  end
end
return ''
