-- Gives a permit back, unless there is work that it could serve: one step, so no work is left without a hint.
--
-- KEYS  1 root          ARGV  1 token  2 '1' to give it back in any case
-- Result 1 when work is waiting (without '1' the permit is kept), else 0

local waiting = 0
if redis.call('SISMEMBER', root .. 'paused', '*') == 0 then
  for _, priority in ipairs({ 'u', 'n', 'b' }) do
    for _, flow in ipairs(redis.call('ZRANGE', root .. 'ready:' .. priority, 0, -1)) do
      for _, campaign in ipairs(words(flow)) do
        if redis.call('SISMEMBER', root .. 'paused', campaign) == 0 then waiting = 1 end
      end
      if waiting == 1 then break end
    end
    if waiting == 1 then break end
  end
end
if waiting == 0 or ARGV[2] == '1' then redis.call('ZREM', root .. 'permits', ARGV[1]) end
return waiting
