-- Lets deliveries go that were held back with their trigger: they are pending again.
--
-- KEYS  1 root          ARGV  1 retention (ms)  2... { delivery, gid } pairs, by number
-- Result how many; those that are held back for another reason too, or have moved on, are left
--
-- Neighbours of one recipient share a row again, so that they share calls as before.

local retention, free = tonumber(ARGV[1]), 0
local holds = load_holds()
local updated = struct.pack('>I5', now - EPOCH)
local ns, gids = {}, {}
for i = 2, #ARGV, 2 do
  ns[#ns + 1] = tonumber(ARGV[i])
  gids[#gids + 1] = ARGV[i + 1]
end
local cells = read_cells(ns)
local still = holds and held_among(holds, ns, cells, 'h') or {}
local texts = {}
runs(ns, function(segment, offset, first, last)
  local rows = redis.call('LRANGE', root .. 'seg:' .. segment .. ':rows', offset, offset + last - first)
  for i = first, last do texts[i] = rows[i - first + 1] end
end)

local group -- the row that is being put together
local function close()
  if not group then return end
  -- The row may not be the one that they were accepted in: _joining.lua has to know.
  for i, cell in ipairs(group.new) do
    if string.sub(cell, 2, 9) == '\0\0\0\0\0\0\0\0' then
      group.new[i] = string.sub(cell, 1, 1) .. mark_of(group.ns) .. string.sub(cell, 10)
    end
  end
  write_cells(group.ns, group.gid, group.old, group.new)
  file(group.gid, table.concat(group.names, ','), { row_of(group.ns) })
  free = free + #group.ns
  group = nil
end
for i, cell in ipairs(cells) do
  if cell ~= '' and status_of(cell) == 'h' and not still[i] then
    local campaign = campaign_of(cell)
    if group and not (group.gid == gids[i] and group.text == texts[i] and group.last + 1 == ns[i]
      and tonumber(group.campaign) < tonumber(campaign)) then close() end
    group = group or { gid = gids[i], text = texts[i], ns = {}, names = {}, old = {}, new = {} }
    group.last, group.campaign = ns[i], campaign
    table.insert(group.ns, ns[i])
    table.insert(group.names, campaign)
    table.insert(group.old, cell)
    table.insert(group.new, 'p' .. string.sub(cell, 2, 9) .. updated .. string.sub(cell, HEAD + 1))
  else
    close()
  end
end
close()
flush(retention)
return free
