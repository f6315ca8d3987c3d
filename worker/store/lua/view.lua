-- What is due now, for the planner: the flow whose turn it is, and the groups at its front.
--
-- KEYS  1 root
-- ARGV  1 groups wanted at most  2 permits that the account has  3 permits kept free of bulk  4 aging (ms)
--       5 rules
-- Result '' when nothing may be sent, JSON { wait_ms } when nothing may be sent before so many ms have passed,
--   else JSON { priority, flow, now_ms, over (more permits are held than may
--   be used now), others (there are other flows behind it), normal (the door is as usual: nothing to report of a call that went well), probe, drop,
--   room (most recipients of the call; absent: any number), shut: [campaign...], groups: [ { gid, lanes: [ [campaigns, rows waiting, since_ms] ... ] } ... ] }
--   flow is "split" when a part of a refused batch is next; it has no groups.
--
-- Reads the front of one flow: the work does not grow with what waits behind it. A row that was cancelled
-- still counts here; claim.lua drops it. Rows that were joined away (_joining.lua) do not count, and are dropped here
-- from the fronts of the lanes that are shown.

local most = tonumber(ARGV[2])
use_rules(ARGV[5])

-- Rows that are looked at, at most, to drop what is stale.
local to_look_at = 10000

-- Drops stale rows from the front of a lane of which so many are; how many it has that are not.
local function fresh_rows(gid, campaigns, stale)
  local key, width, dropped = root .. 'lane:' .. gid .. ':' .. campaigns, #words(campaigns), 0
  while dropped < stale and to_look_at > 0 do
    local texts = redis.call('LRANGE', key, 0, 499)
    local all, rows, first = {}, {}, nil
    for i, text in ipairs(texts) do
      rows[i] = row_numbers(text, width)
      for _, n in ipairs(rows[i]) do all[#all + 1] = n end
    end
    local cells, at = read_cells(all), 0
    for i, row in ipairs(rows) do
      for j = 1, width do
        if status_of(cells[at + j]) == 'p' and belongs(cells[at + j], row) then first = first or i end
      end
      at = at + width
      if first then break end
    end
    local front = (first or #rows + 1) - 1
    to_look_at = to_look_at - front - 1
    dropped = dropped + front
    if front > 0 then redis.call('LTRIM', key, front, -1) end
    if first or #rows == 0 then break end
  end
  if dropped > 0 then
    count_stale(gid, campaigns, -dropped)
    unfile_if_empty(gid, campaigns)
  end
  local length = redis.call('LLEN', key)
  return math.max(length - math.max(0, stale - dropped), math.min(1, length))
end

-- The lanes of a group that have rows.
local function lanes_of(gid)
  local lanes, fields, stale = {}, redis.call('HGETALL', root .. 'group:' .. gid), {}
  for i = 1, #fields, 2 do
    local campaigns = string.match(fields[i], '^stale:(.+)$')
    if campaigns then stale[campaigns] = tonumber(fields[i + 1]) end
  end
  for i = 1, #fields, 2 do
    local campaigns = string.match(fields[i], '^lane:(.+)$')
    if campaigns then
      local rows = stale[campaigns] and fresh_rows(gid, campaigns, stale[campaigns])
        or redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. campaigns)
      if rows > 0 then lanes[#lanes + 1] = { campaigns, rows, tonumber(fields[i + 1]) } end
    end
  end
  return lanes
end

-- The groups at the front of a flow that need not linger. One whose rows of this flow were all stale has left it.
local function groups_of(work)
  local groups, left = {}, false
  for _, gid in ipairs(redis.call('LRANGE', root .. 'flow:' .. work.priority .. ':' .. work.flow, 0, tonumber(ARGV[1]) - 1)) do
    if not work.linger or rules.lingers_until(gid, work.flow, work.linger) <= now then
      local lanes = lanes_of(gid)
      if redis.call('HEXISTS', root .. 'group:' .. gid, 'lane:' .. work.flow) == 1 then
        table.insert(groups, { gid = tonumber(gid), lanes = lanes })
      else
        left = true
      end
    end
  end
  return groups, left
end

local work, groups, left
repeat
  work, groups, left = next_work(most, tonumber(ARGV[3]), tonumber(ARGV[4])), nil, false
  if work and work.flow ~= 'split' then groups, left = groups_of(work) end
until not left or #groups > 0
if not work then return soonest and cjson.encode({ wait_ms = math.max(1, soonest - now) }) or '' end
work.now_ms = now
work.over = redis.call('ZCOUNT', root .. 'permits', '(' .. now, '+inf') > permits_now(most)
work.normal = redis.call('EXISTS', root .. 'door', root .. 'parked') == 0
work.bad = tonumber(redis.call('HGET', root .. 'next', 'bad') or '0')
local flows = 0
for _, priority in ipairs({ 'u', 'n', 'b' }) do flows = flows + redis.call('ZCARD', root .. 'ready:' .. priority) end
work.others = flows > 1
work.groups = groups
work.linger = nil
return cjson.encode(work)
