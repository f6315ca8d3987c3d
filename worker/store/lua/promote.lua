-- Wakes what is due: rows of retrying and scheduled deliveries go to their lanes as pending.
--
-- KEYS  1 root          ARGV  1 retention (ms)  2 rows at most
-- Result { rows woken, 1 when more is due }
--
-- A delivery that was cancelled or expired while it slept has another status by now, and is left alone;
-- so is one that was joined with others since, and sleeps with them.

local retention, budget, woken = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local updated = struct.pack('>I5', now - EPOCH)
for _, slot in ipairs(redis.call('ZRANGEBYSCORE', root .. 'due', '-inf', now, 'LIMIT', 0, 100)) do
  local key = root .. 'due:' .. slot
  while woken < budget do
    local item = redis.call('LPOP', key)
    if not item then break end
    local gid, campaigns, text = string.match(item, '^(%d+) ([%d,]+) (.+)$')
    local names, lanes, rows, all = words(campaigns), {}, {}, {}
    for row in string.gmatch(text, '[%d,]+') do
      rows[#rows + 1] = row_numbers(row, #names)
      for _, n in ipairs(rows[#rows]) do all[#all + 1] = n end
    end
    local old, new, at = read_cells(all), {}, 0
    for _, ns in ipairs(rows) do
      local kept, kept_names = {}, {}
      for j, n in ipairs(ns) do
        local cell = old[at + j]
        if string.find('sr', status_of(cell), 1, true) and cell ~= '' and belongs(cell, ns) then
          new[at + j] = 'p' .. string.sub(cell, 2, 9) .. updated .. string.sub(cell, HEAD + 1)
          kept[#kept + 1] = n
          kept_names[#kept_names + 1] = names[j]
        end
      end
      if #kept > 0 then
        if #kept < #ns then
          for j in ipairs(ns) do new[at + j] = new[at + j] and rejoined(new[at + j], kept) end
        end
        local name = table.concat(kept_names, ',')
        lanes[name] = lanes[name] or {}
        table.insert(lanes[name], row_of(kept))
      end
      at = at + #ns
    end
    write_cells(all, gid, old, new)
    woken = woken + #rows
    for name, rows in pairs(lanes) do file(gid, name, rows) end
  end
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', root .. 'due', slot) end
  if woken >= budget then break end
end
flush(retention)
return { woken, #redis.call('ZRANGEBYSCORE', root .. 'due', '-inf', now, 'LIMIT', 0, 1) }
