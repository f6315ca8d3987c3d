-- Claims a part of a batch that was refused and is being split.
--
-- KEYS  1 root          ARGV  1 permit token  2 priority letter  3 charge  4 retention (ms)  5 permits
--                       6 rules
-- Result as claim.lua, and behind it { job, calls of the job so far, its budget };
--        'LOST' when the permit has lapsed, 'NONE' when there was none (look again)
--
-- `split:<priority>` lists the parts, deepest first: "job gid campaigns row row ...". Deliveries that ended
-- meanwhile are left out. A part whose campaigns may not be sent now goes back to its lane. Of the rules, quiet
-- hours and the pace of calls hold for it: its recipients have been counted with the batch.

local token, priority, retention = ARGV[1], ARGV[2], tonumber(ARGV[4])
local lease = tonumber(redis.call('ZSCORE', root .. 'permits', token) or '0')
if lease <= now then return 'LOST' end

use_rules(ARGV[6])
if not may_split(tonumber(ARGV[5])) or rules and rules.account_room() < 1 then return 'NONE' end
local key = root .. 'split:' .. priority
local part = redis.call('LPOP', key)
if redis.call('EXISTS', key) == 0 then redis.call('ZREM', root .. 'ready:' .. priority, 'split') end
if not part then return 'NONE' end

local job, gid, campaigns, text = string.match(part, '^(%d+) (%d+) ([%d,]+) (.+)$')
local names, rows, all = words(campaigns), {}, {}
for row in string.gmatch(text, '[%d,]+') do
  rows[#rows + 1] = row_numbers(row, #names)
  for _, n in ipairs(rows[#rows]) do all[#all + 1] = n end
end
local paused, parks = load_paused(), load_parks()
local open = state_of('*', paused, parks) == 'open'
for _, name in ipairs(names) do open = open and state_of(name, paused, parks) == 'open' end

local cells, ns, old, left, at = read_cells(all), {}, {}, {}, 0
local holds = load_holds()
if holds then cells = hold_back(holds, gid, all, cells) end
for _, row in ipairs(rows) do
  local waiting, waiting_names = {}, {}
  for j, n in ipairs(row) do
    if status_of(cells[at + j]) == 'p' then
      waiting[#waiting + 1] = j
      waiting_names[#waiting_names + 1] = names[j]
    end
  end
  if open and #waiting == #names then
    for _, n in ipairs(row) do ns[#ns + 1] = n end
    old[#old + 1] = table.concat(cells, '', at + 1, at + #row)
  elseif #waiting > 0 then
    local kept = {}
    for i, j in ipairs(waiting) do kept[i] = row[j] end
    local name = table.concat(waiting_names, ',')
    left[name] = left[name] or {}
    table.insert(left[name], row_of(kept))
  end
  at = at + #row
end
for name, some in pairs(left) do file(gid, name, some) end
if #ns == 0 then
  flush(retention)
  return 'NONE'
end

local batch, new = make_batch(ns, old, gid, campaigns, token, lease, job)
charge_turn(priority, 'split', tonumber(ARGV[3]))
if rules then rules.charge(names) end
flush(retention)
local answer = tell(batch, gid, campaigns, ns, new)
local calls = redis.call('HMGET', root .. 'job:' .. job, 'calls', 'budget')
answer[8], answer[9], answer[10] = tonumber(job), tonumber(calls[1] or '0'), tonumber(calls[2] or '0')
return answer
