-- Reads new entries of the intake for a consumer, bounded by number and by size, which XREADGROUP alone is not.
--
-- KEYS  1 root  2 intake stream
-- ARGV  1 consumer group  2 consumer  3 entries at most  4 bytes at most, about: the last STEP entries may exceed it
-- Result { 1 where a bound ended it, else 0; then for each entry its id and its trigger (nil: it has none) }
--
-- Run again after a lost reply, it reads the next ones; those of the first reply are taken over when they have been
-- idle for a while, as those of a reader that died.

local STEP = 16

local most, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local read, size, k, full = { 0 }, 0, 1, false
repeat
  local step = math.min(STEP, most)
  local answer = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', step, 'STREAMS', KEYS[2], '>')
  local entries = answer and answer[1][2] or {}
  for i = 1, #entries do
    local fields, trigger = entries[i][2], false
    if fields then -- else it was deleted meanwhile
      for at = 1, #fields, 2 do
        if fields[at] == 'trigger' then trigger = fields[at + 1] end
        size = size + #fields[at + 1]
      end
    end
    read[k + 1], read[k + 2] = entries[i][1], trigger
    k = k + 2
  end
  most = most - #entries
  full = most <= 0 or size >= limit
until full or #entries < step
read[1] = full and 1 or 0
return read
