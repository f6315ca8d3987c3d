-- Takes dedupe keys out whose window is over.
--
-- KEYS  1 root          ARGV  1 keys at most, about
-- Result { keys taken out, 1 when more may be }
--
-- A key that was taken again since its window was over is listed by its new minute too, and left alone here.

local most = tonumber(ARGV[1])
local slot = redis.call('ZRANGEBYSCORE', root .. 'lapse', '-inf', now, 'LIMIT', 0, 1)[1]
if not slot then return { 0, 0 } end
local key, digests = root .. 'lapse:' .. slot, {}
repeat -- each text has the keys of one accepted chunk: one, or hundreds
  local texts, taken = redis.call('LRANGE', key, 0, 9), 0
  while taken < #texts and #digests < most do
    taken = taken + 1
    local text = texts[taken]
    for at = 1, #text, DIGEST do digests[#digests + 1] = string.sub(text, at, at + DIGEST - 1) end
  end
  redis.call('LTRIM', key, taken, -1)
until #texts == 0 or #digests >= most
if redis.call('EXISTS', key) == 0 then redis.call('ZREM', root .. 'lapse', slot) end
local over = {}
for i, value in ipairs(read_keys(digests)) do
  if value and not holder_in(value) then over[#over + 1] = digests[i] end
end
drop_keys(over)
return { #over, 1 }
