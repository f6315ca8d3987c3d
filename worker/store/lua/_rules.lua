-- Rules: when campaigns and the account may be called, and for how many recipients. Stands in front of every
-- script, behind _cells.lua.
--
-- The rules come as text with each call (store/rules.py makes it): '' when there are none, which costs nothing;
-- else a line for each name, "name JSON". `*` is the account: f recipients of a full call, c calls a second,
-- r recipients a second. A campaign, or `-` for all without a line of their own: q quiet hours ([from, until) in
-- ms, several), p recipients an hour, l linger (ms), h and d guards (recipients in any hour and any day),
-- n canary, w its wait (ms; without it an operator's word is waited for).
--
-- Paces are GCRA by the server's clock: `pace` (a hash) holds for each the time at which its bucket is full again.
-- In any t seconds at most rate * (t + window) + 1 are begun; the window is 1/4 s for calls, 1 s for recipients a
-- second, 1 min for recipients an hour. A call takes at most what the bucket holds, and waits for half of a full
-- one rather than taking less than it could: so calls stay large, and one that comes late loses nothing.
--
-- Guards count exactly over any hour and any day, on the safe side: `guards` (a hash) holds, as <campaign>:h and
-- <campaign>:d, counts by buckets of 30 s and 12 min, and a bucket counts until all of it is out of the window.
-- A batch that was counted says when (`charged`); what of it surely was not sent is taken off that bucket, if it
-- still counts, and what of it was let beyond a guard (`beyond:<campaign>`) is allowed again. What may have been
-- sent stays counted, though it is sent again. Parts of a refused batch stay counted with it, and are not counted
-- again. A canary counts in <campaign>:sent; its run ends when nothing of the campaign is pending or in flight.

local FAR = 1e15
-- When something may be sent that waits for time alone (ms), as far as has been looked.
local soonest
-- Set where a batch ends that guards and canaries have counted (recall_charge()): { at (when that was, ms), batch
-- (its key), beyond (campaign -> { how many an allowance let beyond its guards, until when it held (ms) }) }.
local charged
-- The rules of this call; nil when there are none, and then nothing of this file is even built.
local rules

local function later(ms)
  if ms and (not soonest or ms < soonest) then soonest = ms end
end

local function make_rules(rules_text)
  local GUARDS = { h = { span = 3600000, size = 30000 }, d = { span = 86400000, size = 720000 } }

  local rule_memo, measured, paces, fullest_memo = {}, {}, {}, {}

  local function rule_line(name)
    local _, from = string.find(rules_text, '\n' .. name .. ' ', 1, true)
    return from and cjson.decode(string.sub(rules_text, from + 1, string.find(rules_text, '\n', from + 1, true) - 1))
  end

  -- The rule of a campaign (or of the account, `*`), or nil.
  local function rule_of(name)
    local rule = rule_memo[name]
    if rule == nil then
      rule = rule_line(name) or name ~= '*' and rule_line('-')
      rule = rule and next(rule) and rule or false
      rule_memo[name] = rule
    end
    return rule or nil
  end

  -- The bucket of a pace: `rate` a millisecond, as much as comes in `window` ms and one more.
  local function pace_of(name, rate, window)
    local pace = paces[name]
    if not pace then
      local full = math.max(now, tonumber(redis.call('HGET', root .. 'pace', name) or '0'))
      local burst = 1 + rate * window
      pace = { name = name, rate = rate, full = full, half = math.max(1, math.floor(burst / 2)),
        tokens = burst - (full - now) * rate }
      paces[name] = pace
    end
    return pace
  end

  local function calls_pace(rule) return pace_of('calls', rule.c / 1000, 250) end
  local function recipients_pace(rule) return pace_of('recipients', rule.r / 1000, 1000) end
  local function hour_pace(name, rule) return pace_of(name, rule.p / 3600000, 60000) end

  -- How many may be taken now of the `rows()` that want to be, and if none, when.
  local function pace_room(pace, rows)
    local have = math.floor(pace.tokens + 0.001)
    if have < pace.half then
      local want = math.max(1, math.min(pace.half, rows()))
      if have < want then return 0, now + math.ceil((want - pace.tokens) / pace.rate) end
    end
    return have
  end

  local function charge_pace(pace, count)
    pace.full = pace.full + count / pace.rate
    pace.tokens = pace.tokens - count
    redis.call('HSET', root .. 'pace', pace.name, string.format('%.17g', pace.full))
  end

  local function one() return 1 end

  -- Buckets of a guard that still count, oldest first, and their sum.
  local function buckets_of(name, kind)
    local guard, list, used = GUARDS[kind], {}, 0
    local text = redis.call('HGET', root .. 'guards', name .. ':' .. kind) or ''
    for at = 1, #text, 9 do
      local bucket, count = struct.unpack('>I5I4', text, at)
      if (bucket + 1) * guard.size > now - guard.span then
        list[#list + 1] = { bucket, count }
        used = used + count
      end
    end
    return list, used
  end

  local function write_buckets(name, kind, list)
    local packed = {}
    for i, each in ipairs(list) do packed[i] = struct.pack('>I5I4', each[1], each[2]) end
    redis.call('HSET', root .. 'guards', name .. ':' .. kind, table.concat(packed))
  end

  -- How many an operator has allowed beyond the guards, for a day from then on.
  local function allowance_of(name)
    local value = redis.call('HGET', root .. 'guards', name .. ':more')
    if not value then return 0 end
    local more, ends = string.match(value, '^(%d+) (%d+)$')
    return tonumber(ends) > now and tonumber(more) or 0
  end

  -- How a campaign stands by its rule: quiet (until when); room, the most recipients that canary and guards let
  -- through now, with the reason (why, count, of) and the time (when, nil: an operator's word) where they bind.
  local function measure(name, rule)
    local m = measured[name]
    if m then return m end
    m = { room = FAR }
    measured[name] = m
    for _, range in ipairs(rule.q or {}) do
      if range[1] <= now and now < range[2] then m.quiet = range[2] end
    end
    local function bound(room, why, count, of, when)
      if room < m.room then m.room, m.why, m.count, m.of, m.when = room, why, count, of, when end
    end
    if rule.n then
      local run = redis.call('HMGET', root .. 'guards', name .. ':sent', name .. ':held', name .. ':go')
      local sent = tonumber(run[1] or '0')
      local ends = rule.w and run[2] and tonumber(run[2]) + rule.w
      if not run[3] and not (ends and sent >= rule.n and ends <= now) then
        bound(math.max(0, rule.n - sent), 'canary', sent, rule.n, ends or nil)
      end
    end
    if rule.h or rule.d then
      local more = allowance_of(name)
      for _, kind in ipairs({ 'h', 'd' }) do
        if rule[kind] then
          local list, used = buckets_of(name, kind)
          local left, ends = used, nil
          for _, each in ipairs(list) do
            if left < rule[kind] then break end
            left = left - each[2]
            ends = (each[1] + 1) * GUARDS[kind].size + GUARDS[kind].span
          end
          bound(math.max(0, rule[kind] - used) + more, kind == 'h' and 'hour' or 'day', used, rule[kind], ends)
        end
      end
    end
    return m
  end

  -- How many recipients a call for this campaign may have now; if none, when it may (nil: nobody knows).
  local function campaign_room(name, rule, rows)
    local m = measure(name, rule)
    if m.quiet then return 0, m.quiet end
    if m.room < 1 then return 0, m.when end
    if not rule.p then return m.room end
    local room, when = pace_room(hour_pace(name, rule), rows)
    return math.min(room, m.room), when
  end

  -- The same for the account. Without rows: a probe or a part of a refused batch, for which only calls count.
  local function account_room(rows)
    local rule = rule_of('*')
    if not rule then return FAR end
    if rule.c then
      local room, when = pace_room(calls_pace(rule), one)
      if room < 1 then return 0, when end
    end
    if rule.r and rows then return pace_room(recipients_pace(rule), rows) end
    return FAR
  end

  -- How many recipients a planned call may have now: less than the view said when another claim was faster.
  local function room_for(names, rows, probing)
    local function planned() return rows end
    local room = account_room(not probing and planned or nil)
    for _, name in ipairs(names) do
      local rule = rule_of(name)
      if rule and probing then
        local m = measure(name, rule)
        if m.quiet or m.room < 1 then room = 0 end
      elseif rule then
        room = math.min(room, (campaign_room(name, rule, planned)))
      end
    end
    return room
  end

  -- Counts a claimed call against all that it has a part in. Without recipients: a part of a refused batch.
  local function charge_rules(names, recipients, batch)
    local account = rule_of('*')
    if account and account.c then charge_pace(calls_pace(account), 1) end
    if not recipients then return end
    if account and account.r then charge_pace(recipients_pace(account), recipients) end
    for _, name in ipairs(names) do
      local rule = rule_of(name)
      if rule and rule.p then charge_pace(hour_pace(name, rule), recipients) end
      if rule and (rule.n or rule.h or rule.d) then redis.call('HSET', root .. 'batch:' .. batch, 'charged', now) end
      if rule and rule.n then
        local guards = root .. 'guards'
        local before = tonumber(redis.call('HGET', guards, name .. ':sent') or '0')
        local sent = redis.call('HINCRBY', guards, name .. ':sent', recipients)
        if before < rule.n and sent >= rule.n then redis.call('HSET', guards, name .. ':held', now) end
        -- Past the canary when its time has come: the rest of the run goes on.
        local since = rule.w and before >= rule.n and tonumber(redis.call('HGET', guards, name .. ':held') or '')
        if since and since + rule.w <= now then redis.call('HSET', guards, name .. ':go', 1) end
      end
      local beyond = 0
      for _, kind in ipairs({ 'h', 'd' }) do
        if rule and rule[kind] then
          local list, used = buckets_of(name, kind)
          local bucket = math.floor(now / GUARDS[kind].size)
          local last = list[#list]
          if last and last[1] >= bucket then last[2] = last[2] + recipients
          else list[#list + 1] = { bucket, recipients } end
          write_buckets(name, kind, list)
          beyond = math.max(beyond, recipients - math.max(0, rule[kind] - used))
        end
      end
      local more = beyond > 0 and allowance_of(name) or 0
      if more > 0 then
        local ends = string.match(redis.call('HGET', root .. 'guards', name .. ':more'), ' (%d+)$')
        redis.call('HSET', root .. 'guards', name .. ':more', math.max(0, more - beyond) .. ' ' .. ends)
        redis.call('HSET', root .. 'batch:' .. batch, 'beyond:' .. name, math.min(more, beyond) .. ' ' .. ends)
      end
    end
  end

  -- Takes `back` deliveries of a campaign that were counted as `charged` says and surely not sent off its counts.
  local function give_back(name, back)
    local guards = root .. 'guards'
    local sent = tonumber(redis.call('HGET', guards, name .. ':sent') or '0')
    if sent > 0 then redis.call('HSET', guards, name .. ':sent', math.max(0, sent - back)) end
    for _, kind in ipairs({ 'h', 'd' }) do
      if redis.call('HEXISTS', guards, name .. ':' .. kind) == 1 then
        local list = buckets_of(name, kind)
        for _, each in ipairs(list) do
          if each[1] == math.floor(charged.at / GUARDS[kind].size) then each[2] = math.max(0, each[2] - back) end
        end
        write_buckets(name, kind, list)
      end
    end
    local taken = charged.beyond[name]
    if not taken then return end
    -- The batch may go on with the others of its deliveries: none of them is given back twice.
    local again = math.min(back, taken[1])
    taken[1] = taken[1] - again
    if redis.call('EXISTS', charged.batch) == 1 then
      redis.call('HSET', charged.batch, 'beyond:' .. name, string.format('%.0f %.0f', taken[1], taken[2]))
    end
    local ends = string.match(redis.call('HGET', guards, name .. ':more') or '', ' (%d+)$')
    ends = math.max(tonumber(ends or '0'), taken[2])
    if again > 0 and ends > now then
      redis.call('HSET', guards, name .. ':more', string.format('%.0f %.0f', allowance_of(name) + again, ends))
    end
  end

  -- Groups at the front of a flow that are looked at for how full they are.
  local FRONT = 16

  -- Rows of a group's lane that were not joined away.
  local function rows_of(gid, flow)
    local rows = redis.call('LLEN', root .. 'lane:' .. gid .. ':' .. flow)
    return rows - tonumber(redis.call('HGET', root .. 'group:' .. gid, 'stale:' .. flow) or '0')
  end

  -- Rows of the fullest lane at the front of a flow.
  local function fullest(priority, flow)
    local name = priority .. ':' .. flow
    if not fullest_memo[name] then
      local most = 1
      for _, gid in ipairs(redis.call('LRANGE', root .. 'flow:' .. name, 0, FRONT - 1)) do
        most = math.max(most, rows_of(gid, flow))
      end
      fullest_memo[name] = most
    end
    return fullest_memo[name]
  end

  -- When a group's lane is to be sent though it may get fuller yet; 0: at once, it is as full as a call may be.
  local function lingers_until(gid, flow, linger)
    if rows_of(gid, flow) >= linger.full then return 0 end
    return tonumber(redis.call('HGET', root .. 'group:' .. gid, 'lane:' .. flow) or '0') + linger.ms
  end

  -- How the groups of a flow wait for fuller batches, or nil: { ms (how long), full (as many rows wait no longer),
  -- first (when the first at the front of the flow has waited enough; not above now: one has) }.
  -- The least patient of the campaigns counts, and urgent work never waits for company.
  local function linger_of(priority, flow, names)
    if priority == 'u' then return nil end
    local account = rule_of('*')
    local linger = { ms = FAR, full = account.f, first = FAR }
    if account.r then linger.full = math.min(linger.full, recipients_pace(account).half) end
    for _, name in ipairs(names) do
      local rule = rule_of(name)
      linger.ms = math.min(linger.ms, rule and rule.l or 0)
      if rule and rule.p then linger.full = math.min(linger.full, hour_pace(name, rule).half) end
      if rule then linger.full = math.min(linger.full, measure(name, rule).room) end
    end
    if linger.ms == 0 then return nil end
    for _, gid in ipairs(redis.call('LRANGE', root .. 'flow:' .. priority .. ':' .. flow, 0, FRONT - 1)) do
      linger.first = math.min(linger.first, lingers_until(gid, flow, linger))
    end
    return linger
  end

  -- Forgets what no guard counts any more.
  local function tidy()
    for _, field in ipairs(redis.call('HKEYS', root .. 'guards')) do
      local name, what = string.match(field, '^(%d+):(.+)$')
      local gone = what == 'more' and allowance_of(name) == 0
      if GUARDS[what] then gone = #buckets_of(name, what) == 0 end
      if what == 'told:hour' or what == 'told:day' then
        gone = now - tonumber(redis.call('HGET', root .. 'guards', field)) > GUARDS.d.span
      end
      if gone then redis.call('HDEL', root .. 'guards', field) end
    end
  end

  return { of = rule_of, tidy = tidy, measure = measure, campaign_room = campaign_room, account_room = account_room,
    room_for = room_for, charge = charge_rules, give_back = give_back, fullest = fullest,
    lingers_until = lingers_until, linger_of = linger_of }
end

local function use_rules(text)
  if text and text ~= '' then rules = make_rules(text) end
end

-- Before a batch is dropped or loses deliveries: what guards and canaries have counted of it (`at`: its field
-- `charged`), so that review_guards() gives back what surely was not sent.
local function recall_charge(batch, at, names)
  if not at then return end
  charged = { at = tonumber(at), batch = root .. 'batch:' .. batch, beyond = {} }
  for _, name in ipairs(names) do
    local count, ends = string.match(redis.call('HGET', charged.batch, 'beyond:' .. name) or '', '^(%d+) (%d+)$')
    if count then charged.beyond[name] = { tonumber(count), tonumber(ends) } end
  end
end

-- By what has moved: gives back what was claimed and not sent, and ends the runs of campaigns that have nothing
-- pending or in flight any more. `moved` is that of _cells.lua, and the counts of the account have it already.
local function review_guards()
  if redis.call('EXISTS', root .. 'guards') == 0 then return end
  -- Statuses of deliveries that a call has had, or may have had.
  local CALLED = { i = true, a = true, x = true, f = true, u = true }
  local give_back = (rules or make_rules('')).give_back
  local flying, called = {}, {}
  for _, of_segment in pairs(moved) do
    for key, by in pairs(of_segment) do
      if key ~= 'live' then
        local name = string.format('%.0f', struct.unpack('>I6', key))
        local status = string.sub(key, 7)
        flying[name] = (flying[name] or 0) + (status == 'i' and by or 0)
        called[name] = (called[name] or 0) + (CALLED[status] and by or 0)
      end
    end
  end
  for name, by in pairs(flying) do
    local back = math.min(0 - by, 0 - called[name])
    if back > 0 and charged then give_back(name, back) end
    if redis.call('HEXISTS', root .. 'guards', name .. ':sent') == 1 then
      local left = redis.call('HMGET', root .. 'counts', name .. ':p', name .. ':i')
      if tonumber(left[1] or '0') + tonumber(left[2] or '0') <= 0 then
        redis.call('HDEL', root .. 'guards', name .. ':sent', name .. ':held', name .. ':go', name .. ':told:canary')
      end
    end
  end
end
