-- Carries dedupe keys of layout 1 over into the hash `dedupe`: there each was a key of the server's own, `d:<digest>`.
--
-- KEYS  1 root          ARGV  names of such keys
-- Result how many were still held
--
-- Each is in one place or the other: interrupted anywhere, the next run goes on.

local carried, names, digests = 0, {}, {}
for _, name in ipairs(ARGV) do
  local digest = string.sub(name, #root + 3)
  if #digest == DIGEST then names[#names + 1], digests[#digests + 1] = name, digest end
end
for i, value in ipairs(read_keys(digests)) do
  local n, left = redis.call('GET', names[i]), redis.call('PTTL', names[i])
  if n and left > 0 and not holder_in(value) then
    local till_text, slot = till(left)
    hold_key(digests[i], packed(tonumber(n)) .. till_text, slot)
    carried = carried + 1
  end
  redis.call('UNLINK', names[i])
end
write_keys()
return carried
