-- Carries dedupe keys of layout 1 over into the hash `dedupe`: there each was a key of the server's own, `d:<digest>`.
--
-- KEYS  1 root          ARGV  1 the number to note when all is done, or ''  2... names of such keys
-- Result how many were still held
--
-- Each is in one place or the other: interrupted anywhere, the next run goes on. The number is noted only while
-- somebody is at it: who wakes after a later version has come notes nothing.

local carried, names, digests = 0, {}, {}
for i = 2, #ARGV do
  local digest = string.sub(ARGV[i], #root + 3)
  if #digest == DIGEST then names[#names + 1], digests[#digests + 1] = ARGV[i], digest end
end
for i, value in ipairs(read_keys(digests)) do
  local n, left = redis.call('GET', names[i]), redis.call('PTTL', names[i])
  if n and left > 0 and not holder_in(value) then
    local till_text, slot = till(left)
    hold_key(digests[i], packed(tonumber(n)) .. till_text, slot)
    carried = carried + 1
  end
end
write_keys()
in_pieces(names, function(...) redis.call('UNLINK', ...) end)
if ARGV[1] ~= '' and string.find(redis.call('GET', root .. 'schema') or '', '>', 1, true) then
  redis.call('SET', root .. 'schema', ARGV[1])
end
return carried
