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

-- Files rows as waiting in the lane (group, campaigns). `flow:<priority>:<campaigns>` lists the groups
-- with rows in that lane, each once; `ready:<priority>` ranks the flows that have any (by fair turn).
local function file(gid, campaigns, rows)
  local group = root .. 'group:' .. gid
  if redis.call('HSETNX', group, 'lane:' .. campaigns, now) == 1 then
    local priority = redis.call('HGET', group, 'priority')
    local flow = priority .. ':' .. campaigns
    if redis.call('RPUSH', root .. 'flow:' .. flow, gid) == 1 then
      local turn = tonumber(redis.call('HGET', root .. 'turns', priority) or '0')
      local own = tonumber(redis.call('HGET', root .. 'turns', flow) or '0')
      redis.call('ZADD', root .. 'ready:' .. priority, math.max(turn, own), campaigns)
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
