-- Appends a dead letter to the intake stream again, as it was, and removes it: one step, so it is in one place.
--
-- KEYS  1 root  2 intake stream  3 dead letter stream          ARGV  1 the dead letter's id
-- Result 1, or 0 when there is none of that id

local item = redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])[1]
if not item then return 0 end
local fields = {}
for i = 1, #item[2], 2 do fields[item[2][i]] = item[2][i + 1] end
redis.call('XADD', KEYS[2], '*', 'trigger', fields['trigger'])
redis.call('XDEL', KEYS[3], ARGV[1])
return 1
