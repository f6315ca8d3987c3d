-- Lanes: what waits, in the order in which it gets its turn; and batches, what was taken out of them. Stands in
-- front of every script, behind _dedupe.lua.
--
-- A group is (priority, content). `lane:<group>:<campaigns>` lists its rows that wait for the same campaigns;
-- `flow:<priority>:<campaigns>` the groups with such rows; `ready:<priority>` ranks the flows by fair turn.

-- A row of a lane is the numbers of one recipient's deliveries, one per campaign of the lane in its order:
-- the first alone when they are neighbours (the usual case), else all of them with commas.
local function row_of(ns)
  for i = 2, #ns do
    if ns[i] ~= ns[1] + i - 1 then return table.concat(ns, ',') end
  end
  return decimal(ns[1])
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

-- Does a delivery that waits belong to this row? One that was joined (_joining.lua) is listed by the rows that it
-- left too, and belongs only to the one that its cell describes.
local function belongs(cell, ns)
  if reason_of(cell) ~= JOINED then return true end
  local length, with = struct.unpack('>I2I5', string.sub(cell, 3, 9))
  if length ~= #ns then return false end
  for _, n in ipairs(ns) do
    if n == with then return true end
  end
  return false
end

-- The mark (reason, http and batch) of cells whose deliveries wait in the row ns, whatever row they came in.
local function mark_of(ns)
  return string.char(JOINED) .. struct.pack('>I2I5', #ns, math.max(unpack(ns)))
end

-- The cell of a delivery whose row has become the row ns: what was joined with it has gone.
local function rejoined(cell, ns)
  if reason_of(cell) ~= JOINED then return cell end
  return string.sub(cell, 1, 1) .. mark_of(ns) .. string.sub(cell, 10)
end

-- Deliveries as "number count number count ...": how many neighbours there are from each number on.
local function spans_of(ns)
  local parts, k, first, count = {}, 0, 1, #ns
  while first <= count do
    local last, n = first, ns[first]
    while ns[last + 1] == n + 1 do
      last = last + 1
      n = n + 1
    end
    parts[k + 1], parts[k + 2] = ns[first], last - first + 1
    k = k + 2
    first = last + 1
  end
  return table.concat(parts, ' ')
end

-- The deliveries of a batch (its field `spans`; older versions wrote `rows`, the numbers with commas).
local function deliveries_of(spans, rows)
  if not spans then return numbers(rows) end
  local ns, k = {}, 0
  for first, count in string.gmatch(spans, '(%d+) (%d+)') do
    for n = tonumber(first), first + count - 1 do
      k = k + 1
      ns[k] = n
    end
  end
  return ns
end

local function words(csv)
  local list = {}
  for word in string.gmatch(csv, '[^,]+') do list[#list + 1] = word end
  return list
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
  in_pieces(rows, function(...) redis.call('RPUSH', root .. 'lane:' .. gid .. ':' .. campaigns, ...) end)
end

-- Puts rows of (group, campaigns) to sleep until due_ms; promote.lua wakes them.
local function sleep_rows(gid, campaigns, rows, due_ms)
  local slot = string.format('%.0f', math.ceil(due_ms / 100) * 100)
  redis.call('RPUSH', root .. 'due:' .. slot, gid .. ' ' .. campaigns .. ' ' .. table.concat(rows, ' '))
  redis.call('ZADD', root .. 'due', slot, slot)
end

-- Takes an emptied lane out of its flow, and an emptied flow out of the ready ones.
local function unfile_if_empty(gid, campaigns)
  if redis.call('EXISTS', root .. 'lane:' .. gid .. ':' .. campaigns) == 1 then return end
  local group = root .. 'group:' .. gid
  if redis.call('HDEL', group, 'lane:' .. campaigns) == 0 then return end
  redis.call('HDEL', group, 'stale:' .. campaigns)
  local flow = redis.call('HGET', group, 'priority') .. ':' .. campaigns
  redis.call('LREM', root .. 'flow:' .. flow, 1, gid)
  if redis.call('EXISTS', root .. 'flow:' .. flow) == 0 then
    redis.call('ZREM', root .. 'ready:' .. string.sub(flow, 1, 1), campaigns)
  end
end

-- Has nobody touched a delivery that waits since it was accepted, but to join it with others?
local function is_pristine(cell)
  return reason_of(cell) == JOINED or string.sub(cell, 2, 9) == '\0\0\0\0\0\0\0\0'
end

-- So many rows more (or fewer) of the lane are stale: listed, and joined away. The planner does not count them.
-- A row that was taken is taken off the count unless it surely was none of them: deliveries that were tried or sent
-- again lose the memory of their row. So the planner may see some rows too many, and never loses any for long.
local function count_stale(gid, campaigns, by)
  local group, field = root .. 'group:' .. gid, 'stale:' .. campaigns
  if by < 0 and redis.call('HEXISTS', group, field) == 0 then return end
  local stale = math.min(redis.call('HINCRBY', group, field, by), redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. campaigns))
  if stale <= 0 then redis.call('HDEL', group, field) else redis.call('HSET', group, field, stale) end
end

-- A group that got a call and has more rows in the lane goes behind the others of its flow, and waits from now on:
-- one that is filled up steadily would hold them up for ever.
local function back_to_the_end(gid, campaigns)
  local group = root .. 'group:' .. gid
  if redis.call('HEXISTS', group, 'lane:' .. campaigns) == 0 then return end
  local flow = root .. 'flow:' .. redis.call('HGET', group, 'priority') .. ':' .. campaigns
  redis.call('LREM', flow, 1, gid)
  redis.call('RPUSH', flow, gid)
  redis.call('HSET', group, 'lane:' .. campaigns, now)
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
    elseif string.find(name, '^sleeps:') then
      redis.call('HDEL', group, name)
    end
  end
end

-- The account's live deliveries, counted over its campaigns.
local function count_live()
  local live, counted = 0, redis.call('HGETALL', root .. 'counts')
  for i = 1, #counted, 2 do
    if LIVE[string.sub(counted[i], -1)] then live = live + tonumber(counted[i + 1]) end
  end
  return string.format('%.0f', live)
end

-- Frees keys, writes the counters, and lets a group without live deliveries expire after `retention` milliseconds.
local function flush(retention)
  free_keys()
  local total = {}
  for segment, of_segment in pairs(moved) do
    redis.call('ZADD', root .. 'segments', now, segment)
    for key, by in pairs(of_segment) do
      if by ~= 0 then
        local name = key
        if key ~= 'live' then
          name = string.format('%.0f', struct.unpack('>I6', key)) .. ':' .. string.sub(key, 7)
          total[name] = (total[name] or 0) + by
        end
        redis.call('HINCRBY', root .. 'seg:' .. segment, name, by)
      end
    end
  end
  for name, by in pairs(total) do
    if by ~= 0 then redis.call('HINCRBY', root .. 'counts', name, by) end
  end
  local change = 0
  for gid, by in pairs(lives) do
    change = change + by
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
  if change ~= 0 then
    if redis.call('EXISTS', root .. 'live') == 1 then
      redis.call('INCRBY', root .. 'live', string.format('%.0f', change))
    else -- the account is new, or its data is of a time before this counter
      redis.call('SET', root .. 'live', count_live())
    end
  end
  review_guards()
end

-- Makes the deliveries ns (`old`: their cells, one strip for each recipient) a batch that is claimed by a permit's
-- holder; returns its number and the new strips.
local function make_batch(ns, old, gid, campaigns, token, lease, job)
  local batch = redis.call('HINCRBY', root .. 'next', 'batch', 1)
  local in_flight, first = string.sub(head('i', 0, 0, batch), 3), struct.pack('>I5', now - EPOCH)
  local new = write_strips(ns, #ns / #old, gid, old, function(cell)
    local rest = string.sub(cell, HEAD + 1)
    if attempts_of(cell) == 0 then rest = string.sub(rest, 1, 7) .. first end
    -- The reason stays: it remembers whether an earlier attempt may have been sent.
    return 'i' .. string.sub(cell, 2, 2) .. in_flight .. rest
  end)
  redis.call('HSET', root .. 'batch:' .. batch, 'state', 'claimed', 'token', token, 'gid', gid,
    'campaigns', campaigns, 'spans', spans_of(ns), 'job', job)
  redis.call('ZADD', root .. 'flight', lease, batch)
  if job ~= '' then redis.call('ZADD', root .. 'splitting', lease, batch) end
  return batch, new
end

-- What a batch's holder learns of each cell: its reason and its tail, 13 bytes; those of one recipient alone when
-- all are told the same.
local function told(strips)
  local said, parts, same = {}, {}, true
  for row, strip in ipairs(strips) do
    local part = said[strip]
    if not part then
      part = change_strip(strip, function(cell) return string.sub(cell, 2, 2) .. string.sub(cell, HEAD + 1) end)
      said[strip] = part
    end
    parts[row] = part
    same = same and part == parts[1]
  end
  return same and parts[1] or table.concat(parts)
end

-- What the holder of a batch is told of it. `rows`: its JSON rows where they have been read.
local function tell(batch, gid, campaigns, ns, strips, rows)
  local group = redis.call('HMGET', root .. 'group:' .. gid, 'content', 'key')
  return { batch, group[1], spans_of(ns), told(strips), rows or read_rows(ns, #words(campaigns)), group[2], campaigns }
end

-- Takes a batch off the books of what is in flight.
local function drop_batch(batch)
  redis.call('DEL', root .. 'batch:' .. batch)
  redis.call('ZREM', root .. 'flight', batch)
  redis.call('ZREM', root .. 'splitting', batch)
end

-- Undoes a claim: the deliveries ns of a batch that was not sent wait again. The caller flushes.
local function unclaim(batch, gid, campaigns, ns)
  local old, new, rows, width = read_cells(ns), {}, {}, #words(campaigns)
  local pending = string.sub(head('p', 0, 0, tonumber(batch)), 3)
  for first = 1, #ns, width do
    local row = { unpack(ns, first, first + width - 1) }
    rows[#rows + 1] = row_of(row)
    for i = first, first + width - 1 do
      new[i] = rejoined('p' .. string.sub(old[i], 2, 2) .. pending .. string.sub(old[i], HEAD + 1), row)
    end
  end
  write_cells(ns, gid, old, new)
  file(gid, campaigns, rows)
  drop_batch(batch)
end
