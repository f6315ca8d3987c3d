-- The admin command retry: deliveries that ended without an acceptance become pending again; scheduled again, where
-- their send_at is still ahead.
--
-- KEYS  1 root
-- ARGV  1 letters of the states it may take  2 retention (ms)
--       3... { delivery, gid, dedupe digest or '', window (ms) } quadruples
-- Result { taken, moved on meanwhile, key held by another delivery, content gone }
--
-- One that may have been sent keeps that reason: whatever comes of the second send, it never ends as not sent.
-- Run twice, the second time finds them pending and takes none. A key that was freed is taken again first, so
-- that a later delivery of the same key, which has it now, is not joined by a second send.

local allowed, retention = ARGV[1], tonumber(ARGV[2])
local taken, moved_on, held, gone = 0, 0, 0, 0
local pending = head('p', 18, 0, 0)
local unsure, taken_here = {}, {}
for reason in pairs(MAYBE_SENT) do unsure[reason] = head('p', reason, 0, 0) end
for i = 3, #ARGV, 4 do
  local n, gid, digest, window = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local old = read_cells({ n })
  if old[1] == '' or not string.find(allowed, status_of(old[1]), 1, true) then
    moved_on = moved_on + 1
  elseif redis.call('HEXISTS', root .. 'group:' .. gid, 'content') == 0 then
    gone = gone + 1
  else
    local keyed = digest ~= '' and window > 0
    local holder = keyed and (taken_here[digest] or holder_in(read_keys({ digest })[1]))
    if holder and holder ~= n then
      held = held + 1
    else
      if keyed and not holder then
        taken_here[digest] = n
        local till_text, slot = till(window)
        hold_key(digest, packed(n) .. till_text, slot)
      end
      local cell = (unsure[reason_of(old[1])] or pending) .. '\0' .. string.sub(old[1], HEAD + 2)
      local first = struct.unpack('>I5', string.sub(old[1], 22, 26)) + EPOCH
      local asleep = attempts_of(old[1]) == 0 and first > now
      if asleep then cell = 's' .. string.sub(cell, 2) end
      write_cells({ n }, gid, old, { cell })
      if asleep then sleep_rows(gid, campaign_of(old[1]), { row_of({ n }) }, first)
      else file(gid, campaign_of(old[1]), { row_of({ n }) }) end
      taken = taken + 1
    end
  end
end
write_keys()
flush(retention)
return { taken, moved_on, held, gone }
