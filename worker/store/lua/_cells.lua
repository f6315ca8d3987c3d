-- Deliveries: where each one is, what it is, and how many there are. Stands in front of every script.
--
-- KEYS[1] is always the account's root, `volley:{<account>}:`. Segments, lanes and batches are named by
-- numbers that only Redis knows, so their keys are derived from the root here; all of them carry its hash
-- tag and so live in its slot. keys.py is the same list for Python.
--
-- A delivery is a number n. Its cell (26 bytes, big endian) is the one place that says where it is; lanes,
-- due slots and batches only refer to n and are checked against the cell when they are used. So a stale
-- reference is harmless, and a delivery can't be in two places.
--
--   head   status 1, reason 1, http 2, batch 5 (for a duplicate: the first delivery), updated 5
--          (of one that waits and is JOINED: http is the length of its row, batch is one delivery in it)
--   tail   attempts 1, campaign 6, first 5 (when it was accepted or its send_at; once tried, its first attempt)
--
-- Cells and rows are kept in segments of 1024: `seg:<k>:cells` (a string), `seg:<k>:rows` (a list of JSON
-- rows), `seg:<k>` (a hash: `<campaign>:<status>` -> count, `live` -> count). Times in cells are
-- milliseconds since 2020-01-01 of the server's clock.

local root = KEYS[1]
-- The layout that these scripts write (schema.py).
local LAYOUT = '2'
local CELL, HEAD, SEG, EPOCH = 26, 14, 1024, 1577836800000
-- Reasons of a delivery whose message may be out (core/retry.py has the same list): it is never recorded as not
-- sent, and its dedupe key is kept.
local MAYBE_SENT = { [12] = true, [13] = true, [14] = true }
-- The reason of a delivery that waits in one row with later ones of the same content and person (_joining.lua).
local JOINED = 24
local LIVE = { s = true, p = true, i = true, r = true, h = true }

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function head(status, reason, http, batch)
  return status .. struct.pack('>BI2I5I5', reason, http, batch, now - EPOCH)
end

local function status_of(cell) return string.sub(cell, 1, 1) end
local function batch_of(cell) return struct.unpack('>I5', string.sub(cell, 5, 9)) end
local function attempts_of(cell) return string.byte(cell, 15) end
local function reason_of(cell) return string.byte(cell, 2) end
local function campaign_of(cell) return string.format('%.0f', struct.unpack('>I6', string.sub(cell, 16, 21))) end
-- Tail of a cell after an attempt that counts.
local function tail_after(cell, counted)
  if counted == 0 then return string.sub(cell, HEAD + 1) end
  return string.char(math.min(255, attempts_of(cell) + counted)) .. string.sub(cell, HEAD + 2)
end

-- Calls visit(item, item, ...) for pieces of a list that fit Lua's stack; an even number of items to a piece.
local function in_pieces(items, visit)
  for first = 1, #items, 4000 do visit(unpack(items, first, math.min(first + 3999, #items))) end
end

-- Numbers of deliveries as text, decimal and in six bytes. Those of one script are near each other, so most of the
-- text is that of the one before; formatting every one of them would take a tenth of accepting.
local tens, tens_text, digits = nil, nil, {}
local function decimal(n)
  local low = n % 100
  local high = (n - low) / 100
  if high == 0 then return string.format('%.0f', low) end
  if high ~= tens then tens, tens_text = high, string.format('%.0f', high) end
  if not digits[low] then digits[low] = string.format('%02d', low) end
  return tens_text .. digits[low]
end

local bytes, bytes_text, chars = nil, nil, {}
local function packed(n)
  local low = n % 256
  local high = (n - low) / 256
  if high ~= bytes then bytes, bytes_text = high, struct.pack('>I5', high) end
  if not chars[low] then chars[low] = string.char(low) end
  return bytes_text .. chars[low]
end

-- Calls visit(segment, offset, first, last) for each run ns[first..last] of neighbours in one segment.
local function runs(ns, visit)
  local first, count = 1, #ns
  while first <= count do
    local last, n = first, ns[first]
    local offset = n % SEG
    local border = math.min(count, first + SEG - 1 - offset)
    while last < border and ns[last + 1] == n + 1 do
      last = last + 1
      n = n + 1
    end
    visit((ns[first] - offset) / SEG, offset, first, last)
    first = last + 1
  end
end

-- The cells of the deliveries ns, in that order; '' where there is none (any more).
local function read_cells(ns)
  local cells = {}
  runs(ns, function(segment, offset, first, last)
    local text = redis.call('GETRANGE', root .. 'seg:' .. segment .. ':cells',
      offset * CELL, (offset + last - first + 1) * CELL - 1)
    for i = first, last do cells[i] = string.sub(text, (i - first) * CELL + 1, (i - first + 1) * CELL) end
  end)
  return cells
end

local function no_delivery(count) return string.rep('\0', count * CELL) end

-- Calls visit(row, first, last) for each of the rows of `width` deliveries that ns[first..last] has a part in.
local function rows_in(first, last, width, visit)
  while first <= last do
    local row = math.ceil(first / width)
    local stop = math.min(row * width, last)
    visit(row, first, stop)
    first = stop + 1
  end
end

-- The cells of rows of `width` deliveries, those of each row as one text (zeros where there is none any more):
-- rows that were accepted together are equal, and what is done to one of them is known for all.
local function read_strips(ns, width)
  local strips = {}
  runs(ns, function(segment, offset, first, last)
    local count = last - first + 1
    local text = redis.call('GETRANGE', root .. 'seg:' .. segment .. ':cells', offset * CELL, (offset + count) * CELL - 1)
    if #text < count * CELL then text = text .. string.sub(no_delivery(count), #text + 1) end
    rows_in(first, last, width, function(row, from, to)
      local part = string.sub(text, (from - first) * CELL + 1, (to - first + 1) * CELL)
      strips[row] = strips[row] and strips[row] .. part or part
    end)
  end)
  return strips
end

-- The cells of a strip, with change(cell) in the place of each.
local function change_strip(strip, change)
  local cells = {}
  for at = 1, #strip, CELL do cells[#cells + 1] = change(string.sub(strip, at, at + CELL - 1)) end
  return table.concat(cells)
end

-- The JSON rows of a batch, for each recipient: one when its `width` deliveries have the same, else a list of all.
local function read_rows(ns, width)
  local texts, rows = {}, {}
  runs(ns, function(segment, offset, first, last)
    local some = redis.call('LRANGE', root .. 'seg:' .. segment .. ':rows', offset, offset + last - first)
    for i = first, last do texts[i] = some[i - first + 1] end
  end)
  if width == 1 then return texts end
  for first = 1, #ns, width do
    local text, same = texts[first], true
    for i = first + 1, first + width - 1 do same = same and texts[i] == text end
    rows[#rows + 1] = same and text or { unpack(texts, first, first + width - 1) }
  end
  return rows
end

-- What the deliveries of this script add to counters, written once at its end by flush().
local moved, lives = {}, {}

-- The counter of a cell; most cells of a script are equal to others.
local counters = {}
local function counter_of(cell)
  local name = counters[cell]
  if not name then
    name = string.sub(cell, 16, 21) .. string.sub(cell, 1, 1)
    counters[cell] = name
  end
  return name
end

local function count(segment, gid, cell, by)
  local of_segment = moved[segment]
  if not of_segment then of_segment = {}; moved[segment] = of_segment end
  local key = counter_of(cell)
  of_segment[key] = (of_segment[key] or 0) + by
  if LIVE[string.sub(key, 7)] then
    of_segment.live = (of_segment.live or 0) + by
    lives[gid] = (lives[gid] or 0) + by
  end
end

-- Replaces the cells of the deliveries ns of group gid. new[i] == nil leaves a cell alone.
local function write_cells(ns, gid, old, new)
  local changed, cells, k = {}, {}, 0
  for i = 1, #ns do
    local cell = new[i]
    if cell then
      k = k + 1
      changed[k], cells[k] = ns[i], cell
      if counter_of(old[i]) ~= counter_of(cell) then
        local segment = math.floor(ns[i] / SEG)
        count(segment, gid, old[i], -1)
        count(segment, gid, cell, 1)
      end
    end
  end
  runs(changed, function(segment, offset, first, last)
    redis.call('SETRANGE', root .. 'seg:' .. segment .. ':cells', offset * CELL,
      table.concat(cells, '', first, last))
  end)
end

-- Replaces the cells of rows of `width` deliveries of group gid by change(cell), which must not ask for more than
-- the cell: equal rows are changed once. Returns the new strips.
local function write_strips(ns, width, gid, old, change)
  local new, changed = {}, {}
  for row, strip in ipairs(old) do
    local made = changed[strip]
    if not made then
      made = change_strip(strip, change)
      changed[strip] = made
    end
    new[row] = made
  end
  local text = table.concat(new)
  runs(ns, function(segment, offset, first, last)
    redis.call('SETRANGE', root .. 'seg:' .. segment .. ':cells', offset * CELL,
      string.sub(text, (first - 1) * CELL + 1, last * CELL))
    local function count_part(strip, made, from, to, times)
      for at = from * CELL + 1, to * CELL, CELL do
        count(segment, gid, string.sub(strip, at, at + CELL - 1), -times)
        count(segment, gid, string.sub(made, at, at + CELL - 1), times)
      end
    end
    local whole = {}
    rows_in(first, last, width, function(row, from, to)
      local strip = old[row]
      if to - from + 1 == width then
        whole[strip] = (whole[strip] or 0) + 1
      else
        local base = (row - 1) * width
        count_part(strip, new[row], from - base - 1, to - base, 1)
      end
    end)
    for strip, times in pairs(whole) do count_part(strip, changed[strip], 0, width, times) end
  end)
  return new
end
