-- What the rules hold back now, of all that waits: for people to see, and to be reported once.
--
-- KEYS  1 root          ARGV  1 rules  2 '1': only what was not reported yet (guards and canaries), which is noted
-- Result JSON [ { campaign, why, until (ms; absent: until an operator says so), count, of }, ... ]
--   why = quiet, canary, hour, day (guards) or pace; count and of: recipients so far and the most there may be
--   (canary and guards)

use_rules(ARGV[1])
local found, seen = {}, {}
for _, priority in ipairs({ 'u', 'n', 'b' }) do
  for _, flow in ipairs(redis.call('ZRANGE', root .. 'ready:' .. priority, 0, -1)) do
    for _, name in ipairs(flow == 'split' and {} or words(flow)) do
      local rule = not seen[name] and rules.of(name)
      seen[name] = true
      local m = rule and rules.measure(name, rule)
      local room, when
      if rule then room, when = rules.campaign_room(name, rule, function() return rules.fullest(priority, flow) end) end
      if rule and room < 1 then
        local each = { campaign = name, ['until'] = when, why = 'pace' }
        if m.quiet then
          each.why = 'quiet'
        elseif m.room < 1 then
          each.why, each.count, each.of = m.why, m.count, m.of
        end
        local told = name .. ':told:' .. each.why
        if ARGV[2] ~= '1' then
          found[#found + 1] = each
        elseif each.of then
          -- A guard whose window slides is reached again and again: that is one event for as long as it spans.
          local last = tonumber(redis.call('HGET', root .. 'guards', told) or '0')
          local span = each.why == 'hour' and 3600000 or each.why == 'day' and 86400000 or FAR
          if last == 0 or now - last > span then
            redis.call('HSET', root .. 'guards', told, string.format('%.0f', now))
            found[#found + 1] = each
          end
        end
      end
    end
  end
end
return #found > 0 and cjson.encode(found) or '[]'
