-- Joining: deliveries of one content for one person over several campaigns, enqueued apart, wait in one row and so
-- share their calls. Stands in front of accept.lua.
--
-- A new row looks for the person's waiting row of the same group, by the index of recipients. If nobody has touched
-- that one since it was accepted, both become one row in the lane of all their campaigns. The old row stays where
-- it is listed: the cells of a joined row say JOINED, how many deliveries the row has (in the field of the http
-- code) and one of them (in the field of the batch); in any other row they do not count (`belongs`, _lanes.lua).
--
-- Work for a chunk is bounded: of a bucket of the index the newest TAIL bytes are searched, and further back
-- only where the first rows of the chunk have found their people.

local TAIL, DEEP, SAMPLES, NEWEST = 16380, 262140, 16, 6
local ENTRY = 10

-- Cells and rows by number, read in blocks: people who come in the same order again are neighbours.
local blocks = { cells = {}, rows = {} }

local function peek_cell(n)
  local block = math.floor(n / 64)
  local text = blocks.cells[block]
  if not text then
    local first = block * 64 % SEG * CELL
    text = redis.call('GETRANGE', root .. 'seg:' .. math.floor(n / SEG) .. ':cells', first, first + 64 * CELL - 1)
    blocks.cells[block] = text
  end
  local at = n % 64 * CELL
  return string.sub(text, at + 1, at + CELL)
end

local function peek_row(n)
  local block = math.floor(n / 16)
  local rows = blocks.rows[block]
  if not rows then
    local first = block * 16 % SEG
    rows = redis.call('LRANGE', root .. 'seg:' .. math.floor(n / SEG) .. ':rows', first, first + 15)
    blocks.rows[block] = rows
  end
  return rows[n % 16 + 1]
end

-- What stands for a person in a row without its group: kind and value, as JSON.
local function who_of(row)
  local who = string.match(row, '^"%a","[^"\\]*"')
  if who then return who end
  local values = cjson.decode('[' .. row)
  return values[1] .. cjson.encode(values[2])
end

-- Do rows of the group wait (or sleep until `due` at least) that a row for `names` may join? 'all': for campaigns
-- that are none of them; 'some': if not all of them are left, the others being duplicates; else false.
local function others_wait(gid, names, due)
  local mine, kind, found = {}, due and 'sleeps' or 'lane', false
  for _, name in ipairs(names) do mine[name] = true end
  for _, field in ipairs(redis.call('HKEYS', root .. 'group:' .. gid)) do
    local what, campaigns = string.match(field, '^(%a+):([%d,]+)$')
    if what == kind then
      local shared = 0
      for name in string.gmatch(campaigns, '%d+') do shared = shared + (mine[name] and 1 or 0) end
      if shared < #names and (not due or tonumber(redis.call('HGET', root .. 'group:' .. gid, field)) >= due) then
        if shared == 0 then return 'all' end
        found = 'some'
      end
    end
  end
  return found
end

-- The row that was accepted with n as its first delivery, if it waits untouched and is for the person of `wish`:
-- its deliveries, their campaigns, and its mark (how many, with whom) if it has been joined.
local function untouched(n, wish)
  local cell = peek_cell(n)
  if cell == '' then return nil end
  local status = status_of(cell)
  if status ~= wish.status and status ~= 'd' then return nil end
  local text = peek_row(n)
  local values = text and cjson.decode(text)
  local expires = values and type(values[6]) == 'number' and values[6] or 0
  if not values or values[1] ~= tonumber(wish.gid) or expires ~= wish.expires
    or who_of(string.match(text, '^%[%d+,(.*)$')) ~= wish.who then
    return nil
  end
  local ns, names, mark, before = {}, {}, nil, 0
  while cell ~= '' and text == peek_row(n) do
    local campaign = tonumber(campaign_of(cell))
    if campaign <= before then break end
    before = campaign
    if status_of(cell) ~= 'd' then
      local own = string.sub(cell, 2, 9)
      local joined = reason_of(cell) == JOINED
      if status_of(cell) ~= wish.status or attempts_of(cell) > 0 or (mark and own ~= mark)
        or not (joined or own == '\0\0\0\0\0\0\0\0')
        or (wish.status == 's' and string.sub(cell, 22) ~= wish.first) then
        return nil
      end
      mark = own
      ns[#ns + 1] = n
      names[#names + 1] = campaign_of(cell)
    end
    n = n + 1
    cell = peek_cell(n)
  end
  if #ns == 0 then return nil end
  return ns, names, mark
end

local function lane_of(by_name)
  local names, ns = {}, {}
  for name in pairs(by_name) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tonumber(a) < tonumber(b) end)
  for i, name in ipairs(names) do ns[i] = by_name[name] end
  return table.concat(names, ','), ns
end

-- The person's rows among these deliveries, those that were joined before put together again.
local function rows_among(found, wish)
  local sets, order = {}, {}
  for _, n in ipairs(found) do
    local ns, names, mark = untouched(n, wish)
    if ns then
      local joined = string.byte(mark, 1) == JOINED
      local key = joined and mark or n
      if not sets[key] then
        sets[key] = { by = {}, count = 0, old = {}, whole = joined and struct.unpack('>I2', string.sub(mark, 2, 3)) or #ns }
        order[#order + 1] = sets[key]
      end
      local set = sets[key]
      for i, name in ipairs(names) do
        set.count = set.count + 1
        set.by[name] = ns[i]
        set.old[#set.old + 1] = ns[i]
      end
    end
  end
  local rows = {}
  for _, set in ipairs(order) do
    -- Of one that was joined all must have been found: else nobody knows in which lane its row is.
    if set.count == set.whole then
      set.lane = lane_of(set.by)
      rows[#rows + 1] = set
    end
  end
  return rows
end

-- Deliveries that the index names for `wish`, oldest first, the NEWEST of them; between so many and so many
-- bytes before the end of its bucket. Also how far from the end the first of them is.
local texts = {}
local function indexed(wish, from, to)
  local name = wish.day .. ':' .. string.byte(wish.hash, 1)
  local key = name .. ' ' .. from .. ' ' .. to
  local text = texts[key]
  if not text then
    text = redis.call('GETRANGE', root .. 'ix:' .. name, -from, -to - 1)
    if wish.status == 'p' and to == 0 and #text < from then -- the day is young
      text = redis.call('GETRANGE', root .. 'ix:' .. (wish.day - 1) .. ':' .. string.byte(wish.hash, 1), -(from - #text), -1)
        .. text
    end
    texts[key] = text
  end
  local found, mark, depths = {}, string.sub(wish.hash, 2, 5), {}
  local at = string.find(text, mark, 1, true)
  while at do
    if at % ENTRY == 1 then
      found[#found + 1] = struct.unpack('>I6', string.sub(text, at + 4, at + 9))
      depths[#depths + 1] = to + #text - at + 1
    end
    at = string.find(text, mark, at + 1, true)
  end
  local newest = {}
  for i = math.max(1, #found - NEWEST + 1), #found do newest[#newest + 1] = found[i] end
  return newest, depths[math.max(1, #found - NEWEST + 1)] or 0
end

-- Rows of the chunk, whatever their contents, for which the index has been searched deep.
local sampled = 0

-- The waiting rows that `wish` may join. `reach` remembers, for its group, how far back people were found.
local function seek(wish, reach)
  if reach.samples < SAMPLES and sampled < 2 * SAMPLES then
    reach.samples, sampled = reach.samples + 1, sampled + 1
    local found, depth = indexed(wish, DEEP, 0)
    local rows = rows_among(found, wish)
    if #rows > 0 and depth > TAIL then
      reach.far, reach.near = math.max(reach.far or 0, depth), math.min(reach.near or DEEP, depth)
    end
    return rows
  end
  local rows = rows_among(indexed(wish, TAIL, 0), wish)
  if #rows > 0 or not reach.far then return rows end
  local from, to = math.min(DEEP, reach.far + TAIL), math.max(TAIL, reach.near - TAIL)
  return rows_among(indexed(wish, from - from % ENTRY, to - to % ENTRY), wish)
end

-- Makes rows of `wishes`: new rows of people whose other deliveries may wait. Each is { gid, status, due, expires,
-- first, day, hash, who, scan, ns, names }. A wish with `scan` also looks among what waits already.
-- Result: rows { gid, due, campaigns, ns, mark (of their cells, or nil), old (deliveries whose cells must be
-- marked) } to be filed in this order, and how many rows of which lane wait no longer: { [gid] = { [campaigns] = n } }
local function join(wishes)
  local people, made, left, reaches = {}, {}, {}, {}
  for _, wish in ipairs(wishes) do
    local key = wish.gid .. ' ' .. (wish.due or 0) .. ' ' .. wish.expires .. ' ' .. wish.who
    local theirs = people[key]
    if not theirs then
      theirs = {}
      if wish.scan then
        reaches[wish.gid] = reaches[wish.gid] or { samples = 0 }
        theirs = seek(wish, reaches[wish.gid])
      end
      people[key] = theirs
    end
    local row
    for _, other in ipairs(theirs) do
      local apart = true
      for _, name in ipairs(wish.names) do apart = apart and not other.by[name] end
      if apart then
        row = other
        break
      end
    end
    if not row then
      row = { by = {}, count = 0 }
      theirs[#theirs + 1] = row
    end
    row.parts = (row.parts or 0) + 1
    if row.parts == 1 then
      row.gid, row.due = wish.gid, wish.due
      made[#made + 1] = row
    end
    for i, name in ipairs(wish.names) do
      row.by[name] = wish.ns[i]
      row.count = row.count + 1
    end
  end
  for _, row in ipairs(made) do
    row.campaigns, row.ns = lane_of(row.by)
    if row.old or row.parts > 1 then
      row.mark = mark_of(row.ns)
      if row.old and not row.due then
        left[row.gid] = left[row.gid] or {}
        left[row.gid][row.lane] = (left[row.gid][row.lane] or 0) + 1
      end
    end
  end
  return made, left
end

-- Marks the cells of deliveries whose row has been joined: { [delivery] = mark }.
local function mark_cells(marks)
  local ns = {}
  for n in pairs(marks) do ns[#ns + 1] = n end
  table.sort(ns)
  local cells = {}
  for i, n in ipairs(ns) do
    local cell = peek_cell(n)
    cells[i] = string.sub(cell, 1, 1) .. marks[n] .. string.sub(cell, 10)
  end
  runs(ns, function(segment, offset, first, last)
    redis.call('SETRANGE', root .. 'seg:' .. segment .. ':cells', offset * CELL, table.concat(cells, '', first, last))
  end)
end
