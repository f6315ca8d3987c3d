-- Claims a batch: takes rows out of a group's lanes and makes their deliveries in_flight.
--
-- KEYS  1 root
-- ARGV  1 permit token  2 gid  3 campaigns of the call (sorted, with commas)  4 priority letter  5 flow charged
--       6 charge (in calls, after its weight)  7 retention (ms)  8 what this call probes ('' for nothing)
--       9 rules ('' where no call will be made)  10... { lane, rows to take } pairs
-- Result { batch, content, csv of deliveries (row by row, one for each campaign),
--          what its cells say (13 bytes a delivery: reason 1, tail 12), JSON rows, key of the group, campaigns }
--        or 'LOST' when the permit has lapsed, or 'NONE' when the rows were gone, or the rules
--        let none through any more (look again)
--
-- A row of a lane that wants more campaigns than the call has goes on waiting for the others.
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

local ns, old, left = {}, {}, {}
local parted = { ns = {}, old = {}, new = {} } -- deliveries that were joined with some that are taken now
local counted, gone -- has the lane stale rows, and how many may be among those taken: see count_stale()
-- A delivery that was cancelled and then sent again is listed twice: by its old row and by its new one.
local seen = {}

-- Takes one row of a lane apart: into the batch if all of the call's campaigns still wait in it; what else
-- still waits in it goes to the lane of just those campaigns.
local function take(row, row_cells, names)
  local members, rest, rest_names, waits = {}, {}, {}, {}
  for j = 1, #row do
    waits[j] = status_of(row_cells[j]) == 'p' and not seen[row[j]] and belongs(row_cells[j], row)
    if waits[j] then seen[row[j]] = true end
    if waits[j] and wanted[names[j]] then members[#members + 1] = j end
  end
  local whole = #members == width
  if whole then
    for _, j in ipairs(members) do
      ns[#ns + 1] = row[j]
      old[#old + 1] = row_cells[j]
    end
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

local holds = load_holds()
-- Rows looked at: a long stretch of cancelled ones is cleared over several calls. Held ones cost more.
local budget = holds and 1000 or 5000
for i = 10, #ARGV, 2 do
  local lane, need = ARGV[i], math.min(tonumber(ARGV[i + 1]), room - #ns / width)
  local names = words(lane)
  counted, gone = redis.call('HEXISTS', root .. 'group:' .. gid, 'stale:' .. lane) == 1, 0
  while need > 0 and budget > 0 do
    local popped = redis.call('LPOP', root .. 'lane:' .. gid .. ':' .. lane, need)
    if not popped then break end
    budget = budget - #popped
    local all, rows = {}, {}
    for r, text in ipairs(popped) do
      rows[r] = row_numbers(text, #names)
      for _, n in ipairs(rows[r]) do all[#all + 1] = n end
    end
    local cells, at = read_cells(all), 0
    if holds then cells = hold_back(holds, gid, all, cells) end
    for _, row in ipairs(rows) do
      if take(row, { unpack(cells, at + 1, at + #row) }, names) then need = need - 1 end
      at = at + #row
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
return tell(batch, gid, campaigns, ns, cells)
