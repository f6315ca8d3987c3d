-- Accepts one chunk of triggers: dedupes, files and acknowledges them, all or nothing.
--
-- KEYS  1 root  2 intake stream  3 dead letter stream
-- ARGV  1 consumer group  2 retention (ms)  3 permits the account has  4 1 when no two keys of the chunk are equal
--       5 dead letters D, then D x { entry id, reason, where, original bytes }
--       then groups G, then G x { priority letter, digest, content }
--       then runs R, then R x { shape, sections of this shape } each followed by as many { index + entry id, row... }
--   A section is one trigger's piece. shape = "piece final group due_ms expires_ms window_ms rows index campaigns":
--   piece numbers count an entry's sections from 0, final is 1 on its last one, group is an ordinal from 1; index
--   is the length of what stands before the entry id: 5 bytes of its hash, and 5 of the producer's id's where it has one.
--   A row is one argument: with a window the dedupe digests, 16 bytes for each campaign; 5 bytes of the recipient's
--   hash; the JSON row without its group ("...]").
-- Result { deliveries filed, duplicates, sections passed over, free permits, first delivery }
--
-- Run twice, the second time changes nothing: an entry is acknowledged once, and of an entry in pieces
-- `accepting` holds the next piece that is wanted.
--
-- In this order: dead letters; the runs are read, and what is known of their keys and entries is asked, once for all;
-- each section is filed in memory; rows are joined; then all is written, what takes a delivery out of the intake last.

local stream, dead = KEYS[2], KEYS[3]
local consumers, retention, permits = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local distinct, at = ARGV[4] == '1', 5
local function take()
  local value = ARGV[at]
  at = at + 1
  return value
end

local done = {} -- entries that are finished: dead letters, and those whose last piece is filed
local ended = {} -- those of them that are still to be acknowledged
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

-- Do all of these wait to be acknowledged, each once? They stand in the order of the stream, so one look tells where
-- nobody else's are between them. It changes nothing: what is not admitted must stay where it is.
local function all_pending(ids)
  local found = redis.pcall('XPENDING', stream, consumers, ids[1], ids[#ids], #ids)
  if found.err or #found < #ids then return false end
  for i, entry in ipairs(found) do
    if entry[1] ~= ids[i] then return false end
  end
  return true
end

-- Entries that are one section each, which is most of them; do all of them wait?
local whole, all_wait = {}, false
-- The next piece wanted of entries in pieces, after what this chunk has of them; false: none.
local wanted = {}

-- May this section be applied? Once for each.
local function admit(id, piece, final)
  if piece == 0 and final and all_wait then return true end
  if wanted[id] == nil then
    local known = redis.call('HGET', root .. 'accepting', id)
    local pending = #redis.call('XPENDING', stream, consumers, id, id, 1) > 0
    wanted[id] = pending and tonumber(known or '0')
  end
  if wanted[id] ~= piece then return false end
  wanted[id] = not final and piece + 1
  return true
end

local shapes = {}
local function shape_of(text)
  local shape = shapes[text]
  if shape then return shape end
  local piece, final, group, due, expires, window, height, index, campaigns =
    string.match(text, '^(%d+) (%d) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([%d,]+)$')
  shape = { piece = tonumber(piece), final = final == '1', group = groups[tonumber(group)], due = tonumber(due),
    expires = tonumber(expires), window = tonumber(window), height = tonumber(height), index = tonumber(index),
    campaigns = campaigns, names = words(campaigns) }
  local at_first = math.max(now, shape.due)
  shape.status = shape.due > now and 's' or 'p'
  shape.keys = 0 -- bytes of dedupe digests in a row
  if shape.window > 0 then
    shape.till, shape.slot = till(shape.window)
    shape.keys = #shape.names * DIGEST
  end
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

local mixed = {} -- groups for which the chunk has several sets of campaigns
local all_runs = {}
local digests, asked = {}, 0
for r = 1, tonumber(take()) do
  local shape, count = shape_of(take()), tonumber(take())
  all_runs[r] = { shape = shape, sections = count, at = at }
  mixed[shape.group] = mixed[shape.group] or shape.campaigns
  if mixed[shape.group] ~= shape.campaigns then mixed[shape.group] = 'mixed' end
  local one, step = shape.piece == 0 and shape.final, shape.height + 1
  for section = at, at + (count - 1) * step, step do
    if one then whole[#whole + 1] = string.sub(ARGV[section], shape.index + 1) end
    if shape.till then
      for row = section + 1, section + shape.height do
        for first = 1, shape.keys, DIGEST do
          asked = asked + 1
          digests[asked] = string.sub(ARGV[row], first, first + DIGEST - 1)
        end
      end
    end
  end
  at = at + count * step
end

-- What is known of each key, in the order of the rows: `asked` counts them once more while the sections are filed, and
-- a section that is passed over skips its own. And who has taken a key in this chunk, where two of it may be equal.
local known, taken_here = read_keys(digests), {}
asked = 0

all_wait = #whole > 0 and all_pending(whole)

-- The next free number. It is only looked at here: as many are taken below as are filed, so that what is passed over
-- leaves no gap.
local first_n = tonumber(redis.call('HGET', root .. 'next', 'delivery') or '0')
local n, filed, duplicates, passed = first_n, 0, 0, 0

local cells, rows, ns = {}, {}, {}
local index, lanes, order, wishes = {}, {}, {}, {}

-- index entries are spread over 256 buckets a day: `ix:<day>:<bucket>` += hash 4, delivery 6.
local function remember(of_day, text, at, number)
  local name = string.byte(text, at)
  local bucket = of_day[name]
  if not bucket then bucket = {}; of_day[name] = bucket end
  bucket[#bucket + 1] = string.sub(text, at + 1, at + 4) .. number
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

local k = 0 -- deliveries so far
-- Files a section that is admitted, in memory: its cells, rows, index entries and places in lanes. `section_at` is its
-- first argument; its rows follow.
local expiring = {}
local function file_section(shape, id, section_at)
  if shape.final then done[#done + 1], ended[#ended + 1] = id, id end
  local gid, status, of_day = gid_of(shape.group), shape.status, index[shape.day]
  if not of_day then of_day = {}; index[shape.day] = of_day end
  local width, section_first, own, fresh = #shape.names, n, shape.cells, shape.fresh
  local due = status == 's' and shape.due
  local opening, till_text, slot = '[' .. gid .. ',', shape.till, shape.slot
  if shape.scan == nil then shape.scan = others_wait(gid, shape.names, due) end
  local several = mixed[shape.group] == 'mixed'
  counted[shape] = true
  local number = packed(n)
  for first = 1, shape.index, 5 do remember(of_day, ARGV[section_at], first, number) end
  local hash_at, json_at = shape.keys + 1, shape.keys + 6
  for row_at = section_at + 1, section_at + shape.height do
    local row = ARGV[row_at]
    local row_first, members = n, nil -- members: those that are no duplicates, when some are
    local text = opening .. string.sub(row, json_at)
    number = packed(n)
    remember(of_day, row, hash_at, number)
    for i = 1, width do
      local holder = nil
      if till_text then
        asked = asked + 1
        local digest = digests[asked]
        holder = holder_in(known[asked]) or taken_here[digest]
        if not holder then
          if not distinct then taken_here[digest] = n end
          hold_key(digest, (i == 1 and number or packed(n)) .. till_text, slot)
        end
      end
      local cell
      if holder then
        cell = head('d', 17, 0, holder) .. shape.tails[i]
        count(math.floor(n / SEG), gid, cell, 1)
        duplicates = duplicates + 1
        if not members then
          members = {}
          for member = row_first, n - 1 do members[#members + 1] = member end
        end
      else
        cell = own[i]
        fresh[i] = fresh[i] + 1
        if members then members[#members + 1] = n end
      end
      k = k + 1
      cells[k], rows[k], ns[k] = cell, text, n
      n = n + 1
      if n % SEG == 0 then
        count_fresh(n / SEG - 1)
        counted[shape] = true
      end
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
            day = shape.day, hash = string.sub(row, hash_at, hash_at + 4), who = who_of(string.sub(row, json_at)), scan = scan, ns = members,
            names = kept }
        else
          wait_in(gid, names, due, row_of(members))
        end
      else
        local lane = shape.lane
        if not lane then
          lane = wait_in(gid, shape.campaigns, due)
          shape.lane = lane
        end
        lane.rows[#lane.rows + 1] = decimal(row_first)
      end
      filed = filed + count_members
    end
  end
  if shape.expires > 0 and n > section_first then
    local slot = string.format('%.0f', math.ceil(shape.expires / 1000) * 1000)
    expiring[#expiring + 1] = { slot, section_first .. ' ' .. (n - section_first) }
  end
end

for _, run in ipairs(all_runs) do
  local shape, step = run.shape, run.shape.height + 1
  for at = run.at, run.at + (run.sections - 1) * step, step do
    local id = string.sub(ARGV[at], shape.index + 1)
    if admit(id, shape.piece, shape.final) then
      file_section(shape, id, at)
    else
      passed = passed + 1
      asked = asked + shape.height * shape.keys / DIGEST
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

-- From here on all is written. Should a command fail among these, the entries are accepted again, for what takes their
-- keys and places them in lanes comes after what may fail.
if first_n == 0 then redis.call('SET', root .. 'schema', LAYOUT, 'NX') end
redis.call('HINCRBY', root .. 'next', 'delivery', n - first_n)
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
for _, slot in ipairs(expiring) do
  redis.call('RPUSH', root .. 'expiry:' .. slot[1], slot[2])
  redis.call('ZADD', root .. 'expiry', slot[1], slot[1])
end
write_keys()
mark_cells(marks)
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
if redis.call('EXISTS', root .. 'tried') == 1 then
  in_pieces(done, function(...) redis.call('HDEL', root .. 'tried', ...) end)
end
for id, piece in pairs(wanted) do
  if not piece then redis.call('HDEL', root .. 'accepting', id)
  elseif piece > 0 then redis.call('HSET', root .. 'accepting', id, piece) end
end
in_pieces(ended, function(...) redis.call('XACK', stream, consumers, ...) end)
in_pieces(done, function(...) redis.call('XDEL', stream, ...) end)
return { filed, duplicates, passed, permits - redis.call('ZCOUNT', root .. 'permits', now, '+inf'), first_n }
