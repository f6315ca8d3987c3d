-- Ends deliveries that wait: as expired or cancelled, never having been sent.
--
-- KEYS  1 root
-- ARGV  1 status letter  2 reason  3 letters of the states it may end  4 retention (ms)
--       5... { delivery, gid, dedupe digest or '' } triples
-- Result how many were ended; the others had moved on and are left alone
--
-- One that may have been sent by an earlier attempt ends as unknown instead, and keeps its key.

local letter, allowed, retention = ARGV[1], ARGV[3], tonumber(ARGV[4])
local ended, ended_head, groups, order, named = 0, head(letter, tonumber(ARGV[2]), 0, 0), {}, {}, {}
for i = 5, #ARGV, 3 do
  local gid = ARGV[i + 1]
  if not groups[gid] then
    groups[gid] = { ns = {}, keys = {} }
    order[#order + 1] = gid
  end
  if not named[ARGV[i]] then
    named[ARGV[i]] = true
    table.insert(groups[gid].ns, tonumber(ARGV[i]))
    table.insert(groups[gid].keys, ARGV[i + 2])
  end
end
for _, gid in ipairs(order) do
  local ns, keys = groups[gid].ns, groups[gid].keys
  local old, new = read_cells(ns), {}
  for i, cell in ipairs(old) do
    if cell ~= '' and string.find(allowed, status_of(cell), 1, true) then
      new[i] = end_unsent(cell, ended_head, keys[i], ns[i])
      ended = ended + 1
    end
  end
  write_cells(ns, gid, old, new)
end
flush(retention)
return ended
