-- Takes back what an operator names and what had been enqueued before: from now on none of it is sent.
--
-- KEYS  1 root  2 intake stream
-- ARGV  names: t:<entry>, p:<producer's id>, c:<campaign> or * (see _holds.lua)
-- Result the order, "entry batch since": the last entry enqueued before, the last batch claimed before, now
--
-- Ending the deliveries takes longer than one script may: cancel_done.lua says when it is complete.

local last, info = '0-0', redis.pcall('XINFO', 'STREAM', KEYS[2])
if not info.err then
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local order = last .. ' ' .. (redis.call('HGET', root .. 'next', 'batch') or '0') .. ' ' .. string.format('%.0f', now)
for _, name in ipairs(ARGV) do redis.call('HSET', root .. 'cancels', name, order) end
return order
