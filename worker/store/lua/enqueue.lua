-- Appends triggers to the intake stream, each append once: a producer that lost the reply asks again with its nonce.
--
-- KEYS  1 root  2 intake stream
-- ARGV  1 how long a nonce is remembered (ms)
--       2 entries of the intake  3 bytes of the intake  4 live deliveries  5 share of maxmemory: the bounds from
--       which on nothing is appended; 0: no such bound
--       then for each append { nonce, fingerprint or '', m } and its m triggers (JSON)
-- Result an item for each append: its entry ids with commas, the same ones when asked again; or { bound, value,
--        most } when the bound of that name is reached; or 'OTHER' when the nonce was used with another fingerprint
--
-- An append goes in whole or not at all, and one that finds room goes in however long it is: a bound may be
-- passed by one append, but no append is too long to be ever taken.

local most = { entries = tonumber(ARGV[2]), bytes = tonumber(ARGV[3]), live = tonumber(ARGV[4]) }
local share = tonumber(ARGV[5])
local entries, bytes, live, used, usable

local function reached()
  if not entries then
    entries = redis.call('XLEN', KEYS[2])
    bytes = most.bytes > 0 and entries > 0 and asked('MEMORY', 'USAGE', KEYS[2], 'SAMPLES', 5) or 0
    live = tonumber(redis.call('GET', root .. 'live') or '0')
    used, usable = memory_bound(share)
  end
  if most.entries > 0 and entries >= most.entries then return 'intake', entries, most.entries end
  if most.bytes > 0 and bytes >= most.bytes then return 'intake_bytes', bytes, most.bytes end
  if most.live > 0 and live >= most.live then return 'backlog', live, most.live end
  if used and used >= usable then return 'memory', used, usable end
end

local results, at = {}, 6
while at <= #ARGV do
  local seen, fingerprint, m = root .. 'nonce:' .. ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local known = redis.call('GET', seen)
  if known then
    local of, ids = string.match(known, '^(%S+) (.*)$')
    results[#results + 1] = (of or '') == fingerprint and (ids or known) or 'OTHER'
  else
    local bound, value, limit = reached()
    if bound then
      results[#results + 1] = { bound, string.format('%.0f', value), string.format('%.0f', limit) }
    else
      local list = {}
      for i = at + 3, at + 2 + m do
        list[#list + 1] = redis.call('XADD', KEYS[2], '*', 'trigger', ARGV[i])
        entries, bytes = entries + 1, bytes + #ARGV[i]
      end
      local ids = table.concat(list, ',')
      redis.call('SET', seen, fingerprint == '' and ids or fingerprint .. ' ' .. ids, 'PX', ARGV[1])
      results[#results + 1] = ids
    end
  end
  at = at + 3 + m
end
return results
