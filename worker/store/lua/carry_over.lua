-- Carries dedupe keys of layout 1 over into the hash `dedupe`: there each was a key of the server's own, `d:<digest>`.
--
-- KEYS  1 root          ARGV  1 'begin', 'go on' or 'end'  2... names of such keys
-- Result to begin: 1 when there is something to carry over; to go on: how many of these keys were still held
--
-- While somebody is at it `schema` says so, which no version reads. Each key is in one place or the other: interrupted
-- anywhere, the next run goes on. Whoever comes late, after a later version perhaps, changes nothing.

local schema = redis.call('GET', root .. 'schema')
if ARGV[1] == 'begin' then
  local before = schema == '1' or schema == '1>2' or not schema and redis.call('EXISTS', root .. 'next') == 1
  if before then redis.call('SET', root .. 'schema', '1>2') end
  return before and 1 or 0
end
if ARGV[1] == 'end' then
  if schema == '1>2' then redis.call('SET', root .. 'schema', LAYOUT) end
  return 0
end

local carried, names, digests = 0, {}, {}
for i = 2, #ARGV do
  names[#names + 1], digests[#digests + 1] = ARGV[i], string.sub(ARGV[i], #root + 3)
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
return carried
