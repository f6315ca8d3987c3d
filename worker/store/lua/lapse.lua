-- Takes dedupe keys out whose window is over.
--
-- KEYS  1 root          ARGV  1 keys at most, about
-- Result { keys taken out, 1 when more may be }
--
-- A key that was taken again since its window was over is listed by its new minute too, and left alone here.

local gone, seen = 0, 0
local slot = redis.call('ZRANGEBYSCORE', root .. 'lapse', '-inf', now, 'LIMIT', 0, 1)[1]
if not slot then return { 0, 0 } end
repeat
  local text = redis.call('LPOP', root .. 'lapse:' .. slot)
  if text then
    local digests, over = {}, {}
    for at = 1, #text, DIGEST do digests[#digests + 1] = string.sub(text, at, at + DIGEST - 1) end
    for i, value in ipairs(read_keys(digests)) do
      if value and not holder_in(value) then over[#over + 1] = digests[i] end
    end
    drop_keys(over)
    gone, seen = gone + #over, seen + #digests
  else
    redis.call('ZREM', root .. 'lapse', slot)
  end
until not text or seen >= tonumber(ARGV[1])
return { gone, 1 }
