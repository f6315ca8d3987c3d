-- Holds: triggers that an operator holds back or takes back. Stands in front of every script, behind _door.lua.
--
-- `held` (a hash: name -> since when, ms) holds triggers back until they are resumed; a name is `t:<entry>` or
-- `p:<producer's id>`. `cancels` (a hash: name -> "entry batch since") takes back what had been enqueued up to
-- that stream entry; there a name may also be `c:<campaign>`, or `*` for all. `batch` is the last one that had
-- been claimed by then: as long as it or an earlier one is in flight, something may come back to wait.
--
-- Both are looked at where deliveries are claimed and once more before the POST, so they hold for whatever way a
-- delivery took there: from the intake, from its sleep, from a split, from a dead worker.

-- What is held and cancelled now, or nil (the usual case, for the price of one look).
local function load_holds()
  if redis.call('EXISTS', root .. 'held', root .. 'cancels') == 0 then return nil end
  local holds = { held = {}, cancels = {} }
  for _, name in ipairs(redis.call('HKEYS', root .. 'held')) do holds.held[name] = true end
  local fields = redis.call('HGETALL', root .. 'cancels')
  for i = 1, #fields, 2 do
    local ms, seq = string.match(fields[i + 1], '^(%d+)-(%d+) ')
    holds.cancels[fields[i]] = { tonumber(ms), tonumber(seq) }
  end
  return holds
end

-- Is this delivery (its JSON row, its campaign) held back or taken back?
local function is_held(holds, text, campaign)
  if holds.text ~= text then -- the deliveries of one recipient have the same row
    local row = cjson.decode(text)
    holds.text, holds.entry, holds.id = text, row[4], row[5]
  end
  local entry, id = holds.entry, holds.id
  local ms, seq = string.match(entry or '', '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  local names = { 't:' .. entry, 'c:' .. campaign, '*' }
  if type(id) == 'string' then names[4] = 'p:' .. id end
  for _, name in ipairs(names) do
    if holds.held[name] then return true end
    local bound = ms and holds.cancels[name]
    if bound and (ms < bound[1] or ms == bound[1] and seq <= bound[2]) then return true end
  end
  return false
end

-- Which of the deliveries ns (their cells) wait and are held: { [index] = true }.
local function held_among(holds, ns, cells, status)
  local found = {}
  runs(ns, function(segment, offset, first, last)
    local rows = redis.call('LRANGE', root .. 'seg:' .. segment .. ':rows', offset, offset + last - first)
    for i = first, last do
      if status_of(cells[i]) == status and rows[i - first + 1] then
        found[i] = is_held(holds, rows[i - first + 1], campaign_of(cells[i])) or nil
      end
    end
  end)
  return found
end

-- Makes those of the pending deliveries ns of group gid that are held back `held`; returns the cells as they are
-- now. A held one stands in no lane and no due slot: let_go.lua files it again. The caller flushes.
local function hold_back(holds, gid, ns, cells)
  local found, now_cells, listed, new, marked = held_among(holds, ns, cells, 'p'), {}, {}, {}, {}
  local numbers_held, old = {}, {}
  local updated = struct.pack('>I5', now - EPOCH)
  for i, cell in ipairs(cells) do
    if not found[i] then
      now_cells[i] = cell
    else
      -- The reason stays: it remembers whether an earlier attempt may have been sent. That it waited together with
      -- another delivery is over.
      local middle = reason_of(cell) == JOINED and struct.pack('>BI2I5', 0, 0, 0) or string.sub(cell, 2, 9)
      now_cells[i] = 'h' .. middle .. updated .. string.sub(cell, HEAD + 1)
      if not marked[ns[i]] then -- one that was sent again may be listed twice
        marked[ns[i]] = true
        listed[#listed + 1] = i
      end
    end
  end
  for k, i in ipairs(listed) do numbers_held[k], old[k], new[k] = ns[i], cells[i], now_cells[i] end
  write_cells(numbers_held, gid, old, new)
  return now_cells
end
