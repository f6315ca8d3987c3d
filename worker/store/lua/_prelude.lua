-- Shared by every script: put in front of each when it is loaded.
--
-- KEYS[1] is always the account's root, `volley:{<account>}:`. Segments, lanes and batches are named by
-- numbers that only Redis knows, so their keys are derived from the root here; all of them carry its hash
-- tag and so live in its slot. keys.py is the same list for Python.
--
-- A delivery is a number n. Its cell (26 bytes, big endian) is the one place that says where it is; lanes,
-- due slots and batches only refer to n and are checked against the cell when they are used. So a stale
-- reference is harmless, and a delivery can't be in two places.
--
--   head   status 1, reason 1, http 2, batch 5 (for a duplicate: the first delivery), updated 5
--   tail   attempts 1, campaign 6, first 5 (when it was accepted or its send_at; once tried, its first attempt)
--
-- Cells and rows are kept in segments of 1024: `seg:<k>:cells` (a string), `seg:<k>:rows` (a list of JSON
-- rows), `seg:<k>` (a hash: `<campaign>:<status>` -> count, `live` -> count). Times in cells are
-- milliseconds since 2020-01-01 of the server's clock.

local root = KEYS[1]
local CELL, HEAD, SEG, EPOCH = 26, 14, 1024, 1577836800000
-- Reasons of a delivery whose message may be out (core/retry.py has the same list): it is never recorded as not
-- sent, and its dedupe key is kept.
local MAYBE_SENT = { [12] = true, [13] = true, [14] = true }
local LIVE = { s = true, p = true, i = true, r = true }

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function head(status, reason, http, batch)
  return status .. struct.pack('>BI2I5I5', reason, http, batch, now - EPOCH)
end

local function status_of(cell) return string.sub(cell, 1, 1) end
local function batch_of(cell) return struct.unpack('>I5', string.sub(cell, 5, 9)) end
local function attempts_of(cell) return string.byte(cell, 15) end
local function reason_of(cell) return string.byte(cell, 2) end
local function campaign_of(cell) return string.format('%.0f', struct.unpack('>I6', string.sub(cell, 16, 21))) end
-- Tail of a cell after an attempt that counts.
local function tail_after(cell, counted)
  if counted == 0 then return string.sub(cell, HEAD + 1) end
  return string.char(math.min(255, attempts_of(cell) + counted)) .. string.sub(cell, HEAD + 2)
end


-- What a batch's holder learns of each cell: its reason and its tail, 13 bytes.
local function told(cells)
  local parts = {}
  for i, cell in ipairs(cells) do parts[i] = string.sub(cell, 2, 2) .. string.sub(cell, HEAD + 1) end
  return table.concat(parts)
end

-- Calls visit(segment, offset, first, last) for each run ns[first..last] of neighbours in one segment.
local function runs(ns, visit)
  local first = 1
  while first <= #ns do
    local last = first
    while last < #ns and ns[last + 1] == ns[last] + 1 and ns[last + 1] % SEG ~= 0 do last = last + 1 end
    visit(math.floor(ns[first] / SEG), ns[first] % SEG, first, last)
    first = last + 1
  end
end

-- The cells of the deliveries ns, in that order; '' where there is none (any more).
local function read_cells(ns)
  local cells = {}
  runs(ns, function(segment, offset, first, last)
    local text = redis.call('GETRANGE', root .. 'seg:' .. segment .. ':cells',
      offset * CELL, (offset + last - first + 1) * CELL - 1)
    for i = first, last do cells[i] = string.sub(text, (i - first) * CELL + 1, (i - first + 1) * CELL) end
  end)
  return cells
end

-- The JSON rows of a batch: one for each recipient, that of the first of its `width` deliveries.
local function read_rows(ns, width)
  local rows = {}
  runs(ns, function(segment, offset, first, last)
    local some = redis.call('LRANGE', root .. 'seg:' .. segment .. ':rows', offset, offset + last - first)
    for i = first, last do
      if (i - 1) % width == 0 then rows[#rows + 1] = some[i - first + 1] end
    end
  end)
  return rows
end

-- What the deliveries of this script add to counters, written once at its end by flush().
local moved, lives = {}, {}

local function count(segment, gid, cell, by)
  local status, campaign = string.sub(cell, 1, 1), string.sub(cell, 16, 21)
  local of_segment = moved[segment]
  if not of_segment then of_segment = {}; moved[segment] = of_segment end
  local key = campaign .. status
  of_segment[key] = (of_segment[key] or 0) + by
  if LIVE[status] then
    of_segment.live = (of_segment.live or 0) + by
    lives[gid] = (lives[gid] or 0) + by
  end
end

-- Replaces the cells of the deliveries ns of group gid. new[i] == nil leaves a cell alone.
local function write_cells(ns, gid, old, new)
  local changed, cells = {}, {}
  for i = 1, #ns do
    if new[i] then
      changed[#changed + 1] = ns[i]
      cells[#cells + 1] = new[i]
      local segment = math.floor(ns[i] / SEG)
      count(segment, gid, old[i], -1)
      count(segment, gid, new[i], 1)
    end
  end
  runs(changed, function(segment, offset, first, last)
    redis.call('SETRANGE', root .. 'seg:' .. segment .. ':cells', offset * CELL,
      table.concat(cells, '', first, last))
  end)
end

-- Takes an emptied lane out of its flow, and an emptied flow out of the ready ones.
local function unfile_if_empty(gid, campaigns)
  if redis.call('EXISTS', root .. 'lane:' .. gid .. ':' .. campaigns) == 1 then return end
  local group = root .. 'group:' .. gid
  if redis.call('HDEL', group, 'lane:' .. campaigns) == 0 then return end
  local flow = redis.call('HGET', group, 'priority') .. ':' .. campaigns
  redis.call('LREM', root .. 'flow:' .. flow, 1, gid)
  if redis.call('EXISTS', root .. 'flow:' .. flow) == 0 then
    redis.call('ZREM', root .. 'ready:' .. string.sub(flow, 1, 1), campaigns)
  end
end

-- Takes a group without live deliveries out of the flows. Its lanes hold only rows that have ended; once the
-- group has expired nothing could empty them, and its flows would seem to have work for ever.
local function clear_lanes(gid)
  local group = root .. 'group:' .. gid
  for _, name in ipairs(redis.call('HKEYS', group)) do
    local campaigns = string.match(name, '^lane:(.+)$')
    if campaigns then
      redis.call('UNLINK', root .. 'lane:' .. gid .. ':' .. campaigns)
      unfile_if_empty(gid, campaigns)
    end
  end
end

-- Writes the counters, and lets a group without live deliveries expire after `retention` milliseconds.
local function flush(retention)
  for segment, of_segment in pairs(moved) do
    redis.call('ZADD', root .. 'segments', now, segment)
    for key, by in pairs(of_segment) do
      if by ~= 0 then
        local name = key
        if key ~= 'live' then
          name = string.format('%.0f', struct.unpack('>I6', key)) .. ':' .. string.sub(key, 7)
          redis.call('HINCRBY', root .. 'counts', name, by)
        end
        redis.call('HINCRBY', root .. 'seg:' .. segment, name, by)
      end
    end
  end
  for gid, by in pairs(lives) do
    if by ~= 0 then
      local group = root .. 'group:' .. gid
      local live = redis.call('HINCRBY', group, 'live', by)
      if live == by then
        redis.call('PERSIST', group)
        redis.call('PERSIST', root .. 'gid:' .. redis.call('HGET', group, 'key'))
      elseif live == 0 then
        clear_lanes(gid)
        redis.call('PEXPIRE', group, retention)
        redis.call('PEXPIRE', root .. 'gid:' .. redis.call('HGET', group, 'key'), retention)
      end
    end
  end
end

-- A row of a lane is the numbers of one recipient's deliveries, one per campaign of the lane in its order:
-- the first alone when they are neighbours (the usual case), else all of them with commas.
local function row_of(ns)
  for i = 2, #ns do
    if ns[i] ~= ns[1] + i - 1 then return table.concat(ns, ',') end
  end
  return string.format('%.0f', ns[1])
end

local function numbers(csv)
  local ns = {}
  for n in string.gmatch(csv, '%d+') do ns[#ns + 1] = tonumber(n) end
  return ns
end

local function row_numbers(row, width)
  if string.find(row, ',', 1, true) then return numbers(row) end
  local first, ns = tonumber(row), {}
  for i = 1, width do ns[i] = first + i - 1 end
  return ns
end

local function words(csv)
  local list = {}
  for word in string.gmatch(csv, '[^,]+') do list[#list + 1] = word end
  return list
end

-- RPUSH (or LPUSH) in pieces that fit Lua's stack.
local function push(command, key, items)
  for first = 1, #items, 4000 do
    redis.call(command, key, unpack(items, first, math.min(first + 3999, #items)))
  end
end

-- Puts a flow among the ready ones, at its own turn or the present one, whichever is later.
local function make_ready(priority, flow)
  if redis.call('EXISTS', root .. 'ready:' .. priority) == 0 then
    redis.call('HSET', root .. 'turns', 'served:' .. priority, now)
  end
  local turn = tonumber(redis.call('HGET', root .. 'turns', priority) or '0')
  local own = tonumber(redis.call('HGET', root .. 'turns', priority .. ':' .. flow) or '0')
  redis.call('ZADD', root .. 'ready:' .. priority, 'NX', math.max(turn, own), flow)
end

-- Charges a flow for a call, after its weight: so each flow gets calls by its weight.
local function charge_turn(priority, flow, charge)
  local ready = root .. 'ready:' .. priority
  local score = redis.call('ZSCORE', ready, flow)
  local name = priority .. ':' .. flow
  -- One that was held back (paused, parked) has missed its turns: they are not made up for at the others' cost.
  local turn = math.max(tonumber(score or redis.call('HGET', root .. 'turns', name) or '0'),
    tonumber(redis.call('HGET', root .. 'turns', priority) or '0'))
  redis.call('HSET', root .. 'turns', priority, turn, name, turn + charge, 'served:' .. priority, now)
  if score then redis.call('ZADD', ready, turn + charge, flow) end
end

-- Files rows as waiting in the lane (group, campaigns). `flow:<priority>:<campaigns>` lists the groups
-- with rows in that lane, each once; `ready:<priority>` ranks the flows that have any (by fair turn).
local function file(gid, campaigns, rows)
  local group = root .. 'group:' .. gid
  if redis.call('HSETNX', group, 'lane:' .. campaigns, now) == 1 then
    local priority = redis.call('HGET', group, 'priority')
    local flow = priority .. ':' .. campaigns
    if redis.call('RPUSH', root .. 'flow:' .. flow, gid) == 1 then
      make_ready(priority, campaigns)
    end
  end
  push('RPUSH', root .. 'lane:' .. gid .. ':' .. campaigns, rows)
end

-- Puts rows of (group, campaigns) to sleep until due_ms; promote.lua wakes them.
local function sleep_rows(gid, campaigns, rows, due_ms)
  local slot = string.format('%.0f', math.ceil(due_ms / 100) * 100)
  redis.call('RPUSH', root .. 'due:' .. slot, gid .. ' ' .. campaigns .. ' ' .. table.concat(rows, ' '))
  redis.call('ZADD', root .. 'due', slot, slot)
end

-- Frees the dedupe key when it is still the delivery's own.
local function free_key(digest, n)
  if digest == '' then return end
  local key = root .. 'd:' .. digest
  if redis.call('GET', key) == string.format('%.0f', n) then redis.call('DEL', key) end
end

-- What may be sent. `paused` (a set) is an operator's word; `parked` (a hash: campaign or * -> JSON) is what the
-- API's refusals have taught: nothing goes there before `until`, then one small probe at a time (`probes`: name
-- -> end of its lease). `door` (a hash) holds how many permits may be used now and until when none may.

-- How many permits may be used: all that the account has, or fewer while others use its slots.
local function permits_now(most)
  return math.min(most, tonumber(redis.call('HGET', root .. 'door', 'limit') or most))
end

local function load_parks()
  local parks = {}
  local fields = redis.call('HGETALL', root .. 'parked')
  for i = 1, #fields, 2 do parks[fields[i]] = cjson.decode(fields[i + 1]) end
  return parks
end

-- 'open', 'shut', 'probe' (one small call may try it) or 'drop' (ends rejected without a call).
local function state_of(name, paused, parks)
  if paused[name] then return 'shut' end
  local park = parks[name]
  if not park then return 'open' end
  if park['until'] <= now and tonumber(redis.call('HGET', root .. 'probes', name) or '0') <= now then return 'probe' end
  return park.drop and 'drop' or 'shut'
end

-- The work whose turn it is, or nil: { priority, flow, open, shut (lists of campaigns), probe (a name or nil),
-- drop (true when the open ones are to end without a call) }.
--
-- Priorities go strictly before each other, but for two rules. Aging: one that has waited for `aging` ms without a
-- call goes first once. Reserve: bulk leaves so many permits to the others.
local function next_work(most, reserve, aging)
  local paused = {}
  for _, name in ipairs(redis.call('SMEMBERS', root .. 'paused')) do paused[name] = true end
  if tonumber(redis.call('HGET', root .. 'door', 'hold') or '0') > now then return nil end
  local parks = load_parks()
  local account = state_of('*', paused, parks)
  if account ~= 'open' and account ~= 'probe' then return nil end
  local order = { 'u', 'n', 'b' }
  for _, late in ipairs({ 'n', 'b' }) do
    local served = tonumber(redis.call('HGET', root .. 'turns', 'served:' .. late) or '0')
    if now - served > aging and redis.call('EXISTS', root .. 'ready:' .. late) == 1 then table.insert(order, 1, late) end
  end
  local held = redis.call('ZCOUNT', root .. 'permits', '(' .. now, '+inf')
  local for_bulk = math.max(1, permits_now(most) - reserve)
  for _, priority in ipairs(order) do
    local flows = {}
    if priority ~= 'b' or held <= for_bulk then flows = redis.call('ZRANGE', root .. 'ready:' .. priority, 0, -1) end
    for _, flow in ipairs(flows) do
      if flow == 'split' then
        -- Splitting never takes all permits, and no probe.
        local busy = redis.call('ZCOUNT', root .. 'splitting', '(' .. now, '+inf')
        if account == 'open' and busy < math.max(1, permits_now(most) - 1) then
          return { priority = priority, flow = flow }
        end
      else
        local by = { open = {}, shut = {}, probe = {}, drop = {} }
        for _, name in ipairs(words(flow)) do table.insert(by[state_of(name, paused, parks)], name) end
        local found = { priority = priority, flow = flow, shut = by.shut }
        local function shut(list, from)
          for i = from, #list do table.insert(found.shut, list[i]) end
        end
        if #by.open > 0 then
          shut(by.probe, 1)
          shut(by.drop, 1)
          found.probe = account == 'probe' and '*' or nil
          return found
        elseif #by.probe > 0 and account == 'open' then
          shut(by.probe, 2)
          shut(by.drop, 1)
          found.probe = by.probe[1]
          return found
        elseif #by.drop > 0 then
          shut(by.probe, 1)
          found.drop = true
          return found
        end
      end
    end
  end
  return nil
end

-- Makes the deliveries ns a batch that is claimed by a permit's holder; returns its number and the new cells.
local function make_batch(ns, old, gid, campaigns, token, lease, job)
  local batch = redis.call('HINCRBY', root .. 'next', 'batch', 1)
  local in_flight, first, new = string.sub(head('i', 0, 0, batch), 3), struct.pack('>I5', now - EPOCH), {}
  for i, cell in ipairs(old) do
    local rest = string.sub(cell, HEAD + 1)
    if attempts_of(cell) == 0 then rest = string.sub(rest, 1, 7) .. first end
    -- The reason stays: it remembers whether an earlier attempt may have been sent.
    new[i] = 'i' .. string.sub(cell, 2, 2) .. in_flight .. rest
  end
  write_cells(ns, gid, old, new)
  redis.call('HSET', root .. 'batch:' .. batch, 'state', 'claimed', 'token', token, 'gid', gid,
    'campaigns', campaigns, 'rows', table.concat(ns, ','), 'job', job)
  redis.call('ZADD', root .. 'flight', lease, batch)
  if job ~= '' then redis.call('ZADD', root .. 'splitting', lease, batch) end
  return batch, new
end

-- What the holder of a batch is told of it.
local function tell(batch, gid, campaigns, ns, cells)
  local group = redis.call('HMGET', root .. 'group:' .. gid, 'content', 'key')
  return { batch, group[1], table.concat(ns, ','), told(cells), read_rows(ns, #words(campaigns)), group[2], campaigns }
end

-- Takes a batch off the books of what is in flight.
local function drop_batch(batch)
  redis.call('DEL', root .. 'batch:' .. batch)
  redis.call('ZREM', root .. 'flight', batch)
  redis.call('ZREM', root .. 'splitting', batch)
end

-- The cell of a delivery that ends by `ended` (a head) without this batch having been sent, its key freed; or as
-- unknown with its key kept, when an earlier attempt may have been sent.
local function end_unsent(cell, ended, digest, n)
  local reason = reason_of(cell)
  if MAYBE_SENT[reason] then
    return head('u', reason, 0, batch_of(cell)) .. string.sub(cell, HEAD + 1)
  end
  free_key(digest, n)
  return ended .. string.sub(cell, HEAD + 1)
end
