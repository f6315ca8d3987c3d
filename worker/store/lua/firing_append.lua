-- Appends the next trigger of a firing to the intake: taking it out of what was read and appending it is one step.
--
-- KEYS  1 root  2 intake stream
-- ARGV  1 name  2 token  3 length of the lease (ms)  4 entries of the intake that it waits behind
--       5 how long what it has still to append is kept when nobody touches it any more (ms)
-- Result 'appended', 'full' (too much waits in the intake), 'all' (nothing is left), 'gone' (something was, but not in
--        Redis any more), 'paused', or 'lost' (the firing is no longer the token's)
--
-- Run again, as after a lost reply, it appends the one behind it: none is appended twice, none is left out.

local name = ARGV[1]
local firing, staged = root .. 'firing:' .. name, root .. 'staged:' .. name
local held = redis.call('HMGET', firing, 'token', 'state', 'slot', 'rest', 'appended', 'triggers')
if held[1] ~= ARGV[2] or held[2] ~= 'appending' then return 'lost' end
if redis.call('HEXISTS', root .. 'send:' .. name, 'paused') == 1 then return 'paused' end
redis.call('ZADD', root .. 'firings', now + tonumber(ARGV[3]), name)
redis.call('PEXPIRE', staged, ARGV[5])
if redis.call('LLEN', staged) == 0 then
  return tonumber(held[5] or '0') < tonumber(held[6] or '0') and 'gone' or 'all'
end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[4]) then return 'full' end
local item = redis.call('LPOP', staged)
local space = string.find(item, ' ', 1, true)
local number = redis.call('HINCRBY', firing, 'appended', 1)
redis.call('HINCRBY', firing, 'sent', string.sub(item, 1, space - 1))
redis.call('XADD', KEYS[2], '*', 'trigger', '{"to":' .. string.sub(item, space + 1) .. ',"id":"' .. name .. '@'
  .. held[3] .. '#' .. number .. '",' .. held[4] .. '}')
return 'appended'
