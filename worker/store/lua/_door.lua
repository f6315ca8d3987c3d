-- The door: what may be sent now, and what is next. Stands in front of every script, behind _lanes.lua.
--
-- What may be sent. `paused` (a set) is an operator's word; `parked` (a hash: campaign or * -> JSON) is what the
-- API's refusals have taught: nothing goes there before `until`, then one small probe at a time (`probes`: name
-- -> end of its lease). `door` (a hash) holds how many permits may be used now and until when none may.

-- How many permits may be used: all that the account has, or fewer while others use its slots.
local function permits_now(most)
  return math.min(most, tonumber(redis.call('HGET', root .. 'door', 'limit') or most))
end

local function load_paused()
  local paused = {}
  for _, name in ipairs(redis.call('SMEMBERS', root .. 'paused')) do paused[name] = true end
  return paused
end

local function load_parks()
  local parks = {}
  local fields = redis.call('HGETALL', root .. 'parked')
  for i = 1, #fields, 2 do parks[fields[i]] = cjson.decode(fields[i + 1]) end
  return parks
end

-- 'open', 'shut', 'probe' (one small call may try it) or 'drop' (ends rejected without a call).
local function state_of(name, paused, parks)
  if paused[name] then return 'shut' end
  local park = parks[name]
  if not park then return 'open' end
  if park['until'] <= now and tonumber(redis.call('HGET', root .. 'probes', name) or '0') <= now then return 'probe' end
  return park.drop and 'drop' or 'shut'
end

-- Splitting never takes all permits.
local function may_split(most)
  return redis.call('ZCOUNT', root .. 'splitting', '(' .. now, '+inf') < math.max(1, permits_now(most) - 1)
end

-- The work whose turn it is, or nil: { priority, flow, open, shut (lists of campaigns), probe (a name or nil),
-- drop (true when the open ones are to end without a call) }.
--
-- Priorities go strictly before each other, but for two rules. Aging: one that has waited for `aging` ms without a
-- call goes first once. Reserve: bulk leaves so many permits to the others.
local function next_work(most, reserve, aging)
  local paused = load_paused()
  if tonumber(redis.call('HGET', root .. 'door', 'hold') or '0') > now then return nil end
  local parks = load_parks()
  local account = state_of('*', paused, parks)
  if account ~= 'open' and account ~= 'probe' then return nil end
  local parts -- for a probe when there is nothing else: claim_part.lua puts them back into their lane first
  local order = { 'u', 'n', 'b' }
  for _, late in ipairs({ 'n', 'b' }) do
    local served = tonumber(redis.call('HGET', root .. 'turns', 'served:' .. late) or '0')
    if now - served > aging and redis.call('EXISTS', root .. 'ready:' .. late) == 1 then table.insert(order, 1, late) end
  end
  local held = redis.call('ZCOUNT', root .. 'permits', '(' .. now, '+inf')
  local for_bulk = math.max(1, permits_now(most) - reserve)
  for _, priority in ipairs(order) do
    local flows = {}
    if priority ~= 'b' or held <= for_bulk then flows = redis.call('ZRANGE', root .. 'ready:' .. priority, 0, -1) end
    for _, flow in ipairs(flows) do
      if flow == 'split' then
        if account == 'open' and may_split(most) then
          return { priority = priority, flow = flow }
        elseif account == 'probe' then
          parts = parts or { priority = priority, flow = flow }
        end
      else
        local by = { open = {}, shut = {}, probe = {}, drop = {} }
        for _, name in ipairs(words(flow)) do table.insert(by[state_of(name, paused, parks)], name) end
        local found = { priority = priority, flow = flow, shut = by.shut }
        local function shut(list, from)
          for i = from, #list do table.insert(found.shut, list[i]) end
        end
        if #by.open > 0 then
          shut(by.probe, 1)
          shut(by.drop, 1)
          found.probe = account == 'probe' and '*' or nil
          return found
        elseif #by.probe > 0 and account == 'open' then
          shut(by.probe, 2)
          shut(by.drop, 1)
          found.probe = by.probe[1]
          return found
        elseif #by.drop > 0 then
          shut(by.probe, 1)
          found.drop = true
          return found
        end
      end
    end
  end
  return parts
end
