-- What is due now, for the planner: the flow whose turn it is, and the groups at its front.
--
-- KEYS  1 root
-- ARGV  1 groups wanted at most  2 permits that the account has  3 permits kept free of bulk  4 aging (ms)
--       5 rules  6 a group that has waited longer than this (ms) goes before fuller ones
-- Result '' when nothing may be sent, JSON { wait_ms } when nothing may be sent before so many ms have passed,
--   else JSON { priority, flow, now_ms, over (more permits are held than may
--   be used now), others (there are other flows or groups behind it), normal (the door is as usual: nothing to report of a call that went well), probe, drop,
--   room (most recipients of the call; absent: any number), shut: [campaign...], groups: [ { gid, lanes: [ [campaigns, rows waiting, since_ms] ... ] } ... ] }
--   flow is "split" when a part of a refused batch is next; it has no groups.
--
-- Reads the front of one flow: the work does not grow with what waits behind it. Where the first group is the one
-- that goes, for how long it has waited, no other is looked at. A row that was cancelled
-- still counts here; claim.lua drops it. Rows that were joined away (_joining.lua) do not count, and are dropped here
-- from the fronts of the lanes that are shown.

local most = tonumber(ARGV[2])
use_rules(ARGV[5])

-- Rows that are looked at, at most, to drop what is stale.
local to_look_at = 10000

-- Drops stale rows from the front of a lane of which so many are; how many it has that are not.
local function fresh_rows(gid, campaigns, stale)
  local key, width, dropped = root .. 'lane:' .. gid .. ':' .. campaigns, #words(campaigns), 0
  local look = 8 -- the first row may be a fresh one: then no more need to be read
  while dropped < stale and to_look_at > 0 do
    local texts = redis.call('LRANGE', key, 0, look - 1)
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
    to_look_at = to_look_at - #rows
    look = math.min(500, look * 4)
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

-- The lanes of a group that have rows, since when the oldest may have waited, and whether that of `flow` is one.
local function lanes_of(gid, flow)
  local lanes, fields, stale, since = {}, redis.call('HGETALL', root .. 'group:' .. gid), {}, now
  local own = false
  for i = 1, #fields, 2 do
    local campaigns = string.match(fields[i], '^stale:(.+)$')
    if campaigns then stale[campaigns] = tonumber(fields[i + 1]) end
  end
  for i = 1, #fields, 2 do
    local campaigns = string.match(fields[i], '^lane:(.+)$')
    if campaigns then
      local rows = stale[campaigns] and fresh_rows(gid, campaigns, stale[campaigns])
        or redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. campaigns)
      if rows > 0 then
        lanes[#lanes + 1] = { campaigns, rows, tonumber(fields[i + 1]) }
        own = own or campaigns == flow
        since = math.min(since, tonumber(fields[i + 1]))
      end
    end
  end
  return lanes, since, own
end

-- The groups at the front of a flow that need not linger. One whose rows of this flow were all stale has left it.
local function groups_of(work)
  local groups, left = {}, false
  local front = redis.call('LRANGE', root .. 'flow:' .. work.priority .. ':' .. work.flow, 0, tonumber(ARGV[1]) - 1)
  for i, gid in ipairs(front) do
    if not work.linger or rules.lingers_until(gid, work.flow, work.linger) <= now then
      local lanes, since, own = lanes_of(gid, work.flow)
      if own then
        table.insert(groups, { gid = tonumber(gid), lanes = lanes })
        if #groups == 1 and now - since > tonumber(ARGV[6]) then return groups, left, i < #front end
      else -- it has no such rows: then it stands in this flow by a mistake, if it still does
        unfile_if_empty(gid, work.flow)
        left = left or redis.call('HEXISTS', root .. 'group:' .. gid, 'lane:' .. work.flow) == 0
      end
    end
  end
  return groups, left
end

local work, groups, left, more
repeat
  work, groups, left = next_work(most, tonumber(ARGV[3]), tonumber(ARGV[4])), nil, false
  more = false
  if work and work.flow ~= 'split' then groups, left, more = groups_of(work) end
until not left or #groups > 0
if not work then return soonest and cjson.encode({ wait_ms = math.max(1, soonest - now) }) or '' end
work.now_ms = now
work.over = redis.call('ZCOUNT', root .. 'permits', '(' .. now, '+inf') > permits_now(most)
work.normal = redis.call('EXISTS', root .. 'door', root .. 'parked') == 0
work.bad = tonumber(redis.call('HGET', root .. 'next', 'bad') or '0')
local flows = 0
for _, priority in ipairs({ 'u', 'n', 'b' }) do flows = flows + redis.call('ZCARD', root .. 'ready:' .. priority) end
work.others = flows > 1 or more == true
work.groups = groups
work.linger = nil
return cjson.encode(work)
