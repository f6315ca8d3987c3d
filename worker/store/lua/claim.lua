-- Claims a batch: takes rows out of a group's lanes and makes their deliveries in_flight.
--
-- KEYS  1 root
-- ARGV  1 permit token  2 gid  3 campaigns of the call (sorted, with commas)  4 priority letter  5 flow charged
--       6 charge (in calls, after its weight)  7 retention (ms)  8 what this call probes ('' for nothing)
--       9 rules ('' where no call will be made)  10... { lane, rows to take } pairs
-- Result { batch, content, deliveries as "number count ..." (row by row, one for each campaign),
--          what its cells say (13 bytes a delivery: reason 1, tail 12; only one row's where all say the same),
--          JSON rows (for each recipient one, or one for each delivery), key of the group, campaigns }
--        or 'LOST' when the permit has lapsed, or 'NONE' when the rows were gone, or the rules
--        let none through any more (look again)
--
-- A row of a lane that wants more campaigns than the call has goes on waiting for the others. No recipient is in a
-- call twice (the API does not say what it would do): a later row of one goes to the end of its lane.
-- Nothing is on the wire yet: a batch whose worker dies now goes back unharmed (recover.lua).

local token, gid, campaigns, probe = ARGV[1], ARGV[2], ARGV[3], ARGV[8]
local lease = tonumber(redis.call('ZSCORE', root .. 'permits', token) or '0')
if lease <= now then return 'LOST' end
if probe ~= '' then
  if tonumber(redis.call('HGET', root .. 'probes', probe) or '0') > now then return 'NONE' end
end

use_rules(ARGV[9])
local room = FAR
if rules then
  local planned = 0
  for i = 10, #ARGV, 2 do planned = planned + tonumber(ARGV[i + 1]) end
  room = rules.room_for(words(campaigns), planned, probe ~= '')
  if room < 1 then return 'NONE' end
end

local width, wanted = #words(campaigns), {}
for _, name in ipairs(words(campaigns)) do wanted[name] = true end

local ns, old, texts, left = {}, {}, {}, {}
local carried, repeated = {}, 0 -- who is in the batch, and how many rows of theirs were put back
local parted = { ns = {}, old = {}, new = {} } -- deliveries that were joined with some that are taken now
local counted, gone -- has the lane stale rows, and how many may be among those taken: see count_stale()
-- A delivery that was cancelled and then sent again is listed twice: by its old row and by its new one.
local seen = {}

-- What stands for a person in the JSON row of one of its deliveries.
local function person_of(text)
  local who = string.match(text, '^%[%d+,("%a","[^"\\]*")')
  if who then return who end
  local values = cjson.decode(text)
  return values[2] .. values[3]
end

-- Takes one row of a lane apart: into the batch if all of the call's campaigns still wait in it and its person is
-- not there yet; what else still waits in it goes to the lane of just those campaigns.
local function take(row, strip, names, text)
  local row_cells = {}
  for j = 1, #row do row_cells[j] = string.sub(strip, (j - 1) * CELL + 1, j * CELL) end
  local members, rest, rest_names, waits = {}, {}, {}, {}
  for j = 1, #row do
    waits[j] = status_of(row_cells[j]) == 'p' and not seen[row[j]] and belongs(row_cells[j], row)
    if waits[j] then seen[row[j]] = true end
    if waits[j] and wanted[names[j]] then members[#members + 1] = j end
  end
  local whole = #members == width
  if whole then
    local who = person_of(type(text) == 'table' and text[members[1]] or text)
    whole = not carried[who]
    if not whole then repeated = repeated + 1 end
    carried[who] = true
  end
  if whole then
    local strips, own = {}, {}
    for k, j in ipairs(members) do
      ns[#ns + 1] = row[j]
      strips[k] = row_cells[j]
      own[k] = type(text) == 'table' and text[j] or text
    end
    old[#old + 1] = table.concat(strips)
    local same = true
    for k = 2, width do same = same and own[k] == own[1] end
    texts[#texts + 1] = same and own[1] or own
  end
  local intact = true
  for j = 1, #row do
    intact = intact and (not counted or waits[j] and is_pristine(row_cells[j]))
    if waits[j] and not (whole and wanted[names[j]]) then
      rest[#rest + 1] = row[j]
      rest_names[#rest_names + 1] = names[j]
    end
  end
  if not intact then gone = gone + 1 end
  if #rest > 0 then
    for j = 1, #row do
      if waits[j] and not (whole and wanted[names[j]]) and reason_of(row_cells[j]) == JOINED then
        table.insert(parted.ns, row[j])
        table.insert(parted.old, row_cells[j])
        table.insert(parted.new, rejoined(row_cells[j], rest))
      end
    end
    local name = table.concat(rest_names, ',')
    left[name] = left[name] or {}
    table.insert(left[name], row_of(rest))
  end
  return whole
end

-- Do all deliveries of a row wait that nobody has touched since they were accepted as this one row?
local untouched_memo = {}
local function untouched(strip)
  local known = untouched_memo[strip]
  if known == nil then
    known = true
    for at = 1, #strip, CELL do
      known = known and string.sub(strip, at, at + 8) == 'p\0\0\0\0\0\0\0\0'
    end
    untouched_memo[strip] = known
  end
  return known
end

local holds = load_holds()
-- Rows looked at: a long stretch of cancelled ones is cleared over several calls. Held ones cost more, and those
-- that are put back come again.
local budget = holds and 1000 or 5000
for i = 10, #ARGV, 2 do
  local lane, need = ARGV[i], math.min(tonumber(ARGV[i + 1]), room - #ns / width)
  local names = words(lane)
  counted, gone = redis.call('HEXISTS', root .. 'group:' .. gid, 'stale:' .. lane) == 1, 0
  while need > 0 and budget > 4 * repeated do
    local popped = redis.call('LPOP', root .. 'lane:' .. gid .. ':' .. lane, need)
    if not popped then break end
    budget = budget - #popped
    local all, k, size = {}, 0, #names
    for _, text in ipairs(popped) do
      local first = tonumber(text)
      if first then
        for n = first, first + size - 1 do
          k = k + 1
          all[k] = n
        end
      else
        for _, n in ipairs(numbers(text)) do
          k = k + 1
          all[k] = n
        end
      end
    end
    local strips, people = nil, read_rows(all, size)
    if holds then
      local cells = hold_back(holds, gid, all, read_cells(all))
      strips = {}
      for i, cell in ipairs(cells) do
        if cell == '' then cells[i] = no_delivery(1) end
      end
      for i = 1, k, size do strips[#strips + 1] = table.concat(cells, '', i, i + size - 1) end
    else
      strips = read_strips(all, size)
    end
    for r, strip in ipairs(strips) do
      local base, who = (r - 1) * size, nil
      -- The usual row, for the least: nobody lists it twice, and it is not stale.
      if lane == campaigns and untouched(strip) and type(people[r]) == 'string' then who = person_of(people[r]) end
      if who and not carried[who] then
        carried[who] = true
        local from = #ns
        for j = 1, size do ns[from + j] = all[base + j] end
        old[#old + 1], texts[#texts + 1] = strip, people[r]
        need = need - 1
      elseif take({ unpack(all, base + 1, base + size) }, strip, names, people[r]) then
        need = need - 1
      end
    end
  end
  if gone > 0 then count_stale(gid, lane, -gone) end
  unfile_if_empty(gid, lane)
end
write_cells(parted.ns, gid, parted.old, parted.new)
for name, rows in pairs(left) do file(gid, name, rows) end
if #ns == 0 then
  flush(tonumber(ARGV[7]))
  return 'NONE'
end
for i = 10, #ARGV, 2 do back_to_the_end(gid, ARGV[i]) end

if probe ~= '' then redis.call('HSET', root .. 'probes', probe, lease) end
local batch, cells = make_batch(ns, old, gid, campaigns, token, lease, '')
charge_turn(ARGV[4], ARGV[5], tonumber(ARGV[6]))
if rules then rules.charge(words(campaigns), #ns / width, batch) end
flush(tonumber(ARGV[7]))
return tell(batch, gid, campaigns, ns, cells, texts)
