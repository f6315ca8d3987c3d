-- What a call has taught about the door itself: how many permits to use, and whether to call at all.
--
-- KEYS  1 root
-- ARGV  1 permits that the account has  2 when the call began (ms)  3 what it probed ('' for nothing)
--       4 'nothing' (no call was made), 'fine', 'throttled', 'trouble' or 'parked'
--       5 names ('*' or campaigns with commas): parked, or known to be fine
--       6 reason  7 http code  8 vendor's text  9 pauses (ms, with commas: the first, the second, ... the last)
--       10 failures in a row that park the account  11 hold until then at least (ms from now, 0: none)
--       12 '1' when deliveries of a parked campaign end without a call
-- Result names that are parked now and were not before, or for another reason that a person has to mend, with
--        commas
--
-- Permits: each 429 halves them (rounded up) unless the call began before the last cut; RAISE_AFTER calls that
-- went well add one. If that was too many, the next rise takes twice as many calls, up to RAISE_AT_MOST: one
-- call in 80 is what it costs to see that the slots are free again. Behind a rise that holds, RAISE_AFTER again.

local RAISE_AFTER, RAISE_AT_MOST = 20, 80
local most, began, probe, kind = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local door = root .. 'door'
local fresh = {}

if probe ~= '' then redis.call('HDEL', root .. 'probes', probe) end

local function park(name, drop)
  local before = redis.call('HGET', root .. 'parked', name)
  local tries, since = 1, now
  if before then
    before = cjson.decode(before)
    -- An answer to a call from before the park teaches nothing new.
    if began < before.at and probe ~= name then return end
    since = before.since
    -- An outage that turns out to be another refusal begins its pauses anew, and somebody has to hear of it.
    if before.kind == kind then tries = before.tries + 1 end
    if kind == 'parked' and before.reason ~= tonumber(ARGV[6]) then fresh[#fresh + 1] = name end
  else
    fresh[#fresh + 1] = name
  end
  local pauses = words(ARGV[9])
  redis.call('HSET', root .. 'parked', name, cjson.encode({ reason = tonumber(ARGV[6]), http = tonumber(ARGV[7]),
    text = ARGV[8], since = since, at = now, tries = tries, drop = drop, kind = kind,
    ['until'] = now + tonumber(pauses[math.min(tries, #pauses)]) }))
end

local function unpark(name)
  local before = redis.call('HGET', root .. 'parked', name)
  if before and (probe == name or began >= cjson.decode(before).at) then
    redis.call('HDEL', root .. 'parked', name)
  end
end

-- No call for so many milliseconds; a longer hold stays.
local function hold_for(ms)
  local hold = tonumber(redis.call('HGET', door, 'hold') or '0')
  redis.call('HSET', door, 'hold', math.max(hold, now + ms))
end

if kind == 'throttled' then
  local limit = tonumber(redis.call('HGET', door, 'limit') or most)
  local cut = tonumber(redis.call('HGET', door, 'cut') or '0')
  if began >= cut then
    local need = tonumber(redis.call('HGET', door, 'need') or RAISE_AFTER)
    if redis.call('HEXISTS', door, 'raised') == 1 then need = math.min(need * 2, RAISE_AT_MOST) end
    if limit == 1 then
      -- Not even one call gets in: wait longer each time.
      local streak = redis.call('HINCRBY', door, 'streak', 1)
      hold_for(math.min(15000, 250 * 2 ^ math.min(streak, 10)))
    end
    redis.call('HSET', door, 'limit', math.max(1, math.ceil(limit / 2)), 'cut', now, 'well', 0, 'need', need)
    redis.call('HDEL', door, 'raised')
  end
  if tonumber(ARGV[11]) > 0 then hold_for(tonumber(ARGV[11])) end
elseif kind == 'trouble' then
  local failures = redis.call('HINCRBY', door, 'failures', 1)
  if failures >= tonumber(ARGV[10]) or redis.call('HEXISTS', root .. 'parked', '*') == 1 then park('*', false) end
elseif kind == 'parked' then
  for _, name in ipairs(words(ARGV[5])) do park(name, ARGV[12] == '1' and name ~= '*') end
end

if kind == 'fine' or kind == 'parked' and ARGV[5] ~= '*' then
  redis.call('HDEL', door, 'failures', 'streak')
  unpark('*')
  if kind == 'fine' then
    for _, name in ipairs(words(ARGV[5])) do unpark(name) end
    local limit = redis.call('HGET', door, 'limit')
    if limit and tonumber(limit) < most and began >= tonumber(redis.call('HGET', door, 'cut') or '0') then
      local well = redis.call('HINCRBY', door, 'well', 1)
      local need = tonumber(redis.call('HGET', door, 'need') or RAISE_AFTER)
      if redis.call('HEXISTS', door, 'raised') == 1 then need = RAISE_AFTER end
      if well >= need then
        redis.call('HSET', door, 'limit', tonumber(limit) + 1, 'well', 0, 'raised', 1, 'cut', now, 'need', need)
      end
    elseif limit and tonumber(limit) >= most then
      -- All permits are in use again, and calls go well: as usual.
      if redis.call('HINCRBY', door, 'well', 1) >= RAISE_AFTER then redis.call('DEL', door) end
    elseif not limit then
      redis.call('DEL', door)
    end
  end
end
-- A probe that was answered, but not so that it frees or parks: the next one waits its pause all the same.
local left = probe ~= '' and kind ~= 'nothing' and redis.call('HGET', root .. 'parked', probe)
if left then
  left = cjson.decode(left)
  if left['until'] <= now then
    local pauses = words(ARGV[9])
    left.tries = left.tries + 1
    left['until'] = now + tonumber(pauses[math.min(left.tries, #pauses)])
    redis.call('HSET', root .. 'parked', probe, cjson.encode(left))
  end
end
return table.concat(fresh, ',')
