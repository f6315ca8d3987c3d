-- Appends triggers to the intake stream, once: a producer that lost the reply asks again with the same nonce.
--
-- KEYS  1 root  2 intake stream
-- ARGV  1 nonce  2 how long the nonce is remembered (ms)  3... triggers (JSON)
-- Result the entry ids with commas, the same ones when asked again

local seen = root .. 'nonce:' .. ARGV[1]
local ids = redis.call('GET', seen)
if ids then return ids end
local list = {}
for i = 3, #ARGV do list[#list + 1] = redis.call('XADD', KEYS[2], '*', 'trigger', ARGV[i]) end
ids = table.concat(list, ',')
redis.call('SET', seen, ids, 'PX', ARGV[2])
return ids
