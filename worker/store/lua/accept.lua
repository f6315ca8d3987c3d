-- Accepts one chunk of triggers: dedupes, files and acknowledges them, all or nothing.
--
-- KEYS  1 root  2 intake stream  3 dead letter stream
-- ARGV  1 consumer group  2 retention (ms)  3 permits the account has
--       4 dead letters D, then D x { entry id, reason, where, original bytes }
--       then groups G, then G x { priority letter, digest, content }
--       then sections S, then S x { entry id, shape, index, m } each followed by m x { row, keys }
--   A section is one trigger's piece. shape = "piece final group due_ms expires_ms window_ms campaigns":
--   piece numbers count an entry's sections from 0, final is 1 on its last one, group is an ordinal from 1.
--   index = 5 bytes of the trigger id's hash, then 5 of the producer's id's where it has one.
--   row = 5 bytes of the recipient's hash, then the JSON row without its group ("...]"); keys = the
--   dedupe digests, 16 bytes for each campaign, or '' for none.
-- Result { deliveries filed, duplicates, sections passed over, free permits, first delivery }
--
-- Run twice, the second time changes nothing: an entry is acknowledged once, and of an entry in pieces
-- `accepting` holds the next piece that is wanted.

local stream, dead = KEYS[2], KEYS[3]
local consumers, retention, permits = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local at = 4
local function take()
  local value = ARGV[at]
  at = at + 1
  return value
end

local done = {}
for _ = 1, tonumber(take()) do
  local id, reason, where, raw = take(), take(), take(), take()
  if redis.call('XACK', stream, consumers, id) == 1 then
    redis.call('XADD', dead, '*', 'trigger', raw, 'reason', reason, 'where', where, 'entry', id)
    redis.call('HDEL', root .. 'accepting', id)
    done[#done + 1] = id
  end
end

local groups = {}
for i = 1, tonumber(take()) do groups[i] = { priority = take(), digest = take(), content = take() } end

local function gid_of(group)
  if group.gid then return group.gid end
  local key = group.priority .. group.digest
  local gid = redis.call('GET', root .. 'gid:' .. key)
  if not gid then
    gid = string.format('%.0f', redis.call('HINCRBY', root .. 'next', 'group', 1))
    -- Both expire unless flush() finds live deliveries: a group may hold nothing but duplicates.
    redis.call('SET', root .. 'gid:' .. key, gid, 'PX', retention)
    redis.call('HSET', root .. 'group:' .. gid, 'key', key, 'priority', group.priority, 'content', group.content)
    redis.call('PEXPIRE', root .. 'group:' .. gid, retention)
  end
  group.gid = gid
  return gid
end

-- May this section be applied? Acknowledges the entry with its last piece.
local function admit(id, piece, final)
  if piece == 0 and final then return redis.call('XACK', stream, consumers, id) == 1 end
  local wanted = tonumber(redis.call('HGET', root .. 'accepting', id) or '0')
  if wanted ~= piece then return false end
  if piece == 0 and #redis.call('XPENDING', stream, consumers, id, id, 1) == 0 then return false end
  if not final then
    redis.call('HSET', root .. 'accepting', id, piece + 1)
    return true
  end
  redis.call('HDEL', root .. 'accepting', id)
  return redis.call('XACK', stream, consumers, id) == 1
end

local shapes = {}
local function shape_of(text)
  local shape = shapes[text]
  if shape then return shape end
  local piece, final, group, due, expires, window, campaigns =
    string.match(text, '^(%d+) (%d) (%d+) (%d+) (%d+) (%d+) ([%d,]+)$')
  shape = { piece = tonumber(piece), final = final == '1', group = groups[tonumber(group)], due = tonumber(due),
    expires = tonumber(expires), window = tonumber(window), campaigns = campaigns, names = words(campaigns) }
  local at_first = math.max(now, shape.due)
  shape.status = shape.due > now and 's' or 'p'
  shape.first, shape.day = struct.pack('>I5', at_first - EPOCH), math.floor(at_first / 86400000)
  shape.tails, shape.cells, shape.fresh = {}, {}, {}
  for i, name in ipairs(shape.names) do
    shape.tails[i] = '\0' .. struct.pack('>I6', tonumber(name)) .. shape.first
    shape.cells[i] = head(shape.status, 0, 0, 0) .. shape.tails[i]
    shape.fresh[i] = 0
  end
  shapes[text] = shape
  return shape
end

local total, mixed = 0, {} -- groups for which the chunk has several sets of campaigns
local sections = tonumber(take())
local start = at
for _ = 1, sections do
  local shape, m = shape_of(ARGV[at + 1]), tonumber(ARGV[at + 3])
  total = total + m * #shape.names
  mixed[shape.group] = mixed[shape.group] or shape.campaigns
  if mixed[shape.group] ~= shape.campaigns then mixed[shape.group] = 'mixed' end
  at = at + 4 + 2 * m
end
at = start

local n = redis.call('HINCRBY', root .. 'next', 'delivery', total) - total
local first_n, filed, duplicates, passed = n, 0, 0, 0
local cells, rows, ns = {}, {}, {}
local index, lanes, order, wishes = {}, {}, {}, {}

-- index entries are spread over 256 buckets a day: `ix:<day>:<bucket>` += hash 4, delivery 6.
local function remember(day, hash, number)
  local of_day = index[day]
  if not of_day then of_day = {}; index[day] = of_day end
  local name = string.byte(hash, 1)
  local bucket = of_day[name]
  if not bucket then bucket = {}; of_day[name] = bucket end
  bucket[#bucket + 1] = string.sub(hash, 2, 5) .. number
end

-- Fresh deliveries of the present segment are counted by shape, and added to the counters when it ends.
local counted = {}
local function count_fresh(segment)
  for shape in pairs(counted) do
    for i, fresh in ipairs(shape.fresh) do
      if fresh > 0 then count(segment, shape.group.gid, shape.cells[i], fresh) end
      shape.fresh[i] = 0
    end
  end
  counted = {}
end

local function wait_in(gid, campaigns, due, row)
  local key = gid .. ' ' .. campaigns .. ' ' .. (due or 0)
  local lane = lanes[key]
  if not lane then
    lane = { gid = gid, campaigns = campaigns, due = due, rows = {} }
    lanes[key] = lane
    order[#order + 1] = lane
  end
  if row then lane.rows[#lane.rows + 1] = row end
  return lane
end

for _ = 1, sections do
  local id, shape, hashes, m = ARGV[at], shape_of(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  if not admit(id, shape.piece, shape.final) then
    passed = passed + 1
    at = at + 2 * m
  else
    if shape.final then done[#done + 1] = id end
    local gid, status, day = gid_of(shape.group), shape.status, shape.day
    local width, section_first, own, fresh = #shape.names, n, shape.cells, shape.fresh
    local due = status == 's' and shape.due
    local opening, digest_root = '[' .. gid .. ',', root .. 'd:'
    if shape.scan == nil then shape.scan = others_wait(gid, shape.names, due) end
    local several = mixed[shape.group] == 'mixed'
    local packed = struct.pack('>I6', n)
    remember(day, string.sub(hashes, 1, 5), packed)
    if #hashes > 5 then remember(day, string.sub(hashes, 6, 10), packed) end
    for _ = 1, m do
      local row, keys = ARGV[at], ARGV[at + 1]
      at = at + 2
      local row_first, members = n, nil -- members: those that are no duplicates, when some are
      remember(day, row, struct.pack('>I6', n))
      local text = opening .. string.sub(row, 6)
      for i = 1, width do
        local holder = false
        if keys ~= '' then
          holder = redis.call('SET', digest_root .. string.sub(keys, i * 16 - 15, i * 16), n,
            'NX', 'GET', 'PX', shape.window)
        end
        local cell
        if holder then
          cell = head('d', 17, 0, tonumber(holder)) .. shape.tails[i]
          count(math.floor(n / SEG), gid, cell, 1)
          duplicates = duplicates + 1
          if not members then
            members = {}
            for member = row_first, n - 1 do members[#members + 1] = member end
          end
        else
          cell = own[i]
          fresh[i] = fresh[i] + 1
          counted[shape] = true
          if members then members[#members + 1] = n end
        end
        local k = #ns + 1
        cells[k], rows[k], ns[k] = cell, text, n
        n = n + 1
        if n % SEG == 0 then count_fresh(n / SEG - 1) end
      end
      local count_members = members and #members or width
      if count_members > 0 then
        local scan = shape.scan == 'all' or shape.scan == 'some' and count_members < width
        if scan or several or members then
          if not members then
            members = {}
            for i = 1, width do members[i] = row_first + i - 1 end
          end
          local names, kept = shape.campaigns, shape.names
          if count_members < width then
            kept = {}
            for i, member in ipairs(members) do kept[i] = shape.names[member - row_first + 1] end
            names = table.concat(kept, ',')
          end
          if scan or several then
            wishes[#wishes + 1] = { gid = gid, status = status, due = due, expires = shape.expires, first = shape.first,
              day = day, hash = string.sub(row, 1, 5), who = who_of(string.sub(row, 6)), scan = scan, ns = members, names = kept }
          else
            wait_in(gid, names, due, row_of(members))
          end
        else
          local lane = shape.lane
          if not lane then
            lane = wait_in(gid, shape.campaigns, due)
            shape.lane = lane
          end
          lane.rows[#lane.rows + 1] = string.format('%.0f', row_first)
        end
        filed = filed + count_members
      end
    end
    if shape.expires > 0 and n > section_first then
      local slot = string.format('%.0f', math.ceil(shape.expires / 1000) * 1000)
      redis.call('RPUSH', root .. 'expiry:' .. slot, section_first .. ' ' .. (n - section_first))
      redis.call('ZADD', root .. 'expiry', slot, slot)
    end
  end
end

count_fresh(math.floor(n / SEG))

local joined, left = join(wishes)
local marks, sinces = {}, {}
-- Since when the rows of a lane may have waited.
local function since_of(gid, campaigns)
  local key = gid .. ' ' .. campaigns
  if sinces[key] == nil then
    sinces[key] = tonumber(redis.call('HGET', root .. 'group:' .. gid, 'lane:' .. campaigns) or now)
  end
  return sinces[key]
end
for _, row in ipairs(joined) do
  local lane = wait_in(row.gid, row.campaigns, row.due, row_of(row.ns))
  if row.old and not row.due then lane.since = math.min(lane.since or now, since_of(row.gid, row.lane)) end
  if row.mark then
    for _, member in ipairs(row.ns) do
      local fresh_one = member - first_n + 1
      if fresh_one < 1 then marks[member] = row.mark
      else cells[fresh_one] = string.sub(cells[fresh_one], 1, 1) .. row.mark .. string.sub(cells[fresh_one], 10) end
    end
  end
end
mark_cells(marks)

-- Sections that were passed over left a gap at the end of the numbers: give it back.
if n < first_n + total then redis.call('HINCRBY', root .. 'next', 'delivery', n - first_n - total) end

runs(ns, function(segment, offset, first, last)
  local key = root .. 'seg:' .. segment
  local text = table.concat(cells, '', first, last)
  -- SETRANGE leaves as much room again behind what grows. A segment that gets full is written whole, and without.
  local before = offset + last - first + 1 == SEG and redis.call('GETRANGE', key .. ':cells', 0, offset * CELL - 1)
  if before and (offset == 0 or #before == offset * CELL) then
    redis.call('SET', key .. ':cells', offset == 0 and text or before .. text)
  else
    redis.call('SETRANGE', key .. ':cells', offset * CELL, text)
  end
  redis.call('RPUSH', key .. ':rows', unpack(rows, first, last))
end)
for day, of_day in pairs(index) do
  for bucket, entries in pairs(of_day) do
    local key, text = root .. 'ix:' .. day .. ':' .. bucket, table.concat(entries)
    if redis.call('APPEND', key, text) == #text then
      redis.call('PEXPIREAT', key, (day + 2) * 86400000 + retention)
      redis.call('ZADD', root .. 'days', day, day)
    end
  end
end
for gid, lanes_left in pairs(left) do
  for campaigns, rows_left in pairs(lanes_left) do count_stale(gid, campaigns, rows_left) end
end
for _, lane in ipairs(order) do
  if lane.due then
    sleep_rows(lane.gid, lane.campaigns, lane.rows, lane.due)
    local group, field = root .. 'group:' .. lane.gid, 'sleeps:' .. lane.campaigns
    if tonumber(redis.call('HGET', group, field) or '0') < lane.due then
      redis.call('HSET', group, field, string.format('%.0f', lane.due))
    end
  else
    file(lane.gid, lane.campaigns, lane.rows)
    -- Whoever is joined goes on waiting, and does not begin anew.
    local group, field = root .. 'group:' .. lane.gid, 'lane:' .. lane.campaigns
    if lane.since and tonumber(redis.call('HGET', group, field)) > lane.since then
      redis.call('HSET', group, field, string.format('%.0f', lane.since))
    end
  end
end
flush(retention)
local tried = redis.call('EXISTS', root .. 'tried') == 1
for first = 1, #done, 4000 do
  if tried then redis.call('HDEL', root .. 'tried', unpack(done, first, math.min(first + 3999, #done))) end
  redis.call('XDEL', stream, unpack(done, first, math.min(first + 3999, #done)))
end
return { filed, duplicates, passed, permits - redis.call('ZCOUNT', root .. 'permits', now, '+inf'), first_n }
