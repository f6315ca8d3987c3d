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
  shape.packed = {}
  for i, name in ipairs(shape.names) do shape.packed[i] = struct.pack('>I6', tonumber(name)) end
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
local fresh = { p = head('p', 0, 0, 0), s = head('s', 0, 0, 0) }

-- index entries are spread over 256 buckets a day: `ix:<day>:<bucket>` += hash 4, delivery 6.
local function remember(day, hash, number)
  local key = day .. ':' .. string.byte(hash, 1)
  local bucket = index[key]
  if not bucket then bucket = {}; index[key] = bucket end
  bucket[#bucket + 1] = string.sub(hash, 2, 5) .. struct.pack('>I6', number)
end

local function wait_in(gid, campaigns, due, row)
  local key = gid .. ' ' .. campaigns .. ' ' .. (due or 0)
  local lane = lanes[key]
  if not lane then
    lane = { gid = gid, campaigns = campaigns, due = due, rows = {} }
    lanes[key] = lane
    order[#order + 1] = lane
  end
  lane.rows[#lane.rows + 1] = row
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
    local gid = gid_of(shape.group)
    local status = shape.due > now and 's' or 'p'
    local first = struct.pack('>I5', math.max(now, shape.due) - EPOCH)
    local day = math.floor(math.max(now, shape.due) / 86400000)
    local width, section_first = #shape.names, n
    local due = status == 's' and shape.due
    if shape.scan == nil then shape.scan = others_wait(gid, shape.names, due) end
    remember(day, string.sub(hashes, 1, 5), n)
    if #hashes > 5 then remember(day, string.sub(hashes, 6, 10), n) end
    for _ = 1, m do
      local row, keys = ARGV[at], ARGV[at + 1]
      at = at + 2
      remember(day, string.sub(row, 1, 5), n)
      local text = '[' .. gid .. ',' .. string.sub(row, 6)
      local names, members = shape.campaigns, {}
      for i = 1, width do
        local holder = false
        if keys ~= '' then
          holder = redis.call('SET', root .. 'd:' .. string.sub(keys, i * 16 - 15, i * 16), n,
            'NX', 'GET', 'PX', shape.window)
        end
        if holder then
          cells[#cells + 1] = head('d', 17, 0, tonumber(holder)) .. '\0' .. shape.packed[i] .. first
          duplicates = duplicates + 1
        else
          cells[#cells + 1] = fresh[status] .. '\0' .. shape.packed[i] .. first
          members[#members + 1] = n
        end
        rows[#rows + 1] = text
        ns[#ns + 1] = n
        count(math.floor(n / SEG), gid, cells[#cells], 1)
        n = n + 1
      end
      if #members > 0 then
        local kept = shape.names
        if #members < width then
          kept = {}
          for i, member in ipairs(members) do kept[i] = shape.names[member - (n - width) + 1] end
          names = table.concat(kept, ',')
        end
        local scan = shape.scan == 'all' or shape.scan == 'some' and #members < width
        if scan or mixed[shape.group] == 'mixed' then
          wishes[#wishes + 1] = { gid = gid, status = status, due = due, expires = shape.expires, first = first, day = day,
            hash = string.sub(row, 1, 5), who = who_of(string.sub(row, 6)), scan = scan, ns = members, names = kept }
        else
          wait_in(gid, names, due, row_of(members))
        end
        filed = filed + #members
      end
    end
    if shape.expires > 0 and n > section_first then
      local slot = string.format('%.0f', math.ceil(shape.expires / 1000) * 1000)
      redis.call('RPUSH', root .. 'expiry:' .. slot, section_first .. ' ' .. (n - section_first))
      redis.call('ZADD', root .. 'expiry', slot, slot)
    end
  end
end

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
  redis.call('SETRANGE', key .. ':cells', offset * CELL, table.concat(cells, '', first, last))
  redis.call('RPUSH', key .. ':rows', unpack(rows, first, last))
end)
for name, bucket in pairs(index) do
  local text = table.concat(bucket)
  if redis.call('APPEND', root .. 'ix:' .. name, text) == #text then
    local day = tonumber(string.match(name, '^%d+'))
    redis.call('PEXPIREAT', root .. 'ix:' .. name, (day + 2) * 86400000 + retention)
    redis.call('ZADD', root .. 'days', day, day)
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
