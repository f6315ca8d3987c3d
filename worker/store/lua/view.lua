-- What is due now, for the planner: the flow whose turn it is, and the groups at its front.
--
-- KEYS  1 root
-- ARGV  1 groups wanted at most  2 permits that the account has  3 permits kept free of bulk  4 aging (ms)
-- Result '' when nothing may be sent, else JSON { priority, flow, now_ms, over (more permits are held than may
--   be used now), others (there are other flows behind it), normal (the door is as usual: nothing to report of a call that went well), probe, drop,
--   shut: [campaign...], groups: [ { gid, lanes: [ [campaigns, rows waiting, since_ms] ... ] } ... ] }
--   flow is "split" when a part of a refused batch is next; it has no groups.
--
-- Reads the front of one flow: the work does not grow with what waits behind it. A row that was cancelled
-- or taken over still counts here; claim.lua drops it.

local most = tonumber(ARGV[2])
local work = next_work(most, tonumber(ARGV[3]), tonumber(ARGV[4]))
if not work then return '' end
work.now_ms = now
work.over = redis.call('ZCOUNT', root .. 'permits', '(' .. now, '+inf') > permits_now(most)
work.normal = redis.call('EXISTS', root .. 'door', root .. 'parked') == 0
work.bad = tonumber(redis.call('HGET', root .. 'next', 'bad') or '0')
local flows = 0
for _, priority in ipairs({ 'u', 'n', 'b' }) do flows = flows + redis.call('ZCARD', root .. 'ready:' .. priority) end
work.others = flows > 1
if work.flow ~= 'split' then
  work.groups = {}
  local gids = redis.call('LRANGE', root .. 'flow:' .. work.priority .. ':' .. work.flow, 0, tonumber(ARGV[1]) - 1)
  for _, gid in ipairs(gids) do
    local lanes, fields = {}, redis.call('HGETALL', root .. 'group:' .. gid)
    for i = 1, #fields, 2 do
      local campaigns = string.match(fields[i], '^lane:(.+)$')
      if campaigns then
        lanes[#lanes + 1] = { campaigns, redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. campaigns),
          tonumber(fields[i + 1]) }
      end
    end
    table.insert(work.groups, { gid = tonumber(gid), lanes = lanes })
  end
end
return cjson.encode(work)
