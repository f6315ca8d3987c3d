-- Gives a permit back, unless there is work that it could serve: one step, so no work is left without a hint.
--
-- KEYS  1 root
-- ARGV  1 token  2 '1' to give it back in any case  3 permits that the account has  4 permits kept free of bulk
--       5 aging (ms)  6 rules  7 longest wait that somebody stays for (ms)  8 longest nap (ms)
-- Result { 1 when work is waiting (without '1' the permit is kept), else 0;
--          ms to nap before looking again, or 0: somebody else stays, or nothing comes of itself within ARGV[7] }
--
-- When work waits for time alone and not for long, one of those who find nothing to do stays and looks again:
-- `nap` says until when somebody does. Without a permit, so whoever else comes has it; and in short naps, so what
-- an operator changes is seen.

use_rules(ARGV[6])
local waiting = next_work(tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
if not waiting or ARGV[2] == '1' then redis.call('ZREM', root .. 'permits', ARGV[1]) end
if waiting then return { 1, 0 } end
if not soonest or soonest - now > tonumber(ARGV[7]) then return { 0, 0 } end
local nap = math.max(1, math.min(soonest - now, tonumber(ARGV[8])))
if ARGV[2] ~= '1' then
  local ends = tonumber(redis.call('GET', root .. 'nap') or '0')
  if ends > now and ends <= soonest + 10 then return { 0, 0 } end
  redis.call('SET', root .. 'nap', string.format('%.0f', now + nap), 'PX', nap + 1)
end
return { 0, nap }
