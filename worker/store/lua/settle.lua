-- Settles a batch: each of its deliveries gets its fate, all in one step.
--
-- KEYS  1 root
-- ARGV  1 batch  2 token  3 http code  4 vendor's text ('' for none)  5 retention (ms)
--       6 budget of calls for splitting  7 how to split: '' (not), 'recipients' or 'campaigns'
--       8 fates F, then F x { status letter, reason, attempts added (0 or 1), due in ms (-1: none) }
--       then assignment: one byte for each delivery of the batch (1 = first fate), or one byte for all
--       then { delivery, dedupe digest } pairs whose keys are freed
-- Result 1, or 0 when the batch was taken over or settled already: then nothing changes
--
-- A batch that was only claimed can be settled too: its holder has not sent it and will not, so none of its
-- deliveries can become accepted, and unknown only those that an earlier attempt may have sent.
-- To split it, its fates are pending ones: its two halves become parts of a splitting job.

local batch, token, http, text, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local key = root .. 'batch:' .. batch
local held = redis.call('HMGET', key, 'state', 'token', 'gid', 'spans', 'campaigns', 'job', 'charged', 'rows')
if not held[1] or held[2] ~= token then return 0 end
local gid, ns, campaigns, job = held[3], deliveries_of(held[4], held[8]), words(held[5]), held[6] or ''
local how = ARGV[7]

local fates, at, unsure = {}, 9, false
for i = 1, tonumber(ARGV[8]) do
  local status = ARGV[at]
  if held[1] ~= 'wire' and status == 'a' then return 0 end
  fates[i] = { status = status, counted = tonumber(ARGV[at + 2]), due = tonumber(ARGV[at + 3]),
    head = head(status, tonumber(ARGV[at + 1]), http, tonumber(batch)) }
  -- It is tried again though this attempt may have been sent.
  unsure = unsure or LIVE[status] and fates[i].counted > 0 and MAYBE_SENT[tonumber(ARGV[at + 1])]
  at = at + 4
end
local assignment = ARGV[at]
local uniform = #assignment == 1

local width = #campaigns
local waiting, order = {}, {}
if uniform and (held[1] == 'wire' or fates[string.byte(assignment)].status ~= 'u') then
  local fate, rows = fates[string.byte(assignment)], {}
  write_strips(ns, width, gid, read_strips(ns, width), function(cell)
    return fate.head .. tail_after(cell, fate.counted)
  end)
  if LIVE[fate.status] and how == '' then
    for first = 1, #ns, width do rows[#rows + 1] = row_of({ unpack(ns, first, first + width - 1) }) end
    order[1] = { fate = fate, campaigns = held[5], rows = rows }
  end
else
  local old, new = read_cells(ns), {}
  for first = 1, #ns, width do
    local kept = {} -- fate -> { deliveries, campaigns } of this recipient that go on waiting by it
    for i = first, first + width - 1 do
      local number = string.byte(assignment, uniform and 1 or i)
      local fate = fates[number]
      if held[1] ~= 'wire' and fate.status == 'u' and not MAYBE_SENT[reason_of(old[i])] then return 0 end
      new[i] = fate.head .. tail_after(old[i], fate.counted)
      if LIVE[fate.status] and how == '' then
        kept[number] = kept[number] or { {}, {} }
        table.insert(kept[number][1], ns[i])
        table.insert(kept[number][2], campaigns[i - first + 1])
      end
    end
    for number, part in pairs(kept) do
      local names = table.concat(part[2], ',')
      local name = number .. ' ' .. names
      if not waiting[name] then
        waiting[name] = { fate = fates[number], campaigns = names, rows = {} }
        order[#order + 1] = waiting[name]
      end
      table.insert(waiting[name].rows, row_of(part[1]))
    end
  end
  write_cells(ns, gid, old, new)
end
for _, lane in ipairs(order) do
  if lane.fate.due < 0 then file(gid, lane.campaigns, lane.rows)
  else sleep_rows(gid, lane.campaigns, lane.rows, now + lane.fate.due) end
end
for i = at + 1, #ARGV, 2 do free_key(ARGV[i + 1], tonumber(ARGV[i])) end
if how == '' and not unsure then recall_charge(batch, held[7], campaigns) end
flush(retention)

if job ~= '' and held[1] == 'wire' then
  redis.call('HINCRBY', root .. 'job:' .. job, 'calls', 1)
end
if held[1] == 'wire' then redis.call('HDEL', root .. 'group:' .. gid, 'crashes') end
drop_batch(batch)
if text ~= '' then
  redis.call('SET', root .. 'said:' .. batch, text, 'PX', retention)
end
if how == '' then return 1 end

-- Two parts: of the campaigns, or of the recipients.
if job == '' then
  job = redis.call('HINCRBY', root .. 'next', 'job', 1)
  redis.call('HSET', root .. 'job:' .. job, 'calls', 0, 'budget', ARGV[6])
  redis.call('PEXPIRE', root .. 'job:' .. job, retention)
end
local function part(first_row, last_row, first_column, last_column)
  local rows = {}
  for row = first_row, last_row do
    local base = (row - 1) * width
    rows[#rows + 1] = row_of({ unpack(ns, base + first_column, base + last_column) })
  end
  return job .. ' ' .. gid .. ' ' .. table.concat(campaigns, ',', first_column, last_column) .. ' '
    .. table.concat(rows, ' ')
end
local height, parts = #ns / width, nil
if how == 'campaigns' then
  local middle = math.ceil(width / 2)
  parts = { part(1, height, 1, middle), part(1, height, middle + 1, width) }
else
  -- The first part is the greatest power of two: b bad ones among n are then found within
  -- 2 b log2(n/b) + 2 b + 1 calls whatever n is, which equal halves miss by a few (10 with 2 bad: 15 calls).
  local middle = 1
  while middle * 2 < height do middle = middle * 2 end
  parts = { part(1, middle, 1, width), part(middle + 1, height, 1, width) }
end
local priority = redis.call('HGET', root .. 'group:' .. gid, 'priority')
redis.call('LPUSH', root .. 'split:' .. priority, parts[2], parts[1])
make_ready(priority, 'split')
return 1
