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

-- How many recipients each campaign that state_of() found open may have in the next call.
local rooms = {}

-- 'open', 'shut', 'probe' (one small call may try it) or 'drop' (ends rejected without a call). `rows()` is how many
-- recipients want to go; without it (a part of a refused batch) quiet hours alone can shut a campaign. A probe is a
-- call too: guards and canaries hold it, and then nothing is dropped either. What is shut for a time only says so
-- to later().
local function state_of(name, paused, parks, rows)
  if paused[name] then return 'shut' end
  local park, rule = parks[name], nil
  if rules and name ~= '*' then rule = rules.of(name) end
  rooms[name] = nil
  if rule then
    local m = rules.measure(name, rule)
    if m.quiet then
      later(m.quiet)
      return 'shut'
    end
    if rows and park and m.room < 1 then
      later(m.when)
      return 'shut'
    end
    if rows and not park then
      local room, when = rules.campaign_room(name, rule, rows)
      if room < 1 then
        later(when)
        return 'shut'
      end
      if room < FAR then rooms[name] = room end
    end
  end
  if not park then return 'open' end
  if park['until'] <= now and tonumber(redis.call('HGET', root .. 'probes', name) or '0') <= now then return 'probe' end
  return park.drop and 'drop' or 'shut'
end

-- Splitting never takes all permits.
local function may_split(most)
  return redis.call('ZCOUNT', root .. 'splitting', '(' .. now, '+inf') < math.max(1, permits_now(most) - 1)
end

-- The work whose turn it is, or nil: { priority, flow, open, shut (lists of campaigns), probe (a name or nil),
-- drop (true when the open ones are to end without a call), room (most recipients of the call, nil: any number),
-- linger (see linger_of(), or nil) }. With nil, `soonest` is when there may be some without anything else happening.
--
-- Priorities go strictly before each other, but for two rules. Aging: one that has waited for `aging` ms without a
-- call goes first once. Reserve: bulk leaves so many permits to the others. A flow that waits for a rule of its
-- campaigns is passed over; when the account's pace says no, nothing else takes what the first in turn waits for.
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
          local room, when = FAR, nil
          if rules then room, when = rules.account_room() end
          if room < 1 then
            soonest = when
            return nil
          end
          return { priority = priority, flow = flow }
        elseif account == 'probe' then
          parts = parts or { priority = priority, flow = flow }
        end
      else
        local by = { open = {}, shut = {}, probe = {}, drop = {} }
        local rows = rules and function() return rules.fullest(priority, flow) end
        for _, name in ipairs(words(flow)) do table.insert(by[state_of(name, paused, parks, rows)], name) end
        local found = { priority = priority, flow = flow, shut = by.shut }
        local function shut(list, from)
          for i = from, #list do table.insert(found.shut, list[i]) end
        end
        if rules and #by.open > 0 and account == 'open' then
          found.linger = rules.linger_of(priority, flow, by.open)
        end
        if found.linger and found.linger.first > now then
          later(found.linger.first)
        elseif #by.open > 0 or #by.probe > 0 and account == 'open' then
          local probing = #by.open == 0 or account == 'probe'
          local room, at = FAR, nil
          if rules then room, at = rules.account_room(not probing and rows or nil) end
          if room < 1 then
            soonest = at
            return nil
          end
          for _, name in ipairs(by.open) do room = math.min(room, rooms[name] or FAR) end
          if room < FAR then found.room = room end
          shut(by.probe, #by.open > 0 and 1 or 2)
          shut(by.drop, 1)
          if probing then found.probe = #by.open > 0 and '*' or by.probe[1] end
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
